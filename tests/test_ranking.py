"""Areas under curves, weighted, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumoscope import metrics
from predictions import film_weights, sample

SEEDS = st.integers(0, 10_000)


@given(seed=SEEDS, classes=st.integers(2, 5))
@settings(deadline=None)
def test_average_precisions_agree_with_scikit_learn(seed: int, classes: int) -> None:
    truth, probabilities = sample(seed, classes)
    rest = [sk.average_precision_score(truth == label, probabilities[:, label]) for label in range(classes)]
    np.testing.assert_allclose(metrics.class_average_precisions(truth, probabilities), rest, rtol=0, atol=1e-9)
    assert metrics.macro_average_precision(truth, probabilities) == pytest.approx(np.mean(rest), abs=1e-9)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=50)
def test_weighted_areas_agree_with_scikit_learn(seed: int) -> None:
    truth, probabilities = sample(seed, 2)
    positive, scores = truth == 1, probabilities[:, 1]
    rows = film_weights(seed, len(truth))
    aurocs, averages = metrics.weighted_areas(positive, scores, rows)
    for at, weights in enumerate(rows):
        if weights[positive].sum() > 0:
            value = sk.average_precision_score(positive, scores, sample_weight=weights)
            np.testing.assert_allclose(averages[at], value, rtol=0, atol=1e-9)
            if weights[~positive].sum() > 0:
                value = sk.roc_auc_score(positive, scores, sample_weight=weights)
                np.testing.assert_allclose(aurocs[at], value, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(metrics.weighted_aurocs(positive, scores, rows), aurocs)
    np.testing.assert_array_equal(metrics.weighted_average_precisions(positive, scores, rows), averages)


def test_areas_are_undefined_without_positives_and_aurocs_also_without_negatives() -> None:
    scores, rows = np.array([0.1, 0.7, 0.9]), np.array([[1, 0, 0], [0, 1, 1]])
    aurocs, averages = metrics.weighted_areas(np.array([False, True, True]), scores, rows)
    np.testing.assert_array_equal(aurocs, [np.nan, np.nan])
    np.testing.assert_array_equal(averages, [np.nan, 1])
    nothing = metrics.weighted_areas(np.zeros(0, bool), np.zeros(0), np.ones((1, 0)))
    assert np.isnan(nothing).all()


def test_films_without_weight_at_the_highest_scores_do_not_matter() -> None:
    positive, scores = np.array([False, True, False, True]), np.array([0.9, 0.8, 0.4, 0.2])
    rows = np.array([[0.0, 0.1, 0.7, 0.3]])
    expected = sk.average_precision_score(positive[1:], scores[1:], sample_weight=rows[0, 1:])
    assert metrics.weighted_average_precisions(positive, scores, rows)[0] == pytest.approx(expected, abs=1e-12)


def test_a_missing_class_is_left_out_of_the_mean() -> None:
    truth, probabilities = np.array([0, 0, 1]), np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1]])
    values = metrics.class_average_precisions(truth, probabilities)
    assert np.isnan(values[2])
    assert metrics.macro_average_precision(truth, probabilities) == pytest.approx(values[:2].mean())
