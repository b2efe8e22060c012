"""Intervals: the bootstrap over patients, and Wilson's bound of a share."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pneumoscope.metrics.array_types import Counts, Floats

_CELLS = 2_000_000  # of an array of resamplings


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


def centred_interval(values: Floats, value: float) -> tuple[float, float]:
    """`percentile_interval`, moved so that the values' mean lies on `value`: for figures that resampling inflates.

    An expected calibration error grows with noise, and a resampling has the films' noise and its own. On 600 drawn
    films with a true error of 0.051 the plain percentiles held it in 65 of 100 draws, the moved ones in 88.

    >>> centred_interval(np.arange(101.0), 40.0)
    (-7.5, 87.5)
    """
    low, high = percentile_interval(values)
    if math.isnan(low):
        return low, high
    bias = float(np.nanmean(values)) - value
    return low - bias, high - bias


def at_least(share: float, count: int) -> float:
    """Lower bound of a share found in `count` trials, one-sided at 95 %: Wilson's score (J Am Stat Assoc 1927;22:209).

    >>> round(at_least(1.0, 13), 2), round(at_least(1.0, 470), 3)
    (0.83, 0.994)
    """
    square = 1.6448536269514722**2  # the normal distribution's 95 % quantile
    centre = share + square / (2 * count)
    spread = math.sqrt(square * (share * (1 - share) / count + square / (4 * count**2)))
    return max(0.0, (centre - spread) / (1 + square / count))
