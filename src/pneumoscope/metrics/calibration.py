"""Probabilities of logits, and how well they fit what is true."""

import math

import numpy as np
from numpy.typing import NDArray

from pneumoscope.metrics.arrays import Floats, Indices, check_indices


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
    chosen = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.clip(chosen, 1e-12, None)).mean())


def fit_temperature(logits: Floats, truth: Indices, weights: Floats | None = None) -> float:
    """The temperature with the least cross-entropy (Guo et al. 2017, arXiv:1706.04599), from 0.05 to 20.

    Args:
        logits: of unseen films, `[N, C]`.
        truth: class indices `[N]`.
        weights: how much each film counts, `[N]`; by default all count alike.
    """
    from scipy.optimize import minimize_scalar

    shares = np.full(len(truth), 1 / len(truth)) if weights is None else weights / weights.sum()

    def loss(logarithm: float) -> float:
        probabilities = softmax(logits / np.exp(logarithm))
        return float(-(shares * np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12))).sum())

    return round(float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x)), 4)


def coverage_threshold(confidence: Floats, coverage: float) -> float:
    """The largest threshold, to 6 decimals, that at least a share `coverage` of `confidence` `[N]` reaches.

    >>> coverage_threshold(np.array([0.9, 0.4, 0.7, 0.8]), 0.75)
    0.7
    """
    if not len(confidence) or not 0 < coverage <= 1:
        raise ValueError(f"expected values and a coverage over 0 up to 1, got {len(confidence)} values and {coverage}")
    below = math.floor((1 - coverage) * len(confidence) + 1e-9)
    return math.floor(float(np.sort(confidence)[below]) * 1e6 + 1e-6) / 1e6
