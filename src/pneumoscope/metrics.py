"""Metrics as pure functions of arrays. What is undefined (a class without films) is NaN.

Shapes and types: `truth` and `predicted` are integer class indices `[N]`; `probabilities` are
floats `[N, C]` whose rows sum to 1; a confusion matrix is `int64 [C, C]`, rows truth, columns
prediction, or several of them are numbers `[..., C, C]`. Definitions agree with scikit-learn's where
that has them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.integer[Any]]
Floats: TypeAlias = NDArray[np.floating[Any]]
Counts: TypeAlias = NDArray[np.int64]
Matrices: TypeAlias = NDArray[np.int64 | np.float64]

_CELLS = 2_000_000  # of an array of resamplings


def confusion_matrix(truth: Indices, predicted: Indices, classes: int) -> Counts:
    """Count films by true (row) and predicted (column) class.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    _check_indices(truth, classes)
    _check_indices(predicted, classes)
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, predicted {predicted.shape}; they must be equal")
    flat = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def accuracy(confusion: Matrices) -> Floats:
    """Share of films on the diagonal, `float [...]`.

    >>> float(accuracy(np.array([[1, 1], [0, 2]])))
    0.75
    """
    return _ratio(_right(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def sensitivity(confusion: Matrices) -> Floats:
    """Per class: share of its films that are called it (recall), `float [..., C]`.

    >>> sensitivity(np.array([[1, 1], [0, 2]])).tolist()
    [0.5, 1.0]
    """
    return _ratio(_right(confusion), confusion.sum(axis=-1))


def specificity(confusion: Matrices) -> Floats:
    """Per class: share of the other classes' films that are not called it, `float [..., C]`.

    >>> specificity(np.array([[1, 1], [0, 2]])).tolist()
    [1.0, 0.5]
    """
    false_positives = confusion.sum(axis=-2) - _right(confusion)
    negatives = confusion.sum(axis=(-2, -1))[..., np.newaxis] - confusion.sum(axis=-1)
    return _ratio(negatives - false_positives, negatives)


def precision(confusion: Matrices) -> Floats:
    """Per class: share of the films called it that are it (positive predictive value), `float [..., C]`."""
    return _ratio(_right(confusion), confusion.sum(axis=-2))


def f1(confusion: Matrices) -> Floats:
    """Per class: harmonic mean of precision and sensitivity, `float [..., C]`."""
    return _ratio(2 * _right(confusion), confusion.sum(axis=-2) + confusion.sum(axis=-1))


def macro_f1(confusion: Matrices) -> Floats:
    """Unweighted mean of `f1` over the classes that were seen or predicted, `float [...]`.

    >>> round(float(macro_f1(np.array([[1, 1], [0, 2]]))), 4)
    0.7333
    """
    return _mean(f1(confusion))


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
    return float(_mean(class_aurocs(truth, probabilities)))


def cross_entropy(truth: Indices, probabilities: Floats) -> float:
    """Mean negative natural logarithm of the true class's probability (floored at 1e-12).

    >>> round(cross_entropy(np.array([0]), np.array([[0.5, 0.5]])), 4)
    0.6931
    """
    _check_indices(truth, probabilities.shape[1])
    if not len(truth):
        return float("nan")
    chosen = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.clip(chosen, 1e-12, None)).mean())


def group_accuracy(confusion: Matrices, members: list[int]) -> Floats:
    """Share of films whose predicted class lies on the right side of a group of classes, `float [...]`.

    With bacteria 0, normal 1, virus 2 and `members` [0, 2] this is normal-versus-pneumonia accuracy.

    >>> float(group_accuracy(np.array([[1, 0, 1], [0, 3, 0], [0, 1, 2]]), [0, 2]))
    0.875
    """
    inside = np.isin(np.arange(confusion.shape[-1]), members)
    same_side = inside[:, np.newaxis] == inside
    return _ratio((confusion * same_side).sum(axis=(-2, -1)), confusion.sum(axis=(-2, -1)))


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
    return _ratio((positives * (below + negatives / 2)).sum(axis=1), pairs)


