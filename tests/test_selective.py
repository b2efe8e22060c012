"""Curves of accuracy over coverage, and figures of prediction sets, compared with their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumoscope import metrics
from predictions import film_weights, sample

SEEDS = st.integers(0, 10_000)


@given(seed=SEEDS)
@settings(deadline=None)
def test_each_point_is_the_accuracy_of_the_films_with_at_least_its_confidence(seed: int) -> None:
    truth, probabilities = sample(seed)
    right, confidence = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1)
    weights = film_weights(seed, len(truth))[1]
    curve = metrics.coverage_points(right, confidence, weights, most=None)
    assert curve.threshold.tolist() == sorted(set(confidence.tolist()), reverse=True)
    for coverage, accuracy, threshold in zip(*curve, strict=True):
        answered = confidence >= threshold
        assert coverage == pytest.approx(weights[answered].sum() / weights.sum(), abs=1e-9)
        assert accuracy == pytest.approx(np.average(right[answered], weights=weights[answered]), abs=1e-9)


@given(seed=SEEDS)
@settings(deadline=None)
def test_the_area_is_the_mean_risk_over_the_films(seed: int) -> None:
    truth, probabilities = sample(seed)
    right, confidence = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1)
    rows = film_weights(seed, len(truth))
    found = metrics.risk_coverage_areas(right, confidence, rows)
    for at, weights in enumerate(rows):
        total = 0.0
        for film in np.flatnonzero(weights):
            answered = confidence >= confidence[film]
            total += weights[film] * np.average(~right[answered], weights=weights[answered])
        assert found[at] == pytest.approx(total / weights.sum(), abs=1e-9)


def test_the_area_without_ties_agrees_with_geifman() -> None:
    random = np.random.default_rng(0)
    right, confidence = random.random(200) < 0.7, random.random(200)
    wrong = ~right[np.argsort(-confidence)]
    risks = np.cumsum(wrong) / np.arange(1, 201)
    assert metrics.risk_coverage_areas(right, confidence, np.ones((1, 200)))[0] == pytest.approx(risks.mean(), abs=1e-9)


@given(seed=SEEDS)
@settings(deadline=None)
def test_accuracy_at_a_coverage_is_that_of_the_most_confident_films(seed: int) -> None:
    truth, probabilities = sample(seed)
    right, confidence = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1)
    rows, coverages = film_weights(seed, len(truth))[:2], np.array([0.1, 0.5, 0.75, 1.0])
    found = metrics.accuracies_at(right, confidence, rows, coverages)
    for at, weights in enumerate(rows):
        for place, coverage in enumerate(coverages):
            enough = [
                each for each in confidence if weights[confidence >= each].sum() >= coverage * weights.sum() - 1e-9
            ]
            answered = confidence >= max(enough)
            expected = np.average(right[answered], weights=weights[answered])
            assert found[at, place] == pytest.approx(expected, abs=1e-9)


def test_few_points_are_enough_for_the_chart() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(5000)
    right = random.random(5000) < confidence
    curve = metrics.coverage_points(right, confidence, most=150)
    whole = metrics.coverage_points(right, confidence, most=None)
    assert len(curve.coverage) <= 150
    late = whole.coverage > 0.02
    drawn = np.interp(whole.coverage[late], curve.coverage, curve.accuracy)
    assert np.abs(drawn - whole.accuracy[late]).max() < 0.005
    assert (curve.coverage[-1], curve.accuracy[-1]) == (1, right.mean())


@given(seed=SEEDS)
@settings(deadline=None)
def test_sets_are_counted(seed: int) -> None:
    truth, probabilities = sample(seed)
    sets = probabilities > 0.3
    rows = film_weights(seed, len(truth))
    found = metrics.set_figures(truth, sets, rows)
    covered, sizes = [bool(row[label]) for row, label in zip(sets, truth, strict=True)], [sum(row) for row in sets]
    for at, weights in enumerate(rows):
        assert found.coverage[at] == pytest.approx(np.average(covered, weights=weights), abs=1e-9)
        assert found.size[at] == pytest.approx(np.average(sizes, weights=weights), abs=1e-9)
        for size in range(4):
            share = np.average([each == size for each in sizes], weights=weights)
            assert found.size_shares[at, size] == pytest.approx(share, abs=1e-9)
        for label in range(3):
            own = weights * (truth == label)
            values = (found.class_coverage[at, label], found.class_size[at, label])
            if own.sum() == 0:
                assert np.isnan(values).all()
            else:
                expected = np.average(covered, weights=own), np.average(sizes, weights=own)
                assert values == pytest.approx(expected, abs=1e-9)
    alike = metrics.set_figures(truth, sets)
    assert float(alike.coverage) == pytest.approx(np.mean(covered))
    assert float(alike.size) == pytest.approx(np.mean(sizes))


def test_without_films_of_positive_weight_figures_are_undefined_and_the_curve_is_empty() -> None:
    nothing = np.zeros((1, 2))
    right, confidence = np.array([True, False]), np.array([0.9, 0.8])
    assert np.isnan(metrics.risk_coverage_areas(right, confidence, nothing)).all()
    assert np.isnan(metrics.accuracies_at(right, confidence, nothing, np.array([0.5]))).all()
    assert len(metrics.coverage_points(right, confidence, nothing[0]).coverage) == 0
