"""Calibration, against scikit-learn and SciPy, and the choice between methods."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from pneumoscope import metrics
from pneumoscope.metrics import HeldOutFilms

SEEDS = st.integers(0, 10_000)


def drawn(seed: int, count: int, scale: Any = 1.0, bias: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[N, 3]`, and classes that are drawn with the probabilities `softmax(scale * logits + bias)`."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * 2
    shares = metrics.softmax(logits * scale + bias)
    return logits, np.array([random.choice(3, p=row) for row in shares])


def unseen(logits: np.ndarray, truth: np.ndarray, *, patients: int | None = None, folds: int = 5) -> HeldOutFilms:
    patient = np.arange(len(truth)) % (patients or len(truth))
    return HeldOutFilms(
        logits=logits,
        truth=truth,
        patient=patient,
        fold=patient % folds,
        weights=metrics.prior_weights(truth, np.full(3, 1 / 3)),
    )


class LogitClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier whose inputs are its logits."""

    classes_ = np.arange(3)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, *_: Any) -> "LogitClassifier":
        return self

    def decision_function(self, logits: Any) -> Any:
        return logits

    def predict(self, logits: Any) -> Any:
        return logits.argmax(axis=1)


@given(seed=SEEDS, factor=st.floats(0.3, 3), weighted=st.booleans())
@settings(deadline=None, max_examples=25)
def test_the_temperature_agrees_with_scikit_learn(seed: int, factor: float, *, weighted: bool) -> None:
    logits, truth = drawn(seed, 200, factor)
    weights = np.random.default_rng(seed).uniform(0.2, 2, 200) if weighted else None
    oracle = CalibratedClassifierCV(FrozenEstimator(LogitClassifier()), method="temperature")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Since FrozenEstimator")  # it is fitted already and needs no weights
        oracle.fit(logits, truth, sample_weight=weights)
    found = metrics.fit_temperature(logits, truth, weights)
    assert found.method == "temperature"
    assert len(set(found.scale.tolist())) == 1
    assert not found.bias.any()
    np.testing.assert_allclose(found.probabilities(logits), oracle.predict_proba(logits), atol=1e-6)


@given(seed=SEEDS, weighted=st.booleans(), cautious=st.booleans())
@settings(deadline=None, max_examples=15)
def test_vector_scaling_has_the_least_loss_that_scipy_finds(seed: int, *, weighted: bool, cautious: bool) -> None:
    logits, truth = drawn(seed, 300, np.array([0.7, 2.0, 1.1]), np.array([0.8, -1.5, 0.2]))
    weights = np.random.default_rng(seed).uniform(0.2, 2, 300) if weighted else None
    shares = np.full(300, 1 / 300) if weights is None else weights / weights.sum()
    targets = np.eye(3)[truth]
    if cautious:
        targets = (300 * targets + 1) / 303

    def loss(parameters: np.ndarray) -> float:
        probabilities = metrics.softmax(logits * parameters[:3] + parameters[3:])
        return float(-(shares @ (targets * np.log(probabilities)).sum(axis=1)))

    found = metrics.fit_vector(logits, truth, weights, cautious=cautious)
    oracle = minimize(loss, np.r_[np.ones(3), np.zeros(3)], method="BFGS", options={"gtol": 1e-8})
    assert loss(np.r_[found.scale, found.bias]) <= oracle.fun + 1e-9
    np.testing.assert_allclose(found.scale, oracle.x[:3], atol=1e-3)
    np.testing.assert_allclose(found.bias, oracle.x[3:] - oracle.x[3:].mean(), atol=1e-3)
    assert found.bias.sum() == pytest.approx(0, abs=1e-9)


def test_known_scales_and_biases_are_recovered() -> None:
    scale, bias = np.array([0.7, 2.0, 1.1]), np.array([0.8, -1.0, 0.2])
    logits, truth = drawn(1, 20_000, scale, bias)
    found = metrics.fit_vector(logits, truth)
    np.testing.assert_allclose(found.scale, scale, rtol=0.1)
    np.testing.assert_allclose(found.bias, bias, atol=0.1)
    for factor in (0.5, 1.0, 3.0):
        logits, truth = drawn(1, 4000, factor)
        assert metrics.fit_temperature(logits.astype(np.float32), truth).scale[0] == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("fit", [metrics.fit_temperature, metrics.fit_vector])
def test_a_weight_equals_repetitions_of_a_film(fit: Any) -> None:
    logits, truth = drawn(3, 150)
    times = np.random.default_rng(0).integers(1, 4, 150)
    one, two = fit(logits, truth, times), fit(np.repeat(logits, times, axis=0), np.repeat(truth, times))
    np.testing.assert_allclose(one.scale, two.scale, rtol=1e-6)
    np.testing.assert_allclose(one.bias, two.bias, atol=1e-6)


def test_few_films_without_an_error_do_not_lead_to_certainty() -> None:
    """Their best temperature would be 0; with `cautious`, ten films reach a probability of 11/13, 300 films 301/303."""
    for count, most in ((10, 11 / 13), (300, 301 / 303)):
        truth = np.arange(count) % 3
        logits = 0.1 * np.eye(3)[truth]
        bold = metrics.fit_temperature(logits, truth)
        assert bold.scale[0] == 20  # the sharpest that is allowed
        cautious = metrics.fit_temperature(20 * logits, truth, cautious=True).probabilities(20 * logits)
        np.testing.assert_allclose(cautious.max(axis=1), most, atol=1e-6)


