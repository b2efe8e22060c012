"""Decision curves, against their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumoscope import metrics
from predictions import film_weights, sample

THRESHOLDS = np.array([0.0, 0.05, 0.2, 0.5, 0.8, 0.95])


def plain(positive: metrics.Flags, scores: metrics.Floats, weights: metrics.Floats, threshold: float) -> float:
    """Vickers and Elkin 2006, counted film by film."""
    hits = alarms = 0.0
    for film, score in enumerate(scores):
        if score >= threshold:
            hits += weights[film] * positive[film]
            alarms += weights[film] * (not positive[film])
    return float(hits / weights.sum() - alarms / weights.sum() * threshold / (1 - threshold))


@given(seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_net_benefit_agrees_with_its_definition(seed: int) -> None:
    truth, probabilities = sample(seed, 2)
    positive, scores = truth == 1, np.round(probabilities[:, 1], 1)
    rows = film_weights(seed, len(truth))
    curve = metrics.decision_curve(positive, scores, THRESHOLDS, rows)
    for at, weights in enumerate(rows):
        model = [plain(positive, scores, weights, threshold) for threshold in THRESHOLDS]
        np.testing.assert_allclose(curve.model[at], model, rtol=0, atol=1e-9)
        everyone = [plain(positive, np.ones(len(scores)), weights, threshold) for threshold in THRESHOLDS]
        np.testing.assert_allclose(curve.treat_all[at], everyone, rtol=0, atol=1e-9)
    assert (curve.treat_none == 0).all()


@given(seed=st.integers(0, 10_000), prevalence=st.floats(0.01, 0.99))
@settings(deadline=None)
def test_net_benefit_at_a_prevalence_equals_that_of_films_weighted_to_it(seed: int, prevalence: float) -> None:
    truth, probabilities = sample(seed, 2)
    positive, scores = truth == 1, probabilities[:, 1]
    weights = np.where(positive, prevalence / positive.sum(), (1 - prevalence) / (~positive).sum())
    found = metrics.decision_curve(positive, scores, THRESHOLDS, prevalence=prevalence)
    expected = metrics.decision_curve(positive, scores, THRESHOLDS, weights)
    np.testing.assert_allclose(found.model, expected.model, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.treat_all, expected.treat_all, rtol=0, atol=1e-9)


def test_without_positives_there_are_only_false_alarms() -> None:
    found = metrics.decision_curve(np.array([False, False]), np.array([0.9, 0.1]), np.array([0.5]))
    assert found.model.tolist() == [-0.5]
    assert np.isnan(metrics.decision_curve(np.zeros(0, bool), np.zeros(0), np.array([0.5])).model).all()


def test_thresholds_and_prevalences_out_of_range_are_refused() -> None:
    positive, scores = np.array([True, False]), np.array([0.9, 0.1])
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        metrics.decision_curve(positive, scores, np.array([1.0]))
    with pytest.raises(ValueError, match="a prevalence from 0 to 1"):
        metrics.decision_curve(positive, scores, THRESHOLDS, prevalence=-0.1)
