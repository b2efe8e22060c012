"""Summaries with intervals: their figures, and how the intervals behave."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumoscope import metrics
from pneumoscope.metrics.summary import weighted_figures
from predictions import sample

SEEDS = st.integers(0, 10_000)

CLASSES = ("bacteria", "normal", "virus")
GROUPS: dict[str, tuple[str, ...]] = {"pneumonia": ("bacteria", "virus")}


def summarised(
    truth: metrics.Indices, probabilities: metrics.Floats, patients: list[str] | None = None, resamples: int = 200
) -> dict[str, dict[str, float | None]]:
    own = [str(number) for number in range(len(truth))]
    return metrics.summarise(
        truth, probabilities, patients or own, classes=CLASSES, groups=GROUPS, prior="uniform", resamples=resamples
    )


def interval(figure: dict[str, float | None]) -> tuple[float, float, float]:
    low, value, high = figure["low"], figure["value"], figure["high"]
    assert low is not None
    assert value is not None
    assert high is not None
    return low, value, high


def expected_of_classes(truth: metrics.Indices, predicted: metrics.Indices) -> dict[str, Any]:
    """scikit-learn's figures of the most probable classes."""
    undefined = {"zero_division": np.nan}
    sick, called = truth != 1, predicted != 1
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "macro_f1": sk.f1_score(truth, predicted, average="macro"),
        "mcc": sk.matthews_corrcoef(truth, predicted),
        "group_accuracy.pneumonia": sk.accuracy_score(sick, called),
        "group_sensitivity.pneumonia": sk.recall_score(sick, called),
        "group_specificity.pneumonia": sk.recall_score(~sick, ~called),
        "group_ppv.pneumonia": sk.precision_score(sick, called, **undefined),
        "group_npv.pneumonia": sk.precision_score(~sick, ~called, **undefined),
    }
    for index, label in enumerate(CLASSES):
        own, chosen = truth == index, predicted == index
        expected[f"sensitivity.{label}"] = sk.recall_score(own, chosen)
        expected[f"specificity.{label}"] = sk.recall_score(~own, ~chosen)
        expected[f"ppv.{label}"] = sk.precision_score(own, chosen, **undefined)
        expected[f"npv.{label}"] = sk.precision_score(~own, ~chosen, **undefined)
        expected[f"f1.{label}"] = sk.f1_score(own, chosen)
    return expected


def expected_of_probabilities(truth: metrics.Indices, probabilities: metrics.Floats) -> dict[str, Any]:
    """scikit-learn's figures of the probabilities. Calibration errors and `aurc` are ours, with tests of their own."""
    sick, share = truth != 1, probabilities[:, 0] + probabilities[:, 2]
    options: dict[str, Any] = {"sample_weight": 1 / np.bincount(truth)[truth], "labels": range(3)}
    aurocs = [sk.roc_auc_score(truth == each, probabilities[:, each]) for each in range(3)]
    averages = [sk.average_precision_score(truth == each, probabilities[:, each]) for each in range(3)]
    weights = metrics.weights_at_prior(truth, np.ones(len(truth)), classes=3, prior="uniform")
    errors = metrics.class_calibration_errors(truth, probabilities, weights)
    right, sure = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1)
    expected = {
        "macro_auroc": np.mean(aurocs),
        "macro_average_precision": np.mean(averages),
        "group_auroc.pneumonia": sk.roc_auc_score(sick, share),
        "group_average_precision.pneumonia": sk.average_precision_score(sick, share),
        "brier": sk.brier_score_loss(truth, probabilities, scale_by_half=False, **options),
        "cross_entropy": sk.log_loss(truth, probabilities, **options),
        "ece": metrics.top_label_calibration_error(truth, probabilities, weights),
        "classwise_ece": np.mean(errors),
        "group_ece.pneumonia": metrics.calibration_error(sick, share, weights),
        "aurc": metrics.risk_coverage_areas(right, sure, np.ones((1, len(truth))))[0],
    }
    for index, label in enumerate(CLASSES):
        expected[f"auroc.{label}"], expected[f"average_precision.{label}"] = aurocs[index], averages[index]
        expected[f"class_ece.{label}"] = errors[index]
    return expected