def test_logits_that_contradict_the_labels_are_flattened() -> None:
    truth = np.arange(60) % 3
    assert metrics.fit_temperature(-np.eye(3)[truth] * 5, truth).scale[0] == pytest.approx(1 / 20)


def test_vector_scaling_is_chosen_if_it_is_better_on_held_out_films() -> None:
    needed = unseen(*drawn(0, 2000, np.array([0.6, 2.0, 1.0]), np.array([0.8, -1.5, 0.2])))
    assert metrics.choose_method(needed) == "vector"
    assert metrics.choose_method(unseen(*drawn(0, 2000, 1.7))) == "temperature"


def test_few_films_keep_the_temperature() -> None:
    """Vector scaling has five parameters, which would overfit to few films."""
    scale, bias = np.array([0.9, 1.2, 1.0]), np.array([0.2, -0.3, 0.1])
    chosen = [metrics.choose_method(unseen(*drawn(seed, 60, scale, bias))) for seed in range(20)]
    assert chosen.count("temperature") >= 18
    one_patient = unseen(*drawn(0, 60, scale, bias), patients=1)
    assert metrics.choose_method(one_patient) == "temperature"
    apart = unseen(np.eye(3)[np.arange(60) % 3] * [30, -1, 5], np.arange(60) % 3)
    assert metrics.choose_method(apart) == "temperature"  # a class with a negative scale


def test_many_films_of_few_patients_count_as_few() -> None:
    """The interval is over patients: 2,000 films of few patients give much less certainty than 2,000 patients."""
    logits, truth = drawn(0, 2000, np.array([0.6, 2.0, 1.0]), np.array([0.8, -1.5, 0.2]))
    many, few = unseen(logits, truth), unseen(logits, truth, patients=5)
    noise = np.random.default_rng(0).normal(size=5)[few.patient] + np.random.default_rng(1).normal(size=2000)
    wide, narrow = (metrics.difference_interval(noise, np.zeros(2000), each) for each in (few, many))
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])


@pytest.mark.parametrize("method", ["none", "temperature", "vector"])
def test_a_film_does_not_affect_its_own_cross_fitted_probabilities(method: metrics.Method) -> None:
    logits, truth = drawn(5, 200)
    films = unseen(logits, truth)
    found = metrics.cross_fitted(films, method)
    turned = truth.copy()
    turned[films.fold == 2] = (turned[films.fold == 2] + 1) % 3
    changed = metrics.cross_fitted(
        HeldOutFilms(logits=logits, truth=turned, patient=films.patient, fold=films.fold, weights=films.weights), method
    )
    np.testing.assert_array_equal(found[films.fold == 2], changed[films.fold == 2])
    assert (method == "none") == np.array_equal(found, changed)
    for held, others in films.parts():
        expected = metrics.fit(others, method).probabilities(logits[held])
        np.testing.assert_allclose(found[held], expected)


def test_weights_make_classes_as_frequent_as_the_prior() -> None:
    truth = np.array([0] * 7 + [1] * 2 + [2])
    for prior in ([1 / 3, 1 / 3, 1 / 3], [0.2, 0.5, 0.3]):
        weights = metrics.prior_weights(truth, np.array(prior))
        np.testing.assert_allclose(np.bincount(truth, weights), prior)
    alone = metrics.prior_weights(np.array([0, 0, 2]), np.full(3, 1 / 3))
    np.testing.assert_allclose(np.bincount([0, 0, 2], alone, 3), [0.5, 0, 0.5])  # a class without films


def test_the_mean_of_the_losses_is_the_cross_entropy() -> None:
    logits, truth = drawn(0, 50)
    shares = metrics.softmax(logits)
    assert metrics.film_losses(truth, shares).mean() == pytest.approx(metrics.cross_entropy(truth, shares))


@given(seed=SEEDS, share=st.floats(0.01, 1), weighted=st.booleans())
@settings(deadline=None)
def test_the_threshold_is_the_largest_that_the_share_reaches(seed: int, share: float, *, weighted: bool) -> None:
    random = np.random.default_rng(seed)
    scores = np.round(random.random(random.integers(1, 40)), 2)
    weights = random.uniform(0.1, 3, len(scores)) if weighted else np.ones(len(scores))
    threshold = metrics.threshold_reached_by(scores, share, weights if weighted else None)

    def reached(least: float) -> float:
        return float(weights[scores >= least].sum() / weights.sum())

    assert reached(threshold) >= share - 1e-9
    above = scores[scores > threshold + 1e-6]
    assert not len(above) or reached(float(above.min())) < share


def test_a_threshold_without_scores_or_share_is_refused() -> None:
    for scores, share in (([], 0.5), ([0.5], 0.0), ([0.5], 1.1)):
        with pytest.raises(ValueError, match="a share over 0 up to 1"):
            metrics.threshold_reached_by(np.array(scores), share)
