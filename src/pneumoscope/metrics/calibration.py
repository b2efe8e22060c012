"""Probabilities from logits: fitted so that they are as frequent as they say, and how well they are so."""

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
_FLOOR = 1e-12  # of a probability whose logarithm is taken


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities of logits `[..., C]`, in double precision.

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
        """Calibrated probabilities of logits, both `[..., C]`: the one place where they are made."""
        return softmax(self.logits(logits))


def prior_weights(truth: Indices, prior: Floats) -> Floats:
    """How much each film counts, `float64 [N]`, sum 1, so that the classes are as frequent as `prior` `[C]` says.

    >>> prior_weights(np.array([0, 0, 1]), np.array([0.5, 0.5])).tolist()
    [0.25, 0.25, 0.5]
    """
    weights = (np.asarray(prior) / np.maximum(np.bincount(truth, minlength=len(prior)), 1))[truth]
    return np.asarray(weights / weights.sum())


def fit_temperature(
    logits: Floats, truth: Indices, weights: Floats | None = None, *, cautious: bool = False
) -> Scaling:
    """The temperature with the least cross-entropy (Guo et al. 2017, arXiv:1706.04599), from 0.05 to 20.

    Args:
        logits: of unseen films, `[N, C]`.
        truth: class indices `[N]`.
        weights: how much each film counts, `[N]`; by default all count alike.
        cautious: aim at `(N + 1) / (N + C)` for the true class and at `1 / (N + C)` for each other one, not at 1 and 0
            (Laplace's rule of succession, as in Platt 1999), so that few films without an error make no certainty.
    """
    classes = logits.shape[1]
    targets, shares = _targets(truth, classes, cautious=cautious), _shares(weights, len(truth))
    (factor,) = _newton(np.asarray(logits, np.float64)[:, :, np.newaxis], targets, shares, np.ones(1))
    factor = min(max(factor, 1 / FLATTEST), 1 / SHARPEST)
    return Scaling(method="temperature", scale=np.full(classes, factor), bias=np.zeros(classes))


def fit_vector(logits: Floats, truth: Indices, weights: Floats | None = None, *, cautious: bool = False) -> Scaling:
    """A scale and a bias for each class with the least cross-entropy; the biases' mean is 0, which changes nothing.

    The arguments are those of `fit_temperature`. Of films that can be told apart without an error there is no least
    cross-entropy unless `cautious`; the scales then grow until the steps run out.
    """
    classes = logits.shape[1]
    unit = np.broadcast_to(np.eye(classes), (len(logits), classes, classes))
    features = np.concatenate([unit * np.asarray(logits, np.float64)[:, :, np.newaxis], unit], axis=2)
    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    targets, shares = _targets(truth, classes, cautious=cautious), _shares(weights, len(truth))
    found = _newton(features, targets, shares, start)
    bias = found[classes:]
    return Scaling(method="vector", scale=found[:classes], bias=bias - bias.mean())


def reached_by(scores: Floats, share: float, weights: Floats | None = None) -> float:
    """The largest threshold, to 6 decimals, that a `share` of the weight of `scores` `[N]`, or more, reaches.

    >>> reached_by(np.array([0.9, 0.4, 0.7, 0.8]), 0.75)
    0.7
    """
    if not len(scores) or not 0 < share <= 1:
        raise ValueError(f"expected values and a share over 0 up to 1, got {len(scores)} values and {share}")
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(_shares(weights, len(scores))[order])
    place = min(int(np.searchsorted(reached, share - 1e-9)), len(scores) - 1)  # a sum of shares is rounded
    return math.floor(float(scores[order][place]) * 1e6 + 1e-6) / 1e6


def _shares(weights: Floats | None, count: int) -> Floats:
    return np.full(count, 1 / count) if weights is None else np.asarray(weights / weights.sum())


def _targets(truth: Indices, classes: int, *, cautious: bool) -> Floats:
    """What the probabilities are to be, `float64 [N, C]`."""
    check_indices(truth, classes)
    true = np.eye(classes)[truth]
    return (len(truth) * true + 1) / (len(truth) + classes) if cautious else true


def _newton(features: Floats, targets: Floats, shares: Floats, start: Floats) -> Floats:
    """The parameters `[K]` with the least cross-entropy of `softmax(features @ parameters)`, by Newton's method.

    It is convex in them, for they enter the logits linearly. Steps are halved until the loss falls.

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
        step = np.linalg.lstsq(second, gradient, rcond=1e-12)[0]  # singular: a shift of all biases changes nothing
        size = 1.0
        while (tried := _loss(features @ (found - size * step), targets, shares))[0] > loss and size > _SMALLEST:
            size /= 2
        if not loss - tried[0] > _ENOUGH:
            break
        found, (loss, probabilities) = found - size * step, tried
    return np.asarray(found)


def _loss(logits: Floats, targets: Floats, shares: Floats) -> tuple[float, Floats]:
    """The weighted mean cross-entropy, and the probabilities `[N, C]`."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(shares @ (targets * logarithms).sum(axis=1))), np.exp(logarithms)
