"""Scores and errors of calibration, against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from pneumoscope import metrics
from predictions import film_weights, sample, smooth

SEEDS = st.integers(0, 10_000)


def plain_error(hits: metrics.Flags, confidence: metrics.Floats, weights: metrics.Floats, bins: int) -> float:
    """The definition, bin by bin."""
    total = 0.0
    for number in range(bins):
        low, high = np.linspace(0, 1, bins + 1)[number : number + 2]
        inside = (confidence > low if number else confidence >= 0) & (confidence <= high)
        if (weight := weights[inside].sum()) > 0:
            apart = np.average(hits[inside], weights=weights[inside]) - np.average(
                confidence[inside], weights=weights[inside]
            )
            total += weight / weights.sum() * abs(apart)
    return total


@given(seed=SEEDS, classes=st.integers(2, 5))
@settings(deadline=None, max_examples=40)
def test_scores_agree_with_scikit_learn(seed: int, classes: int) -> None:
    truth, probabilities = sample(seed, classes)
    rows = film_weights(seed, len(truth))
    briers = metrics.brier(truth, probabilities, rows)
    losses = metrics.negative_log_likelihood(truth, probabilities, rows)
    for at, weights in enumerate(rows):
        options = {"labels": range(classes), "sample_weight": weights}
        expected = sk.brier_score_loss(truth, probabilities, scale_by_half=False, **options)
        np.testing.assert_allclose(briers[at], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(losses[at], sk.log_loss(truth, probabilities, **options), rtol=0, atol=1e-9)
    alike = sk.brier_score_loss(truth, probabilities, scale_by_half=False, labels=range(classes))
    np.testing.assert_allclose(metrics.brier(truth, probabilities), alike, rtol=0, atol=1e-9)
    loss = metrics.cross_entropy(truth, probabilities)
    assert metrics.negative_log_likelihood(truth, probabilities) == pytest.approx(loss, abs=1e-9)


@given(seed=SEEDS, classes=st.integers(3, 5), bins=st.sampled_from([1, 10, 15]))
@settings(deadline=None)
def test_calibration_errors_agree_with_torchmetrics(seed: int, classes: int, bins: int) -> None:
    truth, probabilities = smooth(seed, classes)
    found = float(metrics.top_label_calibration_error(truth, probabilities, bins=bins))
    scores, labels = torch.from_numpy(probabilities), torch.from_numpy(truth)
    expected = multiclass_calibration_error(scores, labels, classes, n_bins=bins)
    # torchmetrics computes this in single precision, and the error of two classes below in double.
    assert found == pytest.approx(float(expected), abs=1e-6)
    confidence, called = scores.max(dim=1)
    expected = binary_calibration_error(confidence, (called == labels).long(), n_bins=bins)
    assert found == pytest.approx(float(expected), abs=1e-9)
    per_class = [
        float(binary_calibration_error(scores[:, label].contiguous(), (labels == label).long(), n_bins=bins))
        for label in range(classes)
    ]
    np.testing.assert_allclose(
        metrics.class_calibration_errors(truth, probabilities, bins=bins), per_class, rtol=0, atol=1e-9
    )


@given(seed=SEEDS, bins=st.sampled_from([4, 10, 15]))
@settings(deadline=None)
def test_weighted_errors_agree_with_the_definition_also_at_bin_edges(seed: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    confidence = random.integers(0, bins + 1, 60) / bins  # on the edges, 0 and 1 among them
    confidence[:20] = random.random(20)
    hits = random.random(60) < confidence
    rows = film_weights(seed, 60)
    found = metrics.calibration_error(hits, confidence, rows, bins=bins)
    expected = [plain_error(hits, confidence, weights, bins) for weights in rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@given(seed=SEEDS, bins=st.sampled_from([4, 10, 15]))
@settings(deadline=None)
def test_the_reliability_curve_agrees_with_scikit_learn(seed: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    confidence = np.concatenate([random.random(20), np.linspace(0, 1, bins + 1)])
    hits = random.random(len(confidence)) < confidence
    curve = metrics.reliability_curve(hits, confidence, bins=bins)
    observed, predicted = calibration_curve(hits, confidence, n_bins=bins)
    some = curve.share > 0
    np.testing.assert_allclose(curve.observed[some], observed, rtol=0, atol=1e-9)
    np.testing.assert_allclose(curve.confidence[some], predicted, rtol=0, atol=1e-9)
    assert np.isnan(curve.observed[~some]).all()
    assert len(curve.edges) == bins + 1
    rows = film_weights(seed, len(confidence))
    weighted = metrics.reliability_curve(hits, confidence, rows, bins=bins)
    np.testing.assert_allclose(weighted.share.sum(axis=1), 1)
    from_curve = np.nansum(weighted.share * np.abs(weighted.observed - weighted.confidence), axis=1)
    np.testing.assert_allclose(
        metrics.calibration_error(hits, confidence, rows, bins=bins), from_curve, rtol=0, atol=1e-9
    )


def test_weights_at_a_uniform_prior_give_every_class_the_same_weight() -> None:
    truth = np.array([0, 0, 0, 1, 2, 2])
    rows = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 1, 0, 3], [1, 1, 1, 0, 1, 1]])
    found = metrics.weights_at_prior(truth, rows, classes=3, prior="uniform")
    for label in range(3):
        np.testing.assert_allclose(found[:2, truth == label].sum(axis=1), 1 / 3)
    np.testing.assert_allclose(found[1], [2 / 9, 0, 1 / 9, 1 / 3, 0, 1 / 3])
    assert np.isnan(found[2]).all()  # no film of class 1
    np.testing.assert_array_equal(metrics.weights_at_prior(truth, rows, classes=3, prior="train"), rows)
    probabilities = np.full((6, 3), 1 / 3)
    assert np.isnan(metrics.brier(truth, probabilities, found)).tolist() == [False, False, True]
    assert np.isnan(metrics.calibration_error(truth == 0, probabilities[:, 0], found)).tolist() == [False, False, True]


def test_a_model_calibrated_at_a_uniform_prior_has_a_small_error_only_there() -> None:
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1], 20_000)
    seen = random.normal(size=len(truth)) + truth
    probability = 1 / (1 + np.exp(0.5 - seen))  # Bayes' theorem for equal classes
    probabilities = np.stack([1 - probability, probability], axis=1)
    few = np.concatenate([np.arange(20_000), np.arange(20_000, 22_000)])
    truth, probabilities = truth[few], probabilities[few]
    weights = metrics.weights_at_prior(truth, np.ones(len(few)), classes=2, prior="uniform")
    assert metrics.calibration_error(truth == 1, probabilities[:, 1], weights) < 0.02
    assert metrics.calibration_error(truth == 1, probabilities[:, 1]) > 0.2
    converted = metrics.at_prevalences(probabilities, np.array([0.5, 0.5]), np.array([10 / 11, 1 / 11]))
    np.testing.assert_allclose(converted.sum(axis=1), 1)
    assert metrics.calibration_error(truth == 1, converted[:, 1]) < 0.01


def test_without_films_every_figure_is_undefined() -> None:
    truth, probabilities = np.zeros(0, int), np.zeros((0, 3))
    assert np.isnan(metrics.brier(truth, probabilities))
    assert np.isnan(metrics.negative_log_likelihood(truth, probabilities))
    assert np.isnan(metrics.calibration_error(np.zeros(0, bool), np.zeros(0)))
    assert np.isnan(metrics.reliability_curve(np.zeros(0, bool), np.zeros(0)).share).all()
