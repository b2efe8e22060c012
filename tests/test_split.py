"""Splits and folds by patient."""

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pneumoscope.dataset.split import LabelledFilm, cut_patients, deal_patients
from pneumoscope.errors import DatasetError

FILMS = st.lists(
    st.builds(LabelledFilm, label=st.sampled_from("abc"), patient=st.integers(0, 30).map(str)), min_size=1, max_size=150
)


def patients_of(films: list[LabelledFilm]) -> dict[str, set[str]]:
    held: defaultdict[str, set[str]] = defaultdict(set)
    for film in films:
        held[film.label].add(film.patient)
    return held


@given(films=FILMS, folds=st.integers(2, 5), seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_every_patient_has_one_fold_whatever_the_order_of_films(
    films: list[LabelledFilm], folds: int, seed: int, order: random.Random
) -> None:
    if any(len(patients) < folds for patients in patients_of(films).values()):
        with pytest.raises(DatasetError, match=f"too few for {folds} folds"):
            deal_patients(films, folds=folds, seed=seed)
        return
    dealt = deal_patients(films, folds=folds, seed=seed)
    assert len(dealt) == len(films)
    assert set(dealt) <= set(range(folds))
    fold = dict(zip([film.patient for film in films], dealt, strict=True))
    assert [fold[film.patient] for film in films] == dealt
    shuffled = order.sample(films, len(films))
    assert deal_patients(shuffled, folds=folds, seed=seed) == [fold[film.patient] for film in shuffled]


def test_a_tie_does_not_depend_on_the_order_of_films() -> None:
    """Found by chance: here sums of the same numbers in a different order differ in the last digit."""
    names = (
        "a0 a1 b0 c1 c7 b2 b3 a0 a3 b7 a2 c1 b0 c6 a3 c5 a5 c5 c3 a7 c3 c5 b7 b7 c0 c3 c5 b4 b5 c0 b6 c2 c7 a5 a0 c2"
    )
    films = [LabelledFilm(label=name[0], patient=name[1]) for name in [*names.split(), "a0", "b3"]]
    fold = dict(zip([film.patient for film in films], deal_patients(films, folds=3, seed=0), strict=True))
    order = random.Random(0)
    for _ in range(50):
        shuffled = order.sample(films, len(films))
        assert deal_patients(shuffled, folds=3, seed=0) == [fold[film.patient] for film in shuffled]


@given(
    counts=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), min_size=15, max_size=60),
    folds=st.integers(2, 4),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_folds_have_about_equally_many_films_of_a_class(counts: list[tuple[str, int]], folds: int, seed: int) -> None:
    """With patients of one class each, folds differ by at most one patient's films."""
    films = [
        LabelledFilm(label=label, patient=str(patient))
        for patient, (label, count) in enumerate(counts)
        for _ in range(count)
    ]
    assume(all(len(patients) >= folds for patients in patients_of(films).values()))
    dealt = deal_patients(films, folds=folds, seed=seed)
    for label in patients_of(films):
        largest = max(count for each, count in counts if each == label)
        found = Counter(fold for fold, film in zip(dealt, films, strict=True) if film.label == label)
        assert max(found.values()) - min(found[fold] for fold in range(folds)) <= largest


def test_another_seed_gives_other_folds() -> None:
    films = [LabelledFilm(label=label, patient=f"{label}{number}") for label in "ab" for number in range(12)]
    dealt = [deal_patients(films, folds=3, seed=seed) for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1] != dealt[2]
    assert Counter(dealt[2]) == {0: 8, 1: 8, 2: 8}


def test_a_class_with_too_few_patients_is_named() -> None:
    films = [LabelledFilm(label="a", patient=str(number)) for number in range(9)]
    films += [LabelledFilm(label="b", patient=str(number % 2)) for number in range(9)]
    with pytest.raises(DatasetError, match=r"class 'b' has 2 patients, too few for 3 folds; choose fewer folds\."):
        deal_patients(films, folds=3, seed=0)
    deal_patients(films, folds=2, seed=0)


LABELLED = st.lists(
    st.builds(LabelledFilm, label=st.sampled_from("ab"), patient=st.integers(0, 25).map(str)), min_size=1, max_size=120
)


@given(films=LABELLED, fraction=st.floats(0.05, 0.6), seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_split_is_by_patient_near_the_fraction_and_independent_of_order(
    films: list[LabelledFilm], fraction: float, seed: int
) -> None:
    patients: defaultdict[str, set[str]] = defaultdict(set)
    for each in films:
        patients[each.label].add(each.patient)
    if any(len(holders) < 2 for holders in patients.values()):
        with pytest.raises(DatasetError, match="has too few patients"):
            cut_patients(films, fraction=fraction, seed=seed)
        return
    try:
        chosen = cut_patients(films, fraction=fraction, seed=seed)
    except DatasetError as failure:
        assume("cannot be on both sides" not in str(failure))
        raise
    assert chosen == cut_patients(films[::-1], fraction=fraction, seed=seed)
    sizes = Counter(each.patient for each in films)
    for label, holders in patients.items():
        assert chosen & holders, label
        assert holders - chosen, label
        taken = sum(each.label == label and each.patient in chosen for each in films)
        wanted = fraction * sum(each.label == label for each in films)
        assert abs(taken - wanted) <= 2 * max(sizes.values()) + 1


def test_an_impossible_split_is_an_error() -> None:
    tied = [LabelledFilm(label=label, patient=patient) for label in "ab" for patient in ("1", "2")]
    chosen = cut_patients(tied, fraction=0.3, seed=0)
    assert len(chosen) == 1
    chain = [
        ("a", "1"),
        ("a", "2"),
        ("b", "2"),
        ("b", "3"),
        ("c", "3"),
        ("c", "1"),
    ]  # each pair of classes shares a patient
    with pytest.raises(DatasetError, match="cannot be on both sides"):
        cut_patients([LabelledFilm(label=label, patient=patient) for label, patient in chain], fraction=0.3, seed=0)
