"""Splits and folds by patient: all films of a patient are on the same side."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pneumoscope.errors import DatasetError

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class LabelledFilm:
    """The facts about a film that splitting needs: its class and its patient."""

    label: str
    patient: str


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by key, in order of each key's first item; `itertools.groupby` needs sorted items."""
    groups: defaultdict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def join(links: Iterable[Sequence[str]]) -> dict[str, str]:
    """The group of each key (union-find), from lists of keys that belong together. A group's name is its smallest key.

    >>> join([["b", "x"], ["a", "x"], ["c"]])
    {'b': 'a', 'x': 'a', 'a': 'a', 'c': 'c'}
    """
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while (parent := leader[key]) != key:
            leader[key] = leader[parent]  # path halving
            key = leader[key]
        return key

    for keys in links:
        for key in keys:
            leader.setdefault(key, key)
            # The smaller key leads, so that a group's name does not depend on the order of the links.
            one, other = sorted((find(keys[0]), find(key)))
            leader[other] = one
    return {key: find(key) for key in leader}


def cut_patients(films: Sequence[LabelledFilm], *, fraction: float, seed: int) -> set[str]:
    """Choose patients with about `fraction` of the films of every class.

    Patients are visited in an order given by a hash of `seed` and their name, so the choice depends neither on the
    order of `films` nor on the version of a random generator. A patient is chosen if that brings the counts nearer to
    their targets. Every class has at least one patient among the chosen and among the others.

    Raises:
        DatasetError: a class has only one patient, or cannot be on both sides.
    """
    patients = _by_patient(films, seed)
    totals = Counter(film.label for film in films)
    _require_two_patients(patients, totals)
    targets = {label: fraction * total for label, total in totals.items()}
    chosen: set[str] = set()
    reached: Counter[str] = Counter()
    for patient, counts in patients.items():
        # A patient that brings the counts no nearer to their targets is not chosen.
        if _gain(counts, reached, targets) > 0:
            chosen.add(patient)
            reached += counts
    return _on_both_sides(chosen, patients, totals)


def deal_patients(films: Sequence[LabelledFilm], *, folds: int, seed: int) -> list[int]:
    """Assign every film to one of `folds` folds by patient, with about equal numbers of every class in each.

    Patients are visited in order of their number of films, most first, then of a hash of `seed` and their name. Each
    goes to the fold where it brings the counts nearest to their targets.

    Returns:
        The fold of every film, from 0.

    Raises:
        DatasetError: a class has fewer patients than folds.
    """
    patients = _by_patient(films, seed)
    totals = Counter(film.label for film in films)
    for label in sorted(totals):
        if (count := sum(1 for counts in patients.values() if counts[label])) < folds:
            raise DatasetError(f"class {label!r} has {count} patients, too few for {folds} folds; choose fewer folds.")
    targets = {label: total / folds for label, total in totals.items()}
    reached = [Counter[str]() for _ in range(folds)]
    dealt = {}
    # Patients with many films first: placed last, they would unbalance folds that are already full.
    for patient, counts in sorted(patients.items(), key=lambda item: -item[1].total()):
        gains = [_gain(counts, each, targets) for each in reached]
        dealt[patient] = gains.index(max(gains))
        reached[dealt[patient]] += counts
    return [dealt[film.patient] for film in films]


def _by_patient(films: Sequence[LabelledFilm], seed: int) -> dict[str, Counter[str]]:
    """The number of films of every label that each patient has, in an order given by a hash of `seed` and the name."""
    patients: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for film in films:
        patients[film.patient][film.label] += 1
    return dict(sorted(patients.items(), key=lambda item: hashlib.sha256(f"{seed}:{item[0]}".encode()).digest()))


def _gain(films: Counter[str], reached: Counter[str], targets: dict[str, float]) -> float:
    """The decrease of the squared distance to the targets if these films are added.

    Labels are summed in sorted order: the last digit of a sum of floats depends on the order, and may decide a tie.
    """
    return sum(
        (targets[label] - reached[label]) ** 2 - (targets[label] - reached[label] - count) ** 2
        for label, count in sorted(films.items())
    )


def _on_both_sides(chosen: set[str], patients: dict[str, Counter[str]], totals: Counter[str]) -> set[str]:
    """The chosen patients, changed so that every class is on both sides.

    If a class is on one side only, one of its patients is moved: of those whose move does not put another class on one
    side only, the one with the fewest films.
    """
    smallest = sorted(patients, key=lambda patient: patients[patient].total())
    holders = {label: [patient for patient in smallest if patients[patient][label]] for label in totals}

    def on_both(label: str, taken: set[str]) -> bool:
        return 0 < len(taken.intersection(holders[label])) < len(holders[label])

    for label in sorted(totals):
        for patient in [] if on_both(label, chosen) else holders[label]:
            moved = chosen ^ {patient}
            if all(on_both(each, moved) or not on_both(each, chosen) for each in patients[patient] if each != label):
                chosen = moved
                break
    if stuck := [label for label in sorted(totals) if not on_both(label, chosen)]:
        raise DatasetError(
            f"class {stuck[0]!r} cannot be on both sides of a split by patient; add patients of this class."
        )
    return chosen


def _require_two_patients(patients: dict[str, Counter[str]], totals: Counter[str]) -> None:
    for label in sorted(totals):
        if sum(1 for counts in patients.values() if counts[label]) < 2:
            raise DatasetError(
                f"class {label!r} has too few patients; train, val and test each need at least one, and patients of "
                "nearly identical films count as one. Add films, name patients with --patient-pattern, or pass "
                "--ignore-patient-ids if the Patient IDs of the DICOMs are of no use."
            )
