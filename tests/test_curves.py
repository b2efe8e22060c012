"""Points of curves, against scikit-learn, and how well a few points represent all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumoscope import metrics
from predictions import film_weights, sample

SEEDS = st.integers(0, 10_000)


@given(seed=SEEDS)
@settings(deadline=None)
def test_all_points_agree_with_scikit_learn(seed: int) -> None:
    truth, probabilities = sample(seed, 2)
    positive, scores = truth == 1, probabilities[:, 1]
    for weights in (None, film_weights(seed, len(truth))[1]):
        curve = metrics.roc_points(positive, scores, weights, most=None)
        expected = sk.roc_curve(positive, scores, sample_weight=weights, drop_intermediate=False)
        for values, others in zip(curve, expected, strict=True):
            np.testing.assert_allclose(values, others, rtol=0, atol=1e-9)
        curve = metrics.precision_recall_points(positive, scores, weights, most=None)
        precision, recall, thresholds = sk.precision_recall_curve(positive, scores, sample_weight=weights)
        np.testing.assert_allclose(curve.x, recall[-2::-1], rtol=0, atol=1e-9)
        np.testing.assert_allclose(curve.y, precision[-2::-1], rtol=0, atol=1e-9)
        np.testing.assert_allclose(curve.threshold, thresholds[::-1], rtol=0, atol=1e-9)


def largest_distance(curve: metrics.Curve, whole: metrics.Curve) -> float:
    """The largest distance of the whole curve's points from the drawn line."""
    starts, ends = (np.stack([curve.x[part], curve.y[part]], axis=1) for part in (slice(-1), slice(1, None)))
    pieces, points = ends - starts, np.stack([whole.x, whole.y], axis=1)
    apart = points[:, np.newaxis] - starts
    along = np.clip((apart * pieces).sum(axis=2) / np.maximum((pieces**2).sum(axis=1), 1e-300), 0, 1)
    return float(np.linalg.norm(apart - along[..., np.newaxis] * pieces, axis=2).min(axis=1).max())


@pytest.mark.parametrize("films", [50, 600, 20_000])
@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0])
def test_few_points_draw_the_same_curve(films: int, strength: float) -> None:
    random = np.random.default_rng(films)
    positive = random.random(films) < 0.3
    scores = random.normal(size=films) + strength * positive
    for points in (metrics.roc_points, metrics.precision_recall_points):
        whole, few = points(positive, scores, most=None), points(positive, scores, most=200)
        assert len(few.x) <= 200
        assert (few.x[0], few.y[0], few.x[-1], few.y[-1]) == (whole.x[0], whole.y[0], whole.x[-1], whole.y[-1])
        first = 30 if points is metrics.precision_recall_points else 0  # the first points rest on few films and leap
        tail = metrics.Curve(*(values[first :: 1 + films // 2000] for values in whole))
        assert largest_distance(few, tail) < 0.004
        assert set(few.threshold) <= set(whole.threshold)


def test_thinning_keeps_ends_and_corners_and_drops_points_between_them() -> None:
    x, y = np.array([0.0, 0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.4, 1.0, 1.0, 1.0])
    assert metrics.thin(x, y, 10).tolist() == [0, 2, 4]
    assert metrics.thin(x, y, 2).tolist() == [0, 4]
    assert metrics.thin(x[:1], y[:1], 10).tolist() == [0]
    assert metrics.thin(x[:0], y[:0], 10).tolist() == []
    assert metrics.thin(x, np.full(5, np.nan), 10).tolist() == [0, 4]


@given(seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_a_resampled_curve_is_that_of_its_films(seed: int) -> None:
    truth, probabilities = sample(seed, 2)
    positive, scores = truth == 1, probabilities[:, 1]
    rows = np.concatenate(list(metrics.bootstrap_weights([str(at // 2) for at in range(len(truth))], resamples=5)))
    rates, recalls = np.linspace(0, 1, 11), np.linspace(0.1, 1, 10)
    found = metrics.weighted_sensitivities(positive, scores, rows, rates)
    precisions = metrics.weighted_precisions(positive, scores, rows, recalls)
    for at, weights in enumerate(rows):
        films = np.repeat(np.arange(len(truth)), weights)
        if positive[films].all() or not positive[films].any():
            assert np.isnan(found[at]).all()
            continue
        across, up, _ = sk.roc_curve(positive[films], scores[films], drop_intermediate=False)
        for rate, value in zip(rates, found[at], strict=True):
            assert value == pytest.approx(up[across == rate].max() if rate in across else np.interp(rate, across, up))
        precision, recall, _ = sk.precision_recall_curve(positive[films], scores[films])
        for wanted, value in zip(recalls, precisions[at], strict=True):
            reached = np.flatnonzero(recall[:-1] >= wanted - 1e-9)[-1]  # the highest threshold comes last
            assert value == pytest.approx(precision[reached], abs=1e-9)


def test_a_curve_without_positives_or_negatives_is_undefined() -> None:
    positive, scores = np.array([True, True]), np.array([0.2, 0.4])
    assert np.isnan(metrics.roc_points(positive, scores).x).all()
    assert np.isnan(metrics.precision_recall_points(~positive, scores).x).all()
    assert np.isnan(metrics.weighted_sensitivities(positive, scores, np.ones((1, 2)), np.array([0.5]))).all()
    assert np.isnan(metrics.weighted_precisions(~positive, scores, np.ones((1, 2)), np.array([0.5]))).all()
