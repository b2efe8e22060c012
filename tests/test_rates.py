"""Rates of confusion matrices and rules, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumoscope import metrics
from predictions import film_weights, sample

SEEDS = st.integers(0, 10_000)


@given(seed=SEEDS, classes=st.integers(2, 5))
@settings(deadline=None, max_examples=40)
def test_weighted_rates_agree_with_scikit_learn(seed: int, classes: int) -> None:
    truth, probabilities = sample(seed, classes)
    predicted = probabilities.argmax(axis=1)
    rows = film_weights(seed, len(truth))
    confusions = metrics.weighted_confusions(truth, predicted, classes, rows)
    assert confusions.shape == (3, classes, classes)
    predictive, correlations = metrics.npv(confusions), metrics.mcc(confusions)
    for at, weights in enumerate(rows):
        options = {"labels": range(classes), "sample_weight": weights}
        expected = sk.confusion_matrix(truth, predicted, **options)
        np.testing.assert_allclose(confusions[at], expected, rtol=0, atol=1e-9)
        for label in range(classes):
            value = sk.precision_score(truth != label, predicted != label, sample_weight=weights, zero_division=np.nan)
            np.testing.assert_allclose(predictive[at, label], value, rtol=0, atol=1e-9, equal_nan=True)
        correlation = sk.matthews_corrcoef(truth, predicted, sample_weight=weights)
        np.testing.assert_allclose(correlations[at], correlation, rtol=0, atol=1e-9)
        if (np.bincount(truth, weights) > 0).all():
            balanced = sk.balanced_accuracy_score(truth, predicted, sample_weight=weights)
            np.testing.assert_allclose(metrics.balanced_accuracy(confusions)[at], balanced, rtol=0, atol=1e-9)


@given(seed=SEEDS, members=st.sampled_from([[0], [0, 2], [1, 2, 3]]))
@settings(deadline=None)
def test_a_groups_confusion_matrix_counts_its_two_sides(seed: int, members: list[int]) -> None:
    truth, probabilities = sample(seed, 4)
    predicted = probabilities.argmax(axis=1)
    sides = metrics.group_confusion(metrics.confusion_matrix(truth, predicted, 4), members)
    expected = sk.confusion_matrix(np.isin(truth, members), np.isin(predicted, members))
    np.testing.assert_array_equal(sides, expected)
    for weights in film_weights(seed, len(truth)):
        rule = metrics.rule_confusion(np.isin(truth, members), np.isin(predicted, members), weights)
        weighted = metrics.weighted_confusions(truth, predicted, 4, weights)
        np.testing.assert_allclose(rule, metrics.group_confusion(weighted, members), rtol=0, atol=1e-9)


@given(seed=SEEDS, prevalence=st.floats(0.001, 0.999))
@settings(deadline=None)
def test_predictive_values_at_a_prevalence_equal_those_of_films_weighted_to_it(seed: int, prevalence: float) -> None:
    truth, probabilities = sample(seed, 2)
    positive, called = truth == 1, probabilities[:, 1] >= 0.4
    confusion = metrics.rule_confusion(positive, called)
    found, spared = metrics.sensitivity(confusion)[1], metrics.specificity(confusion)[1]
    ppv, npv = metrics.predictive_values(found, spared, prevalence)
    weights = np.where(positive, prevalence / positive.sum(), (1 - prevalence) / (~positive).sum())
    options = {"sample_weight": weights, "zero_division": np.nan}
    np.testing.assert_allclose(ppv, sk.precision_score(positive, called, **options), rtol=1e-9)
    np.testing.assert_allclose(npv, sk.precision_score(~positive, ~called, **options), rtol=1e-9)


def test_predictive_values_are_undefined_if_no_film_is_called_positive() -> None:
    ppv, npv = metrics.predictive_values(np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    np.testing.assert_array_equal(ppv, [np.nan, 0.5])
    np.testing.assert_array_equal(npv, [0.5, np.nan])
    with pytest.raises(ValueError, match=r"a prevalence from 0 to 1, got 1\.5"):
        metrics.predictive_values(0.9, 0.9, 1.5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@given(seed=SEEDS)
@settings(deadline=None)
def test_likelihood_ratios_agree_with_scikit_learn(seed: int) -> None:
    truth, probabilities = sample(seed, 2)
    positive, called = truth == 1, probabilities[:, 1] >= 0.5
    confusion = metrics.rule_confusion(positive, called)
    found = metrics.likelihood_ratios(metrics.sensitivity(confusion)[1], metrics.specificity(confusion)[1])
    expected = sk.class_likelihood_ratios(positive, called)
    np.testing.assert_allclose(found, expected, rtol=1e-9, equal_nan=True)


def test_a_class_without_films_leaves_balanced_accuracy_undefined() -> None:
    assert np.isnan(metrics.balanced_accuracy(np.array([[2, 1], [0, 0]])))
    np.testing.assert_array_equal(metrics.npv(np.array([[2, 0], [1, 0]])), [np.nan, 2 / 3])


def test_weights_of_another_length_or_below_zero_are_refused() -> None:
    positive = np.array([True, False])
    for weights, message in ((np.ones(3), r"one per film, got shape \[3\]"), (np.array([1.0, -1.0]), "got -1")):
        with pytest.raises(ValueError, match=message):
            metrics.rule_confusion(positive, positive, weights)
