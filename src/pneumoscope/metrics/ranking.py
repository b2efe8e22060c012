"""How well scores order films: areas under curves."""

import numpy as np
from numpy.typing import NDArray

from pneumoscope.metrics.arrays import Counts, Floats, Indices, mean, ratio


def auroc(positive: NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half.

    >>> auroc(np.array([False, True, True]), np.array([0.2, 0.2, 0.9]))
    0.75
    """
    return float(weighted_aurocs(positive, scores, np.ones((1, len(scores)), np.int64))[0])


def class_aurocs(truth: Indices, probabilities: Floats) -> Floats:
    """One-versus-rest AUROC of every class, `float [C]`."""
    return np.array([auroc(truth == index, probabilities[:, index]) for index in range(probabilities.shape[1])])


def macro_auroc(truth: Indices, probabilities: Floats) -> float:
    """Unweighted mean of the one-versus-rest AUROCs that are defined."""
    return float(mean(class_aurocs(truth, probabilities)))


def weighted_aurocs(positive: NDArray[np.bool_], scores: Floats, weights: Counts) -> Floats:
    """`auroc` for each row of `weights` (`[B, N]`, how often each film counts), `float [B]`.

    >>> weights = np.array([[1, 1, 1], [1, 2, 0]])
    >>> weighted_aurocs(np.array([False, True, True]), np.array([0.2, 0.2, 0.9]), weights).tolist()
    [0.75, 0.5]
    """
    order = np.argsort(scores, kind="stable")
    ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    inside = positive[order]
    ordered = weights[:, order].astype(np.float64)
    positives = np.add.reduceat(ordered * inside, ties, axis=1)
    negatives = np.add.reduceat(ordered * ~inside, ties, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return ratio((positives * (below + negatives / 2)).sum(axis=1), pairs)