@given(seed=SEEDS)
@settings(deadline=None, max_examples=10)
def test_figures_agree_with_scikit_learn(seed: int) -> None:
    truth, probabilities = sample(seed)
    once, members = np.ones((1, len(truth)), np.int64), {"pneumonia": [0, 2]}
    found = weighted_figures(truth, probabilities, once, CLASSES, members, prior="uniform")
    expected = expected_of_classes(truth, probabilities.argmax(axis=1)) | expected_of_probabilities(
        truth, probabilities
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], [value], rtol=0, atol=1e-9, equal_nan=True, err_msg=name)
    for name, figure in summarised(truth, probabilities, resamples=2).items():
        assert figure["value"] == metrics.finite_or_none(found[name][0])


def test_with_one_film_per_patient_the_accuracys_interval_is_about_the_binomial_one() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(3, size=500)
    right = random.random(500) < 0.8
    probabilities = np.eye(3)[np.where(right, truth, (truth + 1) % 3)]
    figure = summarised(truth, probabilities, resamples=2000)["accuracy"]
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 500)
    assert figure["value"] == pytest.approx(right.mean(), abs=1e-6)
    assert figure["low"] == pytest.approx(right.mean() - half, abs=0.005)
    assert figure["high"] == pytest.approx(right.mean() + half, abs=0.005)


