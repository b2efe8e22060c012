"""What the metrics share: types of arrays, shares, means, and checks."""

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
    if values.ndim != 1 or (len(values) and not 0 <= values.min() <= values.max() < classes):
        raise ValueError(f"expected class indices [N] from 0 to {classes - 1}, got shape {values.shape}")


def film_weights(weights: Weights | None, films: int) -> NDArray[np.float64]:
    """How much each film counts, `float [..., N]`: as given, or all alike.

    Raises:
        ValueError: there is not one weight per film, or one of them is negative.
    """
    if weights is None:
        return np.ones(films)
    if weights.shape[-1:] != (films,) or (weights < 0).any():
        raise ValueError(f"expected weights of {films} films, none below 0, got shape {weights.shape}")
    return weights.astype(np.float64, copy=False)


def weighted_mean(values: Floats | Flags, weights: Weights) -> Floats:
    """Mean of `values` `[N]` or `[N, K]` by `weights` `[..., N]`: `float [...]` or `[..., K]`; NaN if all weigh 0.

    >>> weighted_mean(np.array([1.0, 0.0]), np.array([[1, 1], [3, 1]])).tolist()
    [0.5, 0.75]
    """
    totals = weights.sum(axis=-1)
    return ratio(weights @ values.astype(np.float64), totals[..., np.newaxis] if values.ndim == 2 else totals)


def one_hot(indices: Indices, count: int) -> NDArray[np.float64]:
    """1 in the column of each index, 0 elsewhere, `float [N, count]`."""
    return np.asarray(np.eye(count)[indices])


def right(confusion: Matrices) -> Matrices:
    """The diagonal: per class, the films that are called what they are."""
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def ratio(parts: Matrices, wholes: Matrices) -> Floats:
    """Shares of wholes; NaN of nothing."""
    with np.errstate(invalid="ignore"):
        return np.asarray(parts / wholes)


def mean(values: Floats) -> Floats:
    """Means over the last axis of what is defined; NaN if nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def finite(value: float | Floats) -> float | None:
    """A number to 6 decimals as JSON has it; None if it is not defined."""
    return round(float(value), 6) if math.isfinite(value) else None
