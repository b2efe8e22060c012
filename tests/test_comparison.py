"""Comparisons of two models, against scipy and against the definitions."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pneumoscope import metrics
from predictions import sample

SEEDS = st.integers(0, 10_000)
CLASSES = ("bacteria", "normal", "virus")
GROUPS: dict[str, tuple[str, ...]] = {"pneumonia": ("bacteria", "virus")}


@given(first=st.integers(0, 80), second=st.integers(0, 80))
@settings(deadline=None)
def test_mcnemar_agrees_with_scipys_binomial(first: int, second: int) -> None:
    one = np.array([True] * first + [False] * second + [True, False])
    other = np.array([False] * first + [True] * second + [True, False])
    found = metrics.mcnemar(one, other)
    assert found[:2] == (first, second)
    if first + second == 0:
        assert (found.exact, found.mid_p) == (1, 1)
        return
    assert found.exact == pytest.approx(stats.binomtest(first, first + second).pvalue, abs=1e-9)
    point = stats.binom.pmf(first, first + second, 0.5)
    mid = 1 - point / 2 if first == second else found.exact - point
    assert found.mid_p == pytest.approx(mid, abs=1e-9)


def test_mcnemar_of_many_films_neither_overflows_nor_loses_digits() -> None:
    one, other = np.repeat([True, False], [3000, 2800]), np.repeat([False, True], [3000, 2800])
    found = metrics.mcnemar(one, other)
    assert found.exact == pytest.approx(stats.binomtest(3000, 5800).pvalue, rel=1e-9)
    assert 0 < found.mid_p < found.exact
    assert 0 < metrics.mcnemar(np.ones(2000, bool), np.arange(2000) < 1000).exact < 1e-300
    with pytest.raises(ValueError, match="must be equal"):
        metrics.mcnemar(one, other[1:])


def wins(above: float, below: float) -> float:
    return 1.0 if above > below else 0.5 if above == below else 0.0


def plain_delong(
    positive: metrics.Flags, first: metrics.Floats, second: metrics.Floats, groups: list[int]
) -> tuple[float, float, float]:
    """Areas and the variance of their difference by the definition, one pair of films after another.

    DeLong et al. 1988, and Obuchowski 1997 with groups of films.
    """
    films, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    areas, tens, ones = [], [], []  # the papers' V10 and V01
    for scores in (first, second):
        pairs = [[wins(scores[film], scores[other]) for other in others] for film in films]
        areas.append(sum(map(sum, pairs)) / (len(films) * len(others)))
        tens.append([sum(row) / len(others) for row in pairs])
        ones.append([sum(row[at] for row in pairs) / len(films) for at in range(len(others))])
    matrix = np.zeros((2, 2))
    names = sorted(set(groups))
    of_ten, of_one = {groups[film] for film in films}, {groups[other] for other in others}
    for r in range(2):
        for s in range(2):
            sums = {name: [[0.0, 0.0], [0.0, 0.0]] for name in names}
            for place, which in enumerate((r, s)):
                for at, film in enumerate(films):
                    sums[groups[film]][0][place] += tens[which][at] - areas[which]
                for at, other in enumerate(others):
                    sums[groups[other]][1][place] += ones[which][at] - areas[which]
            i10, i01, every = len(of_ten), len(of_one), len(names)
            s10 = i10 / ((i10 - 1) * len(films)) * sum(each[0][0] * each[0][1] for each in sums.values())
            s01 = i01 / ((i01 - 1) * len(others)) * sum(each[1][0] * each[1][1] for each in sums.values())
            s11 = every / (every - 1) * sum(each[0][0] * each[1][1] for each in sums.values())
            matrix[r, s] += s10 / len(films) + s01 / len(others) + s11 / (len(films) * len(others))
            matrix[s, r] += s11 / (len(films) * len(others))
    return areas[0], areas[1], matrix[0, 0] + matrix[1, 1] - matrix[0, 1] - matrix[1, 0]


@given(seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_delong_agrees_with_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(6, 30))
    positive = np.concatenate([[True, True, False, False], random.random(count) < 0.4])
    first = np.round(random.normal(size=len(positive)) + positive, 1)
    second = np.round(first / 2 + random.normal(size=len(positive)), 1)
    alone = list(range(len(positive)))
    found = metrics.delong(positive, first, second)
    one, two, variance = plain_delong(positive, first, second, alone)
    np.testing.assert_allclose(found[:3], [one, two, one - two], rtol=0, atol=1e-9)
    assert found.standard_error**2 == pytest.approx(variance, abs=1e-9)
    tens, ones = [], []
    for scores in (first, second):  # DeLong's own formula, which has no groups
        pairs = np.array([[wins(a, b) for b in scores[~positive]] for a in scores[positive]])
        tens.append(pairs.mean(axis=1))
        ones.append(pairs.mean(axis=0))
    matrix = np.cov(tens) / positive.sum() + np.cov(ones) / (~positive).sum()
    np.testing.assert_allclose(variance, [1, -1] @ matrix @ [1, -1], rtol=0, atol=1e-9)
    if found.standard_error > 1e-9:
        assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.value) / found.standard_error), abs=1e-9)
        half = stats.norm.ppf(0.975) * found.standard_error
        assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=1e-9)
    groups = random.integers(0, 8, len(positive))
    groups[:4] = [0, 1, 2, 3]
    clustered = metrics.delong(positive, first, second, [f"p{number}" for number in groups])
    _, _, variance = plain_delong(positive, first, second, groups.tolist())
    assert clustered.standard_error**2 == pytest.approx(max(variance, 0), abs=1e-9)
    assert clustered.value == found.value


def test_repeated_films_narrow_delongs_interval_unless_patients_are_given() -> None:
    random = np.random.default_rng(0)
    positive = random.random(200) < 0.5
    first, second = (random.normal(size=200) + positive for _ in range(2))
    once = metrics.delong(positive, first, second)
    twice = np.repeat(positive, 2), np.repeat(first, 2), np.repeat(second, 2)
    assert metrics.delong(*twice).standard_error == pytest.approx(once.standard_error / math.sqrt(2), rel=0.01)
    patients = [str(film // 2) for film in range(400)]
    assert metrics.delong(*twice, patients).standard_error == pytest.approx(once.standard_error, rel=1e-9)


def test_an_undefined_delong_test_is_nan() -> None:
    scores = np.array([0.1, 0.4, 0.3, 0.8])
    positive = np.array([False, False, True, True])
    assert np.isnan(metrics.delong(np.ones(4, bool), scores, scores)).all()
    same = metrics.delong(positive, scores, scores)
    assert same[:4] == (1 - 1 / 4, 1 - 1 / 4, 0, 0)
    assert math.isnan(same.p)
    one = metrics.delong(positive, scores, -scores, ["a", "a", "b", "c"])  # the negatives are one patient's
    assert one.value == 0.5
    assert np.isnan(one[3:]).all()
    with pytest.raises(ValueError, match="as many scores and patients as films, 4"):
        metrics.delong(positive, scores, scores, ["a"])


def compare_both(
    truth: metrics.Indices, first: metrics.Floats, second: metrics.Floats, resamples: int = 500
) -> dict[str, metrics.Difference]:
    patients = [str(film // 2) for film in range(len(truth))]
    options: dict[str, Any] = {"classes": CLASSES, "groups": GROUPS, "resamples": resamples}
    return metrics.compare_predictions(truth, first, second, patients, priors=("uniform", "train"), **options)


def test_differences_are_those_of_the_two_summaries() -> None:
    truth, first = sample(3, films=80)
    _, second = sample(4, films=80)
    found = compare_both(truth, first, second)
    patients = [str(film // 2) for film in range(len(truth))]
    one = metrics.summarise(truth, first, patients, classes=CLASSES, groups=GROUPS, prior="uniform", resamples=2)
    two = metrics.summarise(truth, second, patients, classes=CLASSES, groups=GROUPS, prior="train", resamples=2)
    assert found.keys() == one.keys()
    for name, difference in found.items():
        assert difference.first == pytest.approx(one[name]["value"], abs=1e-6)
        assert difference.second == pytest.approx(two[name]["value"], abs=1e-6)
        assert difference.value == difference.first - difference.second
        assert difference.low <= difference.value <= difference.high, name


def test_the_better_model_is_named_whether_higher_or_lower_is_better() -> None:
    truth, good = sample(5, films=300)
    good = metrics.softmax(np.log(good) + 2 * np.eye(3)[truth])
    bad = good[np.random.default_rng(0).permutation(len(truth))]
    better = compare_both(truth, good, bad)
    for name in ("accuracy", "macro_auroc", "brier", "cross_entropy", "aurc", "ece", "group_ppv.pneumonia"):
        assert better[name].verdict == "first better", name
    worse = compare_both(truth, bad, good)
    assert worse["accuracy"].verdict == worse["brier"].verdict == "second better"
    assert worse["accuracy"].value == -better["accuracy"].value
    same = compare_both(truth, good, good)
    assert {each.verdict for name, each in same.items() if "ece" not in name} == {"cannot conclude"}


def test_pairing_makes_the_interval_narrower() -> None:
    truth, first = sample(6, films=300)
    second = metrics.softmax(np.log(first) + np.random.default_rng(0).normal(size=first.shape) / 4)
    found = compare_both(truth, first, second)["macro_auroc"]
    patients = [str(film // 2) for film in range(len(truth))]
    alone = metrics.summarise(truth, first, patients, classes=CLASSES, groups=GROUPS, prior="train", resamples=500)
    low, high = alone["macro_auroc"]["low"], alone["macro_auroc"]["high"]
    assert low is not None
    assert high is not None
    assert found.high - found.low < 0.7 * (high - low)


def test_any_figure_that_both_models_have_can_be_compared() -> None:
    right, other = np.array([True] * 30 + [False] * 10), np.array([True] * 10 + [False] * 30)
    found = metrics.compare(
        lambda weights: {"share": metrics.weighted_mean(right, weights), "more": metrics.weighted_mean(right, weights)},
        lambda weights: {"share": metrics.weighted_mean(other, weights)},
        [str(film) for film in range(40)],
        resamples=300,
    )
    assert found.keys() == {"share"}
    assert found["share"].value == 0.5
    assert found["share"].verdict == "first better"


def test_an_undefined_difference_allows_no_conclusion() -> None:
    assert metrics.verdict(math.nan, math.nan) == "cannot conclude"
    assert metrics.verdict(0.0, 0.2) == metrics.verdict(-0.1, 0.0) == "cannot conclude"
    assert metrics.verdict(-0.2, -0.1) == "second better"
    assert metrics.verdict(-0.2, -0.1, lower_is_better=True) == "first better"
    probabilities = np.eye(3)[[0, 2, 2]]
    found = compare_both(np.array([0, 0, 2]), probabilities, probabilities, resamples=20)
    assert math.isnan(found["macro_auroc"].value)
    assert found["macro_auroc"].verdict == "cannot conclude"
    with pytest.raises(ValueError, match=r"two arrays of shape \(3, 3\)"):
        compare_both(np.array([0, 0, 2]), probabilities, probabilities[:2])


def test_resampled_differences_weight_both_models_alike() -> None:
    """With the same predictions, every resample's difference is 0."""
    truth, probabilities = sample(8)
    for name, each in compare_both(truth, probabilities, probabilities, resamples=50).items():
        if name.partition(".")[0] not in {"brier", "cross_entropy"} and "ece" not in name:  # two priors
            assert each.low == each.high == each.value == 0, name
