"""Conformal sets, against those of two libraries, and against the coverage that the sets guarantee."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from scipy.stats import binom
from sklearn.base import BaseEstimator, ClassifierMixin

from pneumoscope.metrics import class_coverage, conformal_thresholds, softmax
from pneumoscope.metrics.conformal import prediction_sets

CLASSES = 3


class ProbabilityClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier whose inputs are its probabilities."""

    classes_ = np.arange(CLASSES)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, *_: Any) -> "ProbabilityClassifier":
        return self

    def predict_proba(self, probabilities: Any) -> Any:
        return probabilities

    def predict(self, probabilities: Any) -> Any:
        return probabilities.argmax(axis=1)


def drawn(random: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """Probabilities that favour the true class, of a model about as good as ours."""
    return softmax(random.normal(size=(len(truth), CLASSES)) + 1.5 * np.eye(CLASSES)[truth])


def nonconformity(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(1 - probabilities[np.arange(len(truth)), truth])


@given(seed=st.integers(0, 10_000), count=st.integers(3, 120), coverage=st.sampled_from([0.8, 0.85, 0.9, 0.95, 0.99]))
@settings(deadline=None, max_examples=60)
def test_sets_agree_with_crepes_and_mapie(seed: int, count: int, coverage: float) -> None:
    random = np.random.default_rng(seed)
    truth = random.choice(CLASSES, size=count, p=[0.5, 0.3, 0.2])
    probabilities = drawn(random, truth)
    scores, others = nonconformity(truth, probabilities), 1 - drawn(random, truth[:1].repeat(30))
    thresholds = conformal_thresholds(scores, truth, CLASSES, coverage)
    sets = prediction_sets(others, thresholds)
    mondrian = ConformalClassifier()
    mondrian.fit(scores, bins=truth)
    for index in range(CLASSES):
        own, alone = truth == index, others[:, [index]]
        # A p-value of exactly 1 - coverage is in crepes' sets, and out of ours and of MAPIE's; both are valid.
        found = mondrian.predict_set(alone, bins=np.full(30, index), confidence=coverage - 1e-9, smoothing=False)
        np.testing.assert_array_equal(sets[:, index], found[:, 0] == 1)
        if math.isfinite(thresholds[index]) and own.sum() > 1 / (1 - coverage):  # MAPIE refuses fewer
            split = SplitConformalClassifier(
                ProbabilityClassifier(), confidence_level=coverage, conformity_score="lac", prefit=True
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about missing classes, which do not matter here
                split.conformalize(probabilities[own], truth[own])
                _, found = split.predict_set(1 - others)
            np.testing.assert_array_equal(sets[:, index], found[:, index, 0])


@pytest.mark.parametrize("draws", [200, 4000])
def test_each_class_is_covered_at_the_guaranteed_rate(draws: int) -> None:
    """The threshold is the 90th smallest of 99 scores; a further film's score is at most that in 90 % of draws."""
    random, each = np.random.default_rng(0), np.arange(CLASSES)
    truth, kept = np.repeat(each, 99), np.zeros(CLASSES)
    for _ in range(draws):
        scores = nonconformity(truth, drawn(random, truth))
        sets = prediction_sets(1 - drawn(random, each), conformal_thresholds(scores, truth, CLASSES, 0.9))
        kept += class_coverage(sets, each)
    low, high = binom.interval(0.99, draws, 0.9)
    assert (kept >= low).all()
    assert (kept <= high).all()


def test_a_class_with_too_few_films_is_in_every_set() -> None:
    truth = np.array([0] * 8 + [1] * 9)
    thresholds = conformal_thresholds(np.linspace(0, 1, 17), truth, CLASSES, 0.9)
    assert thresholds.tolist() == [math.inf, 1.0, math.inf]
    assert prediction_sets(np.full((1, CLASSES), 1.1), thresholds).tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("coverage", "count", "rank"), [(0.9, 9, 9), (0.9, 19, 18), (0.9, 20, 19), (0.9, 99, 90), (0.55, 99, 55)]
)
def test_ranks_are_not_affected_by_rounding(coverage: float, count: int, rank: int) -> None:
    """0.55 times 100 is a little more than 55 in binary fractions."""
    scores = np.arange(1.0, count + 1)
    assert conformal_thresholds(scores, np.zeros(count, int), 1, coverage).tolist() == [float(rank)]


def test_coverage_of_a_class_without_films_is_undefined() -> None:
    found = class_coverage(np.ones((2, CLASSES), bool), np.array([0, 0]))
    assert found[0] == 1
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize(
    ("scores", "coverage", "message"),
    [([0.1, np.nan], 0.9, "finite scores"), ([0.1], 0.9, "2 finite scores"), ([0.1, 0.2], 1.0, "over 0 and under 1")],
)
def test_wrong_arguments_are_refused(scores: list[float], coverage: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conformal_thresholds(np.array(scores), np.array([0, 1]), 2, coverage)
