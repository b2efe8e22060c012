import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumoscope import metrics
from pneumoscope.metrics import resampling
from predictions import sample

SEEDS = st.integers(0, 10_000)


@given(seed=SEEDS, classes=st.integers(2, 5))
@settings(deadline=None)
def test_agree_with_scikit_learn(seed: int, classes: int) -> None:
    truth, probabilities = sample(seed, classes)
    predicted = probabilities.argmax(axis=1)
    labels = list(range(classes))
    confusion = metrics.confusion_matrix(truth, predicted, classes)
    options = {"labels": labels, "average": None, "zero_division": np.nan}
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(truth, predicted, labels=labels))
    assert metrics.accuracy(confusion) == pytest.approx(sk.accuracy_score(truth, predicted), abs=1e-9)
    np.testing.assert_allclose(
        metrics.sensitivity(confusion), sk.recall_score(truth, predicted, **options), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(
        metrics.precision(confusion), sk.precision_score(truth, predicted, **options), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(metrics.f1(confusion), sk.f1_score(truth, predicted, **options), rtol=0, atol=1e-9)
    assert metrics.mcc(confusion) == pytest.approx(sk.matthews_corrcoef(truth, predicted), abs=1e-9)
    assert metrics.cross_entropy(truth, probabilities) == pytest.approx(sk.log_loss(truth, probabilities), abs=1e-9)
    rest = [sk.roc_auc_score(truth == label, probabilities[:, label]) for label in labels]
    np.testing.assert_allclose(metrics.class_aurocs(truth, probabilities), rest, rtol=0, atol=1e-9)
    assert metrics.macro_auroc(truth, probabilities) == pytest.approx(np.mean(rest), abs=1e-9)
    inverse = [sk.recall_score(truth != label, predicted != label) for label in labels]
    np.testing.assert_allclose(metrics.specificity(confusion), inverse, rtol=0, atol=1e-9)


def test_group_accuracy_is_the_accuracy_of_the_two_sides() -> None:
    truth, probabilities = sample(4)
    predicted = probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(truth, predicted, 3)
    assert metrics.group_accuracy(confusion, [0, 2]) == pytest.approx(
        np.mean((truth == 1) == (predicted == 1)), abs=1e-9
    )


def test_figures_of_absent_classes_are_undefined_not_zero() -> None:
    confusion = metrics.confusion_matrix(np.array([0, 0]), np.array([0, 1]), 3)
    assert math.isnan(metrics.sensitivity(confusion)[2])
    assert math.isnan(metrics.precision(confusion)[2])
    assert metrics.macro_f1(confusion) == pytest.approx((2 / 3 + 0) / 2)
    assert math.isnan(metrics.auroc(np.array([True, True]), np.array([0.1, 0.2])))
    assert math.isnan(metrics.accuracy(np.zeros((3, 3), np.int64)))
    assert metrics.mcc(np.array([[2, 0], [0, 0]])) == 0  # unlike the others, defined as 0, as in scikit-learn


def test_the_loss_of_a_certain_error_is_finite() -> None:
    assert metrics.cross_entropy(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-math.log(1e-12))


def test_indices_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        metrics.confusion_matrix(np.array([2]), np.array([0]), 2)
    with pytest.raises(ValueError, match="must be equal"):
        metrics.confusion_matrix(np.array([0, 1]), np.array([0]), 2)


@given(shift=st.floats(-500, 500))
def test_softmax_ignores_a_common_shift(shift: float) -> None:
    logits = np.array([[1.0, 2.0, -3.0]])
    np.testing.assert_allclose(metrics.softmax(logits + shift), metrics.softmax(logits), atol=1e-9)


@given(seed=SEEDS)
@settings(deadline=None)
def test_weighted_aurocs_equal_those_of_repeated_films(seed: int) -> None:
    truth, probabilities = sample(seed, 2)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(truth)))
    found = metrics.weighted_aurocs(truth == 1, probabilities[:, 1], weights)
    for row, area in zip(weights, found, strict=True):
        at = np.repeat(np.arange(len(truth)), row)
        np.testing.assert_allclose(area, metrics.auroc(truth[at] == 1, probabilities[at, 1]), rtol=0, atol=1e-9)


def test_bootstrap_draws_whole_groups_and_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ["a", "a", "b", "c", "c", "c"]
    drawn = np.concatenate(list(metrics.bootstrap_weights(groups, resamples=50, seed=1)))
    assert drawn.shape == (50, 6)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 3] == drawn[:, 5]).all()
    assert (drawn[:, 0] + drawn[:, 2] + drawn[:, 3] == 3).all()
    monkeypatch.setattr(resampling, "_CELLS", 60)  # drawn ten at a time, they are the same resamples
    assert np.array_equal(drawn, np.concatenate(list(metrics.bootstrap_weights(groups, resamples=50, seed=1))))
    assert not np.array_equal(drawn, np.concatenate(list(metrics.bootstrap_weights(groups, resamples=50, seed=2))))


def test_a_bootstrap_interval_of_a_mean_agrees_with_its_formula() -> None:
    right = np.random.default_rng(0).random(400) < 0.8
    groups = [str(number) for number in range(400)]
    drawn = np.concatenate([w @ right / w.sum(axis=1) for w in metrics.bootstrap_weights(groups, resamples=2000)])
    low, high = metrics.percentile_interval(drawn)
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert abs(low - (right.mean() - half)) < 0.006
    assert abs(high - (right.mean() + half)) < 0.006
    pairs = [str(number // 2) for number in range(800)]  # every film twice: the interval must not shrink
    drawn = np.concatenate([w @ np.repeat(right, 2) / w.sum(axis=1) for w in metrics.bootstrap_weights(pairs)])
    assert abs(metrics.percentile_interval(drawn)[0] - low) < 0.008


def test_an_interval_without_defined_values_is_nan() -> None:
    nothing = np.array([math.nan])
    assert all(
        math.isnan(end) for end in (*metrics.percentile_interval(nothing), *metrics.centred_interval(nothing, 1))
    )


def test_a_centred_interval_has_the_same_width_around_the_value() -> None:
    values = np.random.default_rng(0).normal(3, 1, 2001)
    low, high = metrics.percentile_interval(values)
    moved = metrics.centred_interval(np.append(values, math.nan), 0.5)
    assert moved == pytest.approx((low - values.mean() + 0.5, high - values.mean() + 0.5))