def bootstrap_weights(groups: Sequence[str], *, draws: int = 1000, seed: int = 0) -> Iterator[Counts]:
    """Resample whole groups, for films of one patient are not independent: how often each film counts.

    The cluster bootstrap (Field and Welsh 2007). The same seed gives the same resamplings.

    Yields:
        `int64 [B, N]`, a share of the `draws` at a time, so that memory stays flat.
    """
    _, inverse = np.unique(np.asarray(groups), return_inverse=True)
    count = int(inverse.max()) + 1
    random = np.random.default_rng(seed)
    at_once = max(1, min(draws, _CELLS // len(inverse)))
    for done in range(0, draws, at_once):
        drawn = random.multinomial(count, np.full(count, 1 / count), size=min(at_once, draws - done))
        yield drawn[:, inverse]


def percentile_interval(values: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """The ends between which the middle `level` of the values lie; NaN are left out.

    >>> percentile_interval(np.arange(101.0))
    (2.5, 97.5)
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, (50 - 50 * level, 50 + 50 * level))
    return float(low), float(high)


def summarise(
    truth: Indices,
    probabilities: Floats,
    patients: Sequence[str],
    *,
    classes: tuple[str, ...],
    groups: dict[str, tuple[str, ...]],
    draws: int = 2000,
) -> dict[str, dict[str, float | None]]:
    """Figures of predictions with 95 % intervals by the patient-clustered bootstrap.

    Args:
        truth: class indices `[N]`.
        probabilities: `[N, C]`.
        patients: the patient of every film, `[N]`.
        classes: their names, in the order of the indices.
        groups: classes reported together; each gives `group_accuracy.NAME` and `group_auroc.NAME`.
        draws: resamplings.

    Returns:
        Per figure `value`, and `low` and `high`, between which the middle 95 % of the resamplings lie. What is
        undefined is None.
    """
    members = {name: [classes.index(label) for label in group] for name, group in groups.items()}
    once = np.ones((1, len(truth)), np.int64)
    values = _weighted_figures(truth, probabilities, once, classes, members)
    parts = [
        _weighted_figures(truth, probabilities, weights, classes, members)
        for weights in bootstrap_weights(patients, draws=draws)
    ]
    summary = {}
    for name, value in values.items():
        low, high = percentile_interval(np.concatenate([part[name] for part in parts]))
        summary[name] = {"value": finite(value[0]), "low": finite(low), "high": finite(high)}
    return summary


def _weighted_figures(
    truth: Indices, probabilities: Floats, weights: Counts, classes: tuple[str, ...], members: dict[str, list[int]]
) -> dict[str, Floats]:
    """Every figure for each row of `weights` `[B, N]`, `float [B]` each."""
    count = len(classes)
    cells = np.eye(count * count)[truth * count + probabilities.argmax(axis=1)]
    confusion = (weights.astype(np.float64) @ cells).reshape(-1, count, count)
    sensitivities, specificities = sensitivity(confusion), specificity(confusion)
    figures = {"accuracy": accuracy(confusion)}
    for index, label in enumerate(classes):
        figures[f"sensitivity.{label}"] = sensitivities[:, index]
        figures[f"specificity.{label}"] = specificities[:, index]
    figures["balanced_accuracy"] = sensitivities.mean(axis=1)
    for name, indices in members.items():
        figures[f"group_accuracy.{name}"] = group_accuracy(confusion, indices)
    figures["macro_f1"] = macro_f1(confusion)
    areas = [weighted_aurocs(truth == index, probabilities[:, index], weights) for index in range(count)]
    figures["macro_auroc"] = np.mean(areas, axis=0)
    for name, indices in members.items():
        share = probabilities[:, indices].sum(axis=1)
        figures[f"group_auroc.{name}"] = weighted_aurocs(np.isin(truth, indices), share, weights)
    return figures


def finite(value: float | Floats) -> float | None:
    """A number to 6 decimals as JSON has it; None if it is not defined."""
    return round(float(value), 6) if math.isfinite(value) else None


def coverage_threshold(confidence: Floats, coverage: float) -> float:
    """The largest threshold, to 6 decimals, that at least a share `coverage` of `confidence` `[N]` reaches.

    >>> coverage_threshold(np.array([0.9, 0.4, 0.7, 0.8]), 0.75)
    0.7
    """
    if not len(confidence) or not 0 < coverage <= 1:
        raise ValueError(f"expected values and a coverage over 0 up to 1, got {len(confidence)} values and {coverage}")
    below = math.floor((1 - coverage) * len(confidence) + 1e-9)
    return math.floor(float(np.sort(confidence)[below]) * 1e6 + 1e-6) / 1e6


def at_least(share: float, count: int) -> float:
    """Lower bound of a share found in `count` trials, one-sided at 95 %: Wilson's score (J Am Stat Assoc 1927;22:209).

    >>> round(at_least(1.0, 13), 2), round(at_least(1.0, 470), 3)
    (0.83, 0.994)
    """
    square = 1.6448536269514722**2  # the normal distribution's 95 % quantile
    centre = share + square / (2 * count)
    spread = math.sqrt(square * (share * (1 - share) / count + square / (4 * count**2)))
    return max(0.0, (centre - spread) / (1 + square / count))


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities of logits `[..., C]`, in double precision.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


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


def _check_indices(values: Indices, classes: int) -> None:
    if values.ndim != 1 or (len(values) and not 0 <= values.min() <= values.max() < classes):
        raise ValueError(f"expected class indices [N] from 0 to {classes - 1}, got shape {values.shape}")


def _right(confusion: Matrices) -> Matrices:
    """The diagonal: per class, the films that are called what they are."""
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(parts: Matrices, wholes: Matrices) -> Floats:
    """Shares of wholes; NaN of nothing."""
    with np.errstate(invalid="ignore"):
        return np.asarray(parts / wholes)


def _mean(values: Floats) -> Floats:
    """Means over the last axis of what is defined; NaN if nothing is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))
