import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumoscope import metrics

SEEDS = st.integers(0, 10_000)


def sample(seed: int, classes: int = 3) -> tuple[metrics.Indices, metrics.Floats]:
    """True classes (each at least once) and probabilities with ties."""
    random = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), random.integers(classes, size=random.integers(5, 60))])
    logits = np.round(random.normal(size=(len(truth), classes)) * 2) / 2 + np.eye(classes)[truth]
    return truth, metrics.softmax(logits)


@given(seed=SEEDS, classes=st.integers(2, 5))
@settings(deadline=None)
def test_agree_with_scikit_learn(seed: int, classes: int) -> None:
    truth, probabilities = sample(seed, classes)
    predicted = probabilities.argmax(axis=1)
    labels = list(range(classes))
    confusion = metrics.confusion_matrix(truth, predicted, classes)
    options = {"labels": labels, "average": None, "zero_division": np.nan}
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(truth, predicted, labels=labels))
    assert metrics.accuracy(confusion) == pytest.approx(sk.accuracy_score(truth, predicted))
    np.testing.assert_allclose(metrics.sensitivity(confusion), sk.recall_score(truth, predicted, **options))
    np.testing.assert_allclose(metrics.precision(confusion), sk.precision_score(truth, predicted, **options))
    np.testing.assert_allclose(metrics.f1(confusion), sk.f1_score(truth, predicted, **options))
    assert metrics.mcc(confusion) == pytest.approx(sk.matthews_corrcoef(truth, predicted))
    assert metrics.cross_entropy(truth, probabilities) == pytest.approx(sk.log_loss(truth, probabilities))
    rest = [sk.roc_auc_score(truth == label, probabilities[:, label]) for label in labels]
    np.testing.assert_allclose(metrics.class_aurocs(truth, probabilities), rest)
    assert metrics.macro_auroc(truth, probabilities) == pytest.approx(np.mean(rest))
    inverse = [sk.recall_score(truth != label, predicted != label) for label in labels]
    np.testing.assert_allclose(metrics.specificity(confusion), inverse)


def test_group_accuracy_is_the_accuracy_of_the_two_sides() -> None:
    truth, probabilities = sample(4)
    predicted = probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(truth, predicted, 3)
    assert metrics.group_accuracy(confusion, [0, 2]) == pytest.approx(np.mean((truth == 1) == (predicted == 1)))


def test_absent_classes_are_undefined_not_zero() -> None:
    confusion = metrics.confusion_matrix(np.array([0, 0]), np.array([0, 1]), 3)
    assert math.isnan(metrics.sensitivity(confusion)[2])
    assert math.isnan(metrics.precision(confusion)[2])
    assert metrics.macro_f1(confusion) == pytest.approx((2 / 3 + 0) / 2)
    assert math.isnan(metrics.auroc(np.array([True, True]), np.array([0.1, 0.2])))
    assert math.isnan(metrics.accuracy(np.zeros((3, 3), np.int64)))
    assert metrics.mcc(np.array([[2, 0], [0, 0]])) == 0


def test_certain_and_wrong_is_finite() -> None:
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
