"""Calibration: temperature and vector scaling of logits, fitted by least cross-entropy."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pneumoscope.metrics.array_types import Floats, Indices, check_indices

Method: TypeAlias = Literal["none", "temperature", "vector"]

SHARPEST, FLATTEST = 0.05, 20.0  # temperatures
_STEPS = 100  # Newton's; a fit takes about ten
_ENOUGH = 1e-15  # gain of a step, in nats, below which a fit has ended
_SMALLEST = 1e-6  # share of Newton's step
_FLOOR = 1e-12  # least probability whose logarithm is taken


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Softmax over the last axis of logits `[..., C]`, in double precision.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def cross_entropy(truth: Indices, probabilities: Floats) -> float:
    """Mean negative natural logarithm of the true class's probability (floored at 1e-12).

    >>> round(cross_entropy(np.array([0]), np.array([[0.5, 0.5]])), 4)
    0.6931
    """
    check_indices(truth, probabilities.shape[1])
    if not len(truth):
        return float("nan")
    return float(film_losses(truth, probabilities).mean())


def film_losses(truth: Indices, probabilities: Floats) -> Floats:
    """Per film, the negative natural logarithm of the true class's probability (floored at 1e-12), `float64 [N]`."""
    chosen = probabilities[np.arange(len(truth)), truth]
    return np.asarray(-np.log(np.clip(chosen, _FLOOR, None)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """How logits become probabilities: `softmax(scale * logits + bias)`, scale and bias `float64 [C]`.

    `temperature` has one scale for all classes and no bias; `vector` is the vector scaling of Guo et al. 2017
    (arXiv:1706.04599, section 4.2).
    """

    method: Method
    scale: Floats
    bias: Floats

    def logits(self, logits: Floats) -> NDArray[np.float64]:
        """Calibrated logits, `[..., C]`."""
        return np.asarray(np.asarray(logits, np.float64) * self.scale + self.bias)

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Calibrated probabilities of logits, both `[..., C]`. No other code computes those of a decision."""
        return softmax(self.logits(logits))


def prior_weights(truth: Indices, prior: Floats) -> Floats:
    """Weights of films, `float64 [N]`, sum 1, that give each class the total weight that `prior` `[C]` states.

    >>> prior_weights(np.array([0, 0, 1]), np.array([0.5, 0.5])).tolist()
    [0.25, 0.25, 0.5]
    """
    weights = (np.asarray(prior) / np.maximum(np.bincount(truth, minlength=len(prior)), 1))[truth]
    return np.asarray(weights / weights.sum())


def fit_temperature(
    logits: Floats, truth: Indices, weights: Floats | None = None, *, cautious: bool = False
) -> Scaling:
    """The temperature from 0.05 to 20 with the least cross-entropy (Guo et al. 2017, arXiv:1706.04599).

    Args:
        logits: of films that the network has not seen, `[N, C]`.
        truth: class indices `[N]`.
        weights: how much each film counts, `[N]`; by default all count alike.
        cautious: use targets of `(N + 1) / (N + C)` for the true class and `1 / (N + C)` for each other class instead
            of 1 and 0 (Laplace's rule of succession, as in Platt 1999): a few films without an error then do not
            lead to certainty.
    """
    classes = logits.shape[1]
    targets, shares = _targets(truth, classes, cautious=cautious), _shares(weights, len(truth))
    (factor,) = _newton(np.asarray(logits, np.float64)[:, :, np.newaxis], targets, shares, np.ones(1))
    factor = min(max(factor, 1 / FLATTEST), 1 / SHARPEST)
    return Scaling(method="temperature", scale=np.full(classes, factor), bias=np.zeros(classes))


def fit_vector(logits: Floats, truth: Indices, weights: Floats | None = None, *, cautious: bool = False) -> Scaling:
    """A scale and a bias for each class with the least cross-entropy.

    The arguments are those of `fit_temperature`. Where the classes can be separated without an error, the cross-entropy
    has no minimum unless `cautious`: the scales grow until a step gains next to nothing.
    """
    # One column per scale and one per bias: the logits are then linear in the parameters, and the loss is convex.
    classes = logits.shape[1]
    unit = np.broadcast_to(np.eye(classes), (len(logits), classes, classes))
    features = np.concatenate([unit * np.asarray(logits, np.float64)[:, :, np.newaxis], unit], axis=2)
    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    targets, shares = _targets(truth, classes, cautious=cautious), _shares(weights, len(truth))
    found = _newton(features, targets, shares, start)
    bias = found[classes:]  # a shift of all biases leaves the softmax as it is; their mean is set to 0
    return Scaling(method="vector", scale=found[:classes], bias=bias - bias.mean())


def threshold_reached_by(scores: Floats, share: float, weights: Floats | None = None) -> float:
    """The largest threshold, to 6 decimals, that at least a `share` of the weight of `scores` `[N]` reaches.

    >>> threshold_reached_by(np.array([0.9, 0.4, 0.7, 0.8]), 0.75)
    0.7
    """
    if not len(scores) or not 0 < share <= 1:
        raise ValueError(f"expected values and a share over 0 up to 1, got {len(scores)} values and {share}")
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(_shares(weights, len(scores))[order])
    # The tolerance absorbs the rounding of the cumulated shares: ten times 0.1 is not quite 1.
    place = min(int(np.searchsorted(reached, share - 1e-9)), len(scores) - 1)
    # Rounded down, so that the score itself reaches the threshold that is stored.
    return math.floor(float(scores[order][place]) * 1e6 + 1e-6) / 1e6


def _shares(weights: Floats | None, count: int) -> Floats:
    return np.full(count, 1 / count) if weights is None else np.asarray(weights / weights.sum())


def _targets(truth: Indices, classes: int, *, cautious: bool) -> Floats:
    """The target probabilities of the fit, `float64 [N, C]`."""
    check_indices(truth, classes)
    true = np.eye(classes)[truth]
    return (len(truth) * true + 1) / (len(truth) + classes) if cautious else true


def _newton(features: Floats, targets: Floats, shares: Floats, start: Floats) -> Floats:
    """The parameters `[K]` with the least cross-entropy of `softmax(features @ parameters)`, by Newton's method.

    The loss is convex in the parameters, which enter the logits linearly. A step is halved until the loss falls.

    Args:
        features: `float64 [N, C, K]`.
        targets: `float64 [N, C]`, rows sum to 1.
        shares: weights of the rows, `[N]`, sum 1.
        start: `[K]`.
    """
    found, (loss, probabilities) = start, _loss(features @ start, targets, shares)
    for _ in range(_STEPS):
        gradient = np.einsum("n,nc,nck->k", shares, probabilities - targets, features)
        weighted = features * (shares[:, np.newaxis] * probabilities)[:, :, np.newaxis]
        mean = np.einsum("nc,nck->nk", probabilities, features)
        second = np.einsum("nck,ncl->kl", weighted, features) - (mean * shares[:, np.newaxis]).T @ mean
        # Least squares, as the matrix is singular: a shift of all biases changes nothing.
        step = np.linalg.lstsq(second, gradient, rcond=1e-12)[0]
        size = 1.0
        while (tried := _loss(features @ (found - size * step), targets, shares))[0] > loss and size > _SMALLEST:
            size /= 2
        if not loss - tried[0] > _ENOUGH:  # also true of NaN, which ends the fit at the last finite loss
            break
        found, (loss, probabilities) = found - size * step, tried
    return np.asarray(found)


def _loss(logits: Floats, targets: Floats, shares: Floats) -> tuple[float, Floats]:
    """The weighted mean cross-entropy, and the probabilities `[N, C]`."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(shares @ (targets * logarithms).sum(axis=1))), np.exp(logarithms)
