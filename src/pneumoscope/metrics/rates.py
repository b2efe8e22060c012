"""Rates of confusion matrices. Definitions agree with scikit-learn's where that has them."""

import numpy as np

from pneumoscope.metrics.arrays import Counts, Floats, Indices, Matrices, check_indices, mean, ratio, right


def confusion_matrix(truth: Indices, predicted: Indices, classes: int) -> Counts:
    """Count films by true (row) and predicted (column) class.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    check_indices(truth, classes)
    check_indices(predicted, classes)
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, predicted {predicted.shape}; they must be equal")
    flat = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def accuracy(confusion: Matrices) -> Floats:
    """Share of films on the diagonal, `float [...]`.

    >>> float(accuracy(np.array([[1, 1], [0, 2]])))
    0.75
    """
    return ratio(right(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def sensitivity(confusion: Matrices) -> Floats:
    """Per class: share of its films that are called it (recall), `float [..., C]`.

    >>> sensitivity(np.array([[1, 1], [0, 2]])).tolist()
    [0.5, 1.0]
    """
    return ratio(right(confusion), confusion.sum(axis=-1))


def specificity(confusion: Matrices) -> Floats:
    """Per class: share of the other classes' films that are not called it, `float [..., C]`.

    >>> specificity(np.array([[1, 1], [0, 2]])).tolist()
    [1.0, 0.5]
    """
    false_positives = confusion.sum(axis=-2) - right(confusion)
    negatives = confusion.sum(axis=(-2, -1))[..., np.newaxis] - confusion.sum(axis=-1)
    return ratio(negatives - false_positives, negatives)


def precision(confusion: Matrices) -> Floats:
    """Per class: share of the films called it that are it (positive predictive value), `float [..., C]`."""
    return ratio(right(confusion), confusion.sum(axis=-2))


def f1(confusion: Matrices) -> Floats:
    """Per class: harmonic mean of precision and sensitivity, `float [..., C]`."""
    return ratio(2 * right(confusion), confusion.sum(axis=-2) + confusion.sum(axis=-1))


def macro_f1(confusion: Matrices) -> Floats:
    """Unweighted mean of `f1` over the classes that were seen or predicted, `float [...]`.

    >>> round(float(macro_f1(np.array([[1, 1], [0, 2]]))), 4)
    0.7333
    """
    return mean(f1(confusion))


def mcc(confusion: Counts) -> float:
    """Multi-class Matthews correlation coefficient (Gorodkin 2004), -1 to 1; 0 when undefined.

    >>> round(mcc(np.array([[1, 1], [0, 2]])), 4)
    0.5774
    """
    table = confusion.astype(np.float64)
    rows, columns, total = table.sum(axis=1), table.sum(axis=0), table.sum()
    covariance = np.trace(table) * total - rows @ columns
    spread = np.sqrt((total**2 - columns @ columns) * (total**2 - rows @ rows))
    return float(covariance / spread) if spread > 0 else 0.0


def group_accuracy(confusion: Matrices, members: list[int]) -> Floats:
    """Share of films whose predicted class lies on the right side of a group of classes, `float [...]`.

    With bacteria 0, normal 1, virus 2 and `members` [0, 2] this is normal-versus-pneumonia accuracy.

    >>> float(group_accuracy(np.array([[1, 0, 1], [0, 3, 0], [0, 1, 2]]), [0, 2]))
    0.875
    """
    inside = np.isin(np.arange(confusion.shape[-1]), members)
    same_side = inside[:, np.newaxis] == inside
    return ratio((confusion * same_side).sum(axis=(-2, -1)), confusion.sum(axis=(-2, -1)))
