"""What the metrics share: types of arrays, shares, means, and checks."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.integer[Any]]
Floats: TypeAlias = NDArray[np.floating[Any]]
Counts: TypeAlias = NDArray[np.int64]
Matrices: TypeAlias = NDArray[np.int64 | np.float64]


def check_indices(values: Indices, classes: int) -> None:
    """Raise ValueError unless values are class indices `[N]`, from 0 to one less than `classes`."""
    if values.ndim != 1 or (len(values) and not 0 <= values.min() <= values.max() < classes):
        raise ValueError(f"expected class indices [N] from 0 to {classes - 1}, got shape {values.shape}")


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
