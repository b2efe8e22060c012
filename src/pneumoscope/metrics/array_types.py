"""What the metrics share: array types, ratios and means that tolerate empty classes, and checks."""

import math
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.integer[Any]]
Floats: TypeAlias = NDArray[np.floating[Any]]
Counts: TypeAlias = NDArray[np.int64]
Matrices: TypeAlias = NDArray[np.integer[Any] | np.floating[Any]]
Weights: TypeAlias = Matrices
Flags: TypeAlias = NDArray[np.bool_]
Prior: TypeAlias = Literal["train", "uniform"]


def check_indices(values: Indices, classes: int) -> None:
    """Raise ValueError unless values are class indices `[N]`, from 0 to one less than `classes`."""
    if values.ndim != 1:
        raise ValueError(f"expected class indices of shape [N], got shape {list(values.shape)}")
    if len(values) and not 0 <= values.min() <= values.max() < classes:
        raise ValueError(
            f"expected class indices from 0 to {classes - 1}, got indices from {values.min()} to {values.max()}"
        )


def film_weights(weights: Weights | None, films: int) -> NDArray[np.float64]:
    """How much each film counts, `float [..., N]`: the given weights, or ones.

    Raises:
        ValueError: there is not exactly one weight per film, or a weight is negative.
    """
    if weights is None:
        return np.ones(films)
    if weights.shape[-1:] != (films,):
        raise ValueError(f"expected weights [..., {films}], one per film, got shape {list(weights.shape)}")
    if (weights < 0).any():
        raise ValueError(f"expected non-negative weights, got {weights.min():g}")
    return weights.astype(np.float64, copy=False)


def weighted_mean(values: Floats | Flags, weights: Weights) -> Floats:
    """Mean of `values` `[N]` or `[N, K]`, weighted by `weights` `[..., N]`: `float [...]` or `[..., K]`.

    NaN where all weights are 0.

    >>> weighted_mean(np.array([1.0, 0.0]), np.array([[1, 1], [3, 1]])).tolist()
    [0.5, 0.75]
    """
    totals = weights.sum(axis=-1)
    return ratio(weights @ values.astype(np.float64), totals[..., np.newaxis] if values.ndim == 2 else totals)


def one_hot(indices: Indices, count: int) -> NDArray[np.float64]:
    """1 in the column of each index, 0 elsewhere, `float [N, count]`."""
    return np.asarray(np.eye(count)[indices])


def diagonal(confusion: Matrices) -> Matrices:
    """The diagonal of confusion matrices `[..., C, C]`: per class, the films that were classified correctly."""
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def ratio(parts: Matrices, wholes: Matrices) -> Floats:
    """`parts / wholes`; NaN for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(parts / wholes)


def mean(values: Floats) -> Floats:
    """Means over the last axis of the values that are not NaN; NaN if all are."""
    # np.nanmean would warn of an axis without a defined value; that is an ordinary case here.
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def finite_or_none(value: float | Floats) -> float | None:
    """A number rounded to 6 decimals; None, JSON's null, if it is NaN or infinite."""
    return round(float(value), 6) if math.isfinite(value) else None
