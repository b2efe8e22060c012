"""Rates of confusion matrices, and of rules that call a film positive or not.

Definitions agree with scikit-learn's where it has the metric; predictive values and likelihood ratios are those of
Altman and Bland (BMJ 1994;308:1552; 309:102; 2004;329:168).
"""

from typing import Any

import numpy as np

from pneumoscope.metrics.array_types import (
    Counts,
    Flags,
    Floats,
    Indices,
    Matrices,
    Weights,
    check_indices,
    diagonal,
    film_weights,
    mean,
    one_hot,
    ratio,
)


def confusion_matrix(truth: Indices, predicted: Indices, classes: int) -> Counts:
    """Count films by true class (row) and predicted class (column): `int64 [C, C]`.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    check_indices(truth, classes)
    check_indices(predicted, classes)
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, predicted {predicted.shape}; they must be equal")
    # One number per cell of the matrix, so that one pass counts them all.
    flat = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def weighted_confusions(truth: Indices, predicted: Indices, classes: int, weights: Weights) -> Floats:
    """`confusion_matrix` of films that count by `weights` `[..., N]`: `float [..., C, C]`.

    >>> weighted_confusions(np.array([0, 0, 1]), np.array([0, 1, 1]), 2, np.array([2, 1, 0])).tolist()
    [[2.0, 1.0], [0.0, 0.0]]
    """
    # A matrix product over all resamples at once.
    cells = one_hot(truth * classes + predicted, classes * classes)
    return np.asarray((film_weights(weights, len(truth)) @ cells).reshape(*weights.shape[:-1], classes, classes))


def rule_confusion(positive: Flags, called: Flags, weights: Weights | None = None) -> Floats:
    """Confusion of a rule that calls films positive (index 1) or not (index 0): `float [..., 2, 2]`.

    Args:
        positive: whether each film is positive, `[N]`.
        called: whether the rule calls it positive, `[N]`; at a threshold, `scores >= threshold`.
        weights: how much each film counts, `[..., N]`; by default all count alike.
    """
    weights = film_weights(weights, len(positive))
    return weighted_confusions(positive.astype(np.int64), called.astype(np.int64), 2, weights)


def accuracy(confusion: Matrices) -> Floats:
    """Share of films on the diagonal, `float [...]`.

    >>> float(accuracy(np.array([[1, 1], [0, 2]])))
    0.75
    """
    return ratio(diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def sensitivity(confusion: Matrices) -> Floats:
    """Per class: share of its films that are predicted as it (recall), `float [..., C]`.

    >>> sensitivity(np.array([[1, 1], [0, 2]])).tolist()
    [0.5, 1.0]
    """
    return ratio(diagonal(confusion), confusion.sum(axis=-1))


def specificity(confusion: Matrices) -> Floats:
    """Per class: share of the other classes' films that are not predicted as it, `float [..., C]`.

    >>> specificity(np.array([[1, 1], [0, 2]])).tolist()
    [1.0, 0.5]
    """
    false_positives = confusion.sum(axis=-2) - diagonal(confusion)
    negatives = confusion.sum(axis=(-2, -1))[..., np.newaxis] - confusion.sum(axis=-1)
    return ratio(negatives - false_positives, negatives)


def precision(confusion: Matrices) -> Floats:
    """Per class: share of the films predicted as it that belong to it (positive predictive value), `float [..., C]`."""
    return ratio(diagonal(confusion), confusion.sum(axis=-2))


def npv(confusion: Matrices) -> Floats:
    """Per class: share of the films predicted as another that belong to another (NPV), `float [..., C]`.

    >>> npv(np.array([[1, 1], [0, 2]])).round(4).tolist()
    [0.6667, 1.0]
    """
    total = confusion.sum(axis=(-2, -1))[..., np.newaxis]
    not_called = total - confusion.sum(axis=-2)
    return ratio(not_called - (confusion.sum(axis=-1) - diagonal(confusion)), not_called)


def balanced_accuracy(confusion: Matrices) -> Floats:
    """Unweighted mean of all classes' sensitivities, `float [...]`; NaN if a class has no films.

    >>> float(balanced_accuracy(np.array([[1, 1], [0, 2]])))
    0.75
    """
    # Not `array_types.mean`: a mean over fewer classes would be another figure.
    return np.asarray(sensitivity(confusion).mean(axis=-1))


def predictive_values(
    sensitivities: float | Floats, specificities: float | Floats, prevalence: float | Floats
) -> tuple[Floats, Floats]:
    """PPV and NPV if a share `prevalence` of the films is positive, by Bayes' theorem; arrays broadcast.

    A test set's own share of positives is rarely that of a ward or a screening programme. Sensitivity and specificity
    are assumed to be the same there.

    Raises:
        ValueError: a prevalence is below 0 or over 1.

    >>> [round(float(value), 3) for value in predictive_values(0.9, 0.8, 0.1)]
    [0.333, 0.986]
    """
    share = np.asarray(prevalence, np.float64)
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"expected a prevalence from 0 to 1, got {prevalence}")
    true_positives, true_negatives = share * sensitivities, (1 - share) * specificities
    ppv = ratio(true_positives, true_positives + (1 - share) * (1 - np.asarray(specificities)))
    return ppv, ratio(true_negatives, true_negatives + share * (1 - np.asarray(sensitivities)))


def likelihood_ratios(sensitivities: float | Floats, specificities: float | Floats) -> tuple[Floats, Floats]:
    """Positive and negative likelihood ratios; NaN where the denominator is 0, as in scikit-learn.

    >>> [round(float(value), 3) for value in likelihood_ratios(0.9, 0.8)]
    [4.5, 0.125]
    """
    # Rates at which positive films are called positive, and negative films are not.
    true_positive, true_negative = np.asarray(sensitivities, np.float64), np.asarray(specificities, np.float64)
    positive = ratio(true_positive, _nan_unless_positive(1 - true_negative))
    return positive, ratio(1 - true_positive, _nan_unless_positive(true_negative))


def _nan_unless_positive(values: Floats) -> Floats:
    return np.asarray(np.where(values > 0, values, np.nan))


def f1(confusion: Matrices) -> Floats:
    """Per class: harmonic mean of precision and sensitivity, `float [..., C]`."""
    return ratio(2 * diagonal(confusion), confusion.sum(axis=-2) + confusion.sum(axis=-1))


def macro_f1(confusion: Matrices) -> Floats:
    """Unweighted mean of `f1` over the classes that have films or were predicted, `float [...]`.

    >>> round(float(macro_f1(np.array([[1, 1], [0, 2]]))), 4)
    0.7333
    """
    # `mean` skips classes that neither occur nor are predicted, as scikit-learn does.
    return mean(f1(confusion))


def mcc(confusion: Matrices) -> Floats:
    """Multi-class Matthews correlation coefficient (Gorodkin 2004), -1 to 1, `float [...]`; 0 where undefined.

    >>> round(float(mcc(np.array([[1, 1], [0, 2]]))), 4)
    0.5774
    """
    table = confusion.astype(np.float64)
    rows, columns, total = table.sum(axis=-1), table.sum(axis=-2), table.sum(axis=(-2, -1))
    covariance = diagonal(table).sum(axis=-1) * total - (rows * columns).sum(axis=-1)
    # The spread is 0 if all films are of one class, or predicted as one; scikit-learn then gives 0, too.
    spread = np.sqrt((total**2 - (columns**2).sum(axis=-1)) * (total**2 - (rows**2).sum(axis=-1)))
    return np.asarray(np.where(spread > 0, ratio(covariance, _nan_unless_positive(spread)), 0.0))


def group_confusion(confusion: Matrices, members: list[int]) -> Matrices:
    """The confusion matrix of a group of classes (index 1) against all others (index 0), `[..., 2, 2]`.

    >>> group_confusion(np.array([[1, 0, 1], [0, 3, 0], [0, 1, 2]]), [0, 2]).tolist()
    [[3, 0], [1, 4]]
    """
    inside = np.isin(np.arange(confusion.shape[-1]), members).astype(np.int64)
    sides: Any = np.stack([1 - inside, inside])
    return np.asarray(sides @ confusion @ sides.T)


def group_accuracy(confusion: Matrices, members: list[int]) -> Floats:
    """Share of films whose true and predicted class are both inside a group of classes or both outside, `float [...]`.

    With bacteria 0, normal 1, virus 2 and `members` [0, 2] this is normal-versus-pneumonia accuracy.

    >>> float(group_accuracy(np.array([[1, 0, 1], [0, 3, 0], [0, 1, 2]]), [0, 2]))
    0.875
    """
    return accuracy(group_confusion(confusion, members))
