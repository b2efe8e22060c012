"""How well scores rank films: areas under ROC and precision-recall curves."""

import numpy as np
from numpy.typing import NDArray

from pneumoscope.metrics.array_types import Flags, Floats, Indices, Weights, mean, ratio


def auroc(positive: Flags, scores: Floats) -> float:
    """Area under the ROC curve: the chance that a positive film scores above a negative one; ties count half.

    >>> auroc(np.array([False, True, True]), np.array([0.2, 0.2, 0.9]))
    0.75
    """
    return float(weighted_aurocs(positive, scores, np.ones((1, len(scores)), np.int64))[0])


def class_aurocs(truth: Indices, probabilities: Floats) -> Floats:
    """One-versus-rest AUROC of every class, `float [C]`."""
    return np.array([auroc(truth == index, probabilities[:, index]) for index in range(probabilities.shape[1])])


def macro_auroc(truth: Indices, probabilities: Floats) -> float:
    """Unweighted mean of the defined one-versus-rest AUROCs."""
    return float(mean(class_aurocs(truth, probabilities)))


def average_precision(positive: Flags, scores: Floats) -> float:
    """Area under the precision-recall curve as steps, `Σ (Rₙ - Rₙ₋₁) Pₙ`, as in scikit-learn.

    The area under straight lines between the points would be too large (Davis and Goadrich 2006).

    >>> round(average_precision(np.array([False, True, True]), np.array([0.2, 0.1, 0.9])), 4)
    0.8333
    """
    return float(weighted_average_precisions(positive, scores, np.ones((1, len(scores)), np.int64))[0])


def class_average_precisions(truth: Indices, probabilities: Floats) -> Floats:
    """One-versus-rest average precision of every class, `float [C]`."""
    count = probabilities.shape[1]
    return np.array([average_precision(truth == index, probabilities[:, index]) for index in range(count)])


def macro_average_precision(truth: Indices, probabilities: Floats) -> float:
    """Unweighted mean of the defined one-versus-rest average precisions."""
    return float(mean(class_average_precisions(truth, probabilities)))


def weighted_aurocs(positive: Flags, scores: Floats, weights: Weights) -> Floats:
    """`auroc` for each row of `weights` (`[B, N]`, how often each film counts), `float [B]`.

    >>> weights = np.array([[1, 1, 1], [1, 2, 0]])
    >>> weighted_aurocs(np.array([False, True, True]), np.array([0.2, 0.2, 0.9]), weights).tolist()
    [0.75, 0.5]
    """
    return weighted_areas(positive, scores, weights)[0]


def weighted_average_precisions(positive: Flags, scores: Floats, weights: Weights) -> Floats:
    """`average_precision` for each row of `weights` (`[B, N]`, how often each film counts), `float [B]`."""
    return weighted_areas(positive, scores, weights)[1]


def weighted_areas(positive: Flags, scores: Floats, weights: Weights) -> tuple[Floats, Floats]:
    """`auroc` and `average_precision` for each row of `weights` `[B, N]`, `float [B]` each, from one sort.

    Both are NaN in a row without positives; the AUROC is NaN in a row without negatives.
    """
    _, positives, negatives = group_by_score(positive, scores, weights)
    hits, alarms = np.cumsum(positives, axis=1), np.cumsum(negatives, axis=1)
    total, others = positives.sum(axis=1), negatives.sum(axis=1)
    below = others[:, np.newaxis] - alarms  # negatives of lower scores; those of the same score count half below
    aurocs = ratio((positives * (below + negatives / 2)).sum(axis=1), total * others)
    called = hits + alarms
    precisions = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return aurocs, ratio((positives * precisions).sum(axis=1), total)


def group_by_score(
    positive: Flags, scores: Floats, weights: Weights
) -> tuple[Floats, NDArray[np.float64], NDArray[np.float64]]:
    """Group films by score, highest first: no threshold can separate films of equal score.

    Args:
        positive: whether each film is positive, `[N]`.
        scores: the higher, the more likely positive, `[N]`.
        weights: how much each film counts, `[B, N]`.

    Returns:
        The G distinct scores, falling, and for each the weight of its positives and of its negatives, `float [B, G]`.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    starts = np.flatnonzero(np.diff(falling, prepend=np.inf))
    inside, ordered = positive[order], weights[:, order].astype(np.float64)
    positives, negatives = ordered * inside, ordered * ~inside
    if len(starts) < len(order):
        positives, negatives = (np.add.reduceat(each, starts, axis=1) for each in (positives, negatives))
    return falling[starts], positives, negatives
