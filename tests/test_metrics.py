import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumoscope import metrics
from pneumoscope.metrics import resampling
from pneumoscope.metrics.summary import weighted_figures

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


@given(seed=SEEDS)
@settings(deadline=None)
def test_weighted_aurocs_are_those_of_repeated_films(seed: int) -> None:
    truth, probabilities = sample(seed, 2)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(truth)))
    found = metrics.weighted_aurocs(truth == 1, probabilities[:, 1], weights)
    for row, area in zip(weights, found, strict=True):
        at = np.repeat(np.arange(len(truth)), row)
        np.testing.assert_allclose(area, metrics.auroc(truth[at] == 1, probabilities[at, 1]), equal_nan=True)


def test_bootstrap_draws_whole_groups_and_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ["a", "a", "b", "c", "c", "c"]
    drawn = np.concatenate(list(metrics.bootstrap_weights(groups, draws=50, seed=1)))
    assert drawn.shape == (50, 6)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 3] == drawn[:, 5]).all()
    assert (drawn[:, 0] + drawn[:, 2] + drawn[:, 3] == 3).all()
    monkeypatch.setattr(resampling, "_CELLS", 60)  # a few draws at a time are the same draws
    assert np.array_equal(drawn, np.concatenate(list(metrics.bootstrap_weights(groups, draws=50, seed=1))))
    assert not np.array_equal(drawn, np.concatenate(list(metrics.bootstrap_weights(groups, draws=50, seed=2))))


def test_a_bootstrap_interval_of_a_mean_is_about_that_of_its_formula() -> None:
    right = np.random.default_rng(0).random(400) < 0.8
    groups = [str(number) for number in range(400)]
    drawn = np.concatenate([w @ right / w.sum(axis=1) for w in metrics.bootstrap_weights(groups, draws=2000)])
    low, high = metrics.percentile_interval(drawn)
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert abs(low - (right.mean() - half)) < 0.006
    assert abs(high - (right.mean() + half)) < 0.006
    pairs = [str(number // 2) for number in range(800)]  # every film twice: the interval must not shrink
    drawn = np.concatenate([w @ np.repeat(right, 2) / w.sum(axis=1) for w in metrics.bootstrap_weights(pairs)])
    assert abs(metrics.percentile_interval(drawn)[0] - low) < 0.008


def test_an_interval_of_nothing_is_nan() -> None:
    assert all(math.isnan(end) for end in metrics.percentile_interval(np.array([math.nan])))


CLASSES = ("bacteria", "normal", "virus")
GROUPS: dict[str, tuple[str, ...]] = {"pneumonia": ("bacteria", "virus")}


def summarised(
    truth: metrics.Indices, probabilities: metrics.Floats, patients: list[str] | None = None, draws: int = 200
) -> dict[str, dict[str, float | None]]:
    own = [str(number) for number in range(len(truth))]
    return metrics.summarise(truth, probabilities, patients or own, classes=CLASSES, groups=GROUPS, draws=draws)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=10)
def test_a_summary_agrees_with_scikit_learn(seed: int) -> None:
    truth, probabilities = sample(seed)
    predicted = probabilities.argmax(axis=1)
    found = {name: figure["value"] for name, figure in summarised(truth, probabilities, draws=2).items()}
    recalls = sk.recall_score(truth, predicted, average=None)
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "macro_f1": sk.f1_score(truth, predicted, average="macro"),
        "macro_auroc": np.mean([sk.roc_auc_score(truth == each, probabilities[:, each]) for each in range(3)]),
        "group_accuracy.pneumonia": sk.accuracy_score(truth == 1, predicted == 1),
        "group_auroc.pneumonia": sk.roc_auc_score(truth != 1, probabilities[:, 0] + probabilities[:, 2]),
    }
    for index, label in enumerate(CLASSES):
        expected[f"sensitivity.{label}"] = recalls[index]
        expected[f"specificity.{label}"] = sk.recall_score(truth != index, predicted != index)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=2e-6), name


def test_the_accuracys_interval_is_about_the_binomials_if_every_patient_has_one_film() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(3, size=500)
    right = random.random(500) < 0.8
    probabilities = np.eye(3)[np.where(right, truth, (truth + 1) % 3)]
    figure = summarised(truth, probabilities, draws=2000)["accuracy"]
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 500)
    assert figure["value"] == pytest.approx(right.mean(), abs=1e-6)
    assert figure["low"] == pytest.approx(right.mean() - half, abs=0.005)
    assert figure["high"] == pytest.approx(right.mean() + half, abs=0.005)


def test_films_of_one_patient_that_are_alike_widen_the_interval() -> None:
    random = np.random.default_rng(1)
    truth = np.repeat(random.integers(3, size=60), 5)
    wrong = np.repeat(random.random(60) < 0.3, 5)
    probabilities = np.eye(3)[np.where(wrong, (truth + 1) % 3, truth)]
    clustered = summarised(truth, probabilities, [str(number // 5) for number in range(300)], draws=1000)
    alone = summarised(truth, probabilities, draws=1000)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "group_accuracy.pneumonia"):
        widths = []
        for summary in (clustered, alone):
            low, high = summary[name]["low"], summary[name]["high"]
            assert low is not None
            assert high is not None
            widths.append(high - low)
        assert widths[0] > 1.7 * widths[1], name  # √5 if the films of a patient are all right or all wrong


def test_what_is_undefined_in_a_summary_is_none() -> None:
    truth, probabilities = np.array([0, 0, 2]), np.eye(3)[[0, 2, 2]]
    found = summarised(truth, probabilities)  # none is normal
    nothing = {"value": None, "low": None, "high": None}
    for name in ("sensitivity.normal", "balanced_accuracy", "macro_auroc", "group_auroc.pneumonia"):
        assert found[name] == nothing, name
    assert found["specificity.normal"]["value"] == 1
    assert found["macro_f1"]["value"] == pytest.approx((2 / 3 + 2 / 3) / 2, abs=1e-6)
    assert found["accuracy"]["value"] == pytest.approx(2 / 3, abs=1e-6)


def test_every_resamplings_figures_are_those_of_its_films() -> None:
    truth, probabilities = sample(7)
    patients = [str(number // 2) for number in range(len(truth))]
    weights = np.concatenate(list(metrics.bootstrap_weights(patients, draws=20)))
    found = weighted_figures(truth, probabilities, weights, CLASSES, {"pneumonia": [0, 2]})
    for draw, row in enumerate(weights):
        at = np.repeat(np.arange(len(truth)), row)
        confusion = metrics.confusion_matrix(truth[at], probabilities[at].argmax(axis=1), 3)
        expected: dict[str, Any] = {
            "accuracy": metrics.accuracy(confusion),
            "macro_f1": metrics.macro_f1(confusion),
            "balanced_accuracy": np.mean(metrics.sensitivity(confusion)),
            "group_accuracy.pneumonia": metrics.group_accuracy(confusion, [0, 2]),
            "macro_auroc": np.mean(metrics.class_aurocs(truth[at], probabilities[at])),
        }
        for index, label in enumerate(CLASSES):
            expected[f"sensitivity.{label}"] = metrics.sensitivity(confusion)[index]
            expected[f"specificity.{label}"] = metrics.specificity(confusion)[index]
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][draw], value, err_msg=name, equal_nan=True)