def test_similar_films_of_one_patient_widen_the_interval() -> None:
    random = np.random.default_rng(1)
    truth = np.repeat(random.integers(3, size=60), 5)
    wrong = np.repeat(random.random(60) < 0.3, 5)
    probabilities = np.eye(3)[np.where(wrong, (truth + 1) % 3, truth)]
    clustered = summarised(truth, probabilities, [str(number // 5) for number in range(300)], resamples=1000)
    alone = summarised(truth, probabilities, resamples=1000)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "group_accuracy.pneumonia"):
        widths = []
        for summary in (clustered, alone):
            low, _, high = interval(summary[name])
            widths.append(high - low)
        assert widths[0] > 1.7 * widths[1], name  # √5 if the films of a patient are all right or all wrong


def test_undefined_figures_of_a_summary_are_none() -> None:
    truth, probabilities = np.array([0, 0, 2]), np.eye(3)[[0, 2, 2]]
    found = summarised(truth, probabilities)  # no film is normal
    nothing = {"value": None, "low": None, "high": None}
    for name in ("sensitivity.normal", "balanced_accuracy", "macro_auroc", "group_auroc.pneumonia"):
        assert found[name] == nothing, name
    assert found["specificity.normal"]["value"] == 1
    assert found["macro_f1"]["value"] == pytest.approx((2 / 3 + 2 / 3) / 2, abs=1e-6)
    assert found["accuracy"]["value"] == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize("prior", ["train", "uniform"])
def test_the_figures_of_a_resampling_are_those_of_its_films(prior: metrics.Prior) -> None:
    """Each row of weights gives the figures of its films, repeated as often as they are drawn."""
    truth, probabilities = sample(7)
    patients = [str(number // 2) for number in range(len(truth))]
    weights = np.concatenate(list(metrics.bootstrap_weights(patients, resamples=20)))
    members = {"pneumonia": [0, 2]}
    found = weighted_figures(truth, probabilities, weights, CLASSES, members, prior=prior)
    for draw, row in enumerate(weights):
        at = np.repeat(np.arange(len(truth)), row)
        once = np.ones((1, len(at)), np.int64)
        expected = weighted_figures(truth[at], probabilities[at], once, CLASSES, members, prior=prior)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][draw], value[0], err_msg=name, equal_nan=True, rtol=0, atol=1e-9)


def test_the_prior_weights_only_the_calibration_figures() -> None:
    truth, probabilities = sample(9)
    once, members = np.ones((1, len(truth)), np.int64), {"pneumonia": [0, 2]}
    uniform, train = (
        weighted_figures(truth, probabilities, once, CLASSES, members, prior=prior) for prior in ("uniform", "train")
    )
    changed = {name for name in uniform if uniform[name][0] != train[name][0]}
    assert changed == {name for name in uniform if "ece" in name or name in {"brier", "cross_entropy"}}


def test_the_interval_of_a_calibration_error_contains_its_value_and_is_not_negative() -> None:
    random = np.random.default_rng(0)
    probabilities = metrics.softmax(random.normal(size=(60, 3)) * 3)
    truth = (probabilities.cumsum(axis=1) < random.random((60, 1))).sum(axis=1)
    for name, figure in summarised(truth, probabilities).items():
        if "ece" in name:
            low, value, high = interval(figure)
            assert 0 <= low <= value <= high, name


@given(seed=SEEDS, threshold=st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=20)
def test_an_operating_point_agrees_with_scikit_learn(seed: int, threshold: float) -> None:
    truth, probabilities = sample(seed)
    sick, called = truth != 1, probabilities[:, [0, 2]].sum(axis=1) >= threshold
    patients = [str(number // 2) for number in range(len(truth))]
    options: dict[str, Any] = {"members": [0, 2], "threshold": threshold, "prevalences": (0.05, 0.5), "resamples": 50}
    found = metrics.summarise_operating_point(truth, probabilities, patients, **options)
    sensitivity, specificity = sk.recall_score(sick, called), sk.recall_score(~sick, ~called)
    expected = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": sk.precision_score(sick, called, zero_division=np.nan),
        "npv": sk.precision_score(~sick, ~called, zero_division=np.nan),
    }
    expected["lr_positive"], expected["lr_negative"] = metrics.likelihood_ratios(sensitivity, specificity)
    for share in (0.05, 0.5):
        values = metrics.predictive_values(sensitivity, specificity, share)
        expected[f"ppv_at.{share}"], expected[f"npv_at.{share}"] = values
    assert {name: figure["value"] for name, figure in found.items()} == {
        name: metrics.finite_or_none(value) for name, value in expected.items()
    }
    for figure in found.values():
        assert figure["value"] is None or (figure["low"] is not None and figure["low"] <= (figure["high"] or 0))


def test_sets_are_summarised_by_class_and_size() -> None:
    truth, probabilities = sample(11)
    sets = probabilities > 0.25
    patients = [str(number) for number in range(len(truth))]
    found = metrics.summarise_sets(truth, sets, patients, classes=CLASSES, resamples=100)
    covered = sets[np.arange(len(truth)), truth]
    assert found["coverage"]["value"] == metrics.finite_or_none(covered.mean())
    assert found["coverage.virus"]["value"] == metrics.finite_or_none(covered[truth == 2].mean())
    assert found["set_size.normal"]["value"] == metrics.finite_or_none(sets[truth == 1].sum(axis=1).mean())
    assert found["size_share.1"]["value"] == metrics.finite_or_none((sets.sum(axis=1) == 1).mean())
    for figure in found.values():
        low, value, high = interval(figure)
        assert low <= value <= high


def test_arrays_of_different_lengths_are_refused() -> None:
    truth, probabilities = sample(0)
    patients = [str(number) for number in range(len(truth))]
    with pytest.raises(ValueError, match=r"films and 3 classes need shape \(\d+, 3\)"):
        summarised(truth, probabilities[:, :2], patients)
    with pytest.raises(ValueError, match=f"and {len(truth)} patients; got shape .* and 2 patients"):
        summarised(truth, probabilities, patients[:2])
    with pytest.raises(ValueError, match="films and 3 classes need shape"):
        metrics.summarise_sets(truth, probabilities[1:] > 0, patients, classes=CLASSES)
    with pytest.raises(ValueError, match="must be equal"):
        metrics.summarise_rule(truth == 1, truth[1:] == 1, patients)
    with pytest.raises(ValueError, match="there are no films"):
        metrics.summarise_rule(np.zeros(0, bool), np.zeros(0, bool), [])
