"""Two models on the same films: paired differences with intervals, McNemar's and DeLong's tests, and a verdict."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pneumoscope.metrics.array_types import Flags, Floats, Indices, Prior, Weights
from pneumoscope.metrics.resampling import centred_interval, percentile_interval
from pneumoscope.metrics.summary import Figures, is_calibration_error, lower_is_better, resample, weighted_figures

Verdict: TypeAlias = Literal["first better", "second better", "cannot conclude"]

_NORMAL_975 = 1.959963984540054  # the normal distribution's 97.5 % quantile


class Difference(NamedTuple):
    """The first model's figure minus the second's, its 95 % interval, and the verdict; NaN where undefined."""

    first: float
    second: float
    value: float
    low: float
    high: float
    verdict: Verdict


def verdict(low: float, high: float, *, lower_is_better: bool = False) -> Verdict:
    """Which model is better, by the interval of first minus second.

    "cannot conclude" if the interval contains 0 or is undefined (NaN).

    >>> verdict(0.01, 0.05), verdict(0.01, 0.05, lower_is_better=True), verdict(-0.01, 0.05)
    ('first better', 'second better', 'cannot conclude')
    """
    if low > 0:
        return "second better" if lower_is_better else "first better"
    if high < 0:
        return "first better" if lower_is_better else "second better"
    return "cannot conclude"


def compare(
    first: Callable[[Weights], Figures],
    second: Callable[[Weights], Figures],
    patients: Sequence[str],
    *,
    resamples: int = 2000,
) -> dict[str, Difference]:
    """Paired differences of any figures on the same films, by the patient-clustered bootstrap.

    Each resample evaluates both models, so that films that are hard for both do not widen the interval.

    Args:
        first: the first model's figures for each row of film weights `[B, N]`, `float [B]` each.
        second: the second model's; figures that only one model has are left out.
        patients: the patient of every film, `[N]`.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: there are no films.
    """

    def both(weights: Weights) -> Figures:
        one, two = first(weights), second(weights)
        # One bootstrap over both models' figures: the pairing is what makes the interval narrow.
        return {f"{place} {name}": each[name] for name in one if name in two for place, each in ((1, one), (2, two))}

    values, resampled = resample(both, patients, resamples=resamples)
    names = [name.removeprefix("1 ") for name in values if name.startswith("1 ")]
    return {
        name: _difference(
            name, values[f"1 {name}"], values[f"2 {name}"], resampled[f"1 {name}"] - resampled[f"2 {name}"]
        )
        for name in names
    }


def compare_predictions(
    truth: Indices,
    first: Floats,
    second: Floats,
    patients: Sequence[str],
    *,
    classes: tuple[str, ...],
    groups: dict[str, tuple[str, ...]],
    priors: tuple[Prior, Prior],
    resamples: int = 2000,
) -> dict[str, Difference]:
    """`compare` for all figures of `summarise`.

    Args:
        truth: class indices `[N]`.
        first: the first model's probabilities, `[N, C]`.
        second: the second model's, `[N, C]`.
        patients: the patient of every film, `[N]`.
        classes: their names, in the order of the indices.
        groups: classes reported together.
        priors: class frequencies that the first and the second model's probabilities assume.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: there are no films, or the arrays' shapes do not match.
    """
    expected = (len(truth), len(classes))
    if not first.shape == second.shape == expected or len(patients) != len(truth):
        raise ValueError(
            f"expected two arrays of shape {expected} and as many patients as films, "
            f"got shapes {first.shape} and {second.shape} and {len(patients)} patients"
        )
    members = {name: [classes.index(label) for label in group] for name, group in groups.items()}

    def figures(probabilities: Floats, prior: Prior) -> Callable[[Weights], Figures]:
        return lambda weights: weighted_figures(truth, probabilities, weights, classes, members, prior=prior)

    return compare(figures(first, priors[0]), figures(second, priors[1]), patients, resamples=resamples)


def _difference(name: str, first: float, second: float, resampled: Floats) -> Difference:
    value = first - second
    # Resampling inflates each model's calibration error, so the resampled differences may be off centre, too.
    inflated = is_calibration_error(name)
    low, high = centred_interval(resampled, value) if inflated else percentile_interval(resampled)
    return Difference(first, second, value, low, high, verdict(low, high, lower_is_better=lower_is_better(name)))


class McNemar(NamedTuple):
    """McNemar's test: how many films only the first and only the second model classifies correctly, and p-values.

    `exact` is the p-value of the two-sided binomial test, `mid_p` the less conservative mid-p-value.
    """

    first_only: int
    second_only: int
    exact: float
    mid_p: float


def mcnemar(first_right: Flags, second_right: Flags) -> McNemar:
    """McNemar's test of two models' accuracy on the same films (McNemar 1947; mid-p: Fagerland et al. 2013).

    The test assumes independent films. If patients have several films, its p-values are too small; use the interval
    of `compare` then.

    Args:
        first_right: whether the first model is right, `[N]`.
        second_right: whether the second is, `[N]`.

    >>> mcnemar(np.array([True] * 5), np.array([False] * 5)).exact
    0.0625
    """
    if first_right.shape != second_right.shape:
        raise ValueError(f"shapes {first_right.shape} and {second_right.shape} must be equal")
    only = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    count, fewer = sum(only), min(only)
    if not count:
        return McNemar(*only, 1.0, 1.0)
    # Integers, divided once at the end: exact for any number of films, where floats would underflow.
    ways = [math.comb(count, fewer)]
    for chosen in range(fewer, 0, -1):
        ways.append(ways[-1] * chosen // (count - chosen + 1))
    at, tail, whole = ways[0], sum(ways), 2**count
    if only[0] == only[1]:  # the two tails overlap in the middle; doubling one would give more than 1
        return McNemar(*only, 1.0, (2 * whole - at) / (2 * whole))
    return McNemar(*only, 2 * tail / whole, (2 * tail - at) / whole)


class DeLong(NamedTuple):
    """DeLong's comparison of two AUROCs: first minus second, with standard error, 95 % interval and p-value."""

    first: float
    second: float
    value: float
    standard_error: float
    low: float
    high: float
    p: float


def delong(positive: Flags, first: Floats, second: Floats, patients: Sequence[str] | None = None) -> DeLong:
    """Compare two AUROCs on the same films (DeLong et al. 1988, by the midranks of Sun and Xu 2014).

    With `patients` the variance is that of Obuchowski 1997 (Biometrics 53:567), which lets films of one patient
    depend on each other; with one film per patient it is DeLong's.

    Args:
        positive: whether each film is positive, `[N]`.
        first: the first model's scores, `[N]`.
        second: the second model's, `[N]`.
        patients: the patient of every film, `[N]`; None assumes independent films.

    Returns:
        Standard error, interval and p-value are NaN if fewer than two patients have positive films, or fewer than two
        have negative ones; only p is NaN if the standard error is 0. Everything is NaN without any positive film or
        without any negative one.

    Raises:
        ValueError: the arrays' lengths differ.
    """
    if not positive.shape == first.shape == second.shape or (patients is not None and len(patients) != len(positive)):
        raise ValueError(f"expected as many scores and patients as films, {len(positive)}")
    if positive.all() or not positive.any():
        return DeLong(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
    placements = [_placements(positive, scores) for scores in (first, second)]
    areas = [float(each[positive].mean()) for each in placements]
    # The variance of the difference is that of the paired differences; no covariance matrix is needed.
    apart = placements[0] - placements[1]
    value = float(apart[positive].mean())
    groups = np.arange(len(positive)) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    variance = _clustered_variance(positive, apart - value, groups)
    error = math.nan if math.isnan(variance) else math.sqrt(max(0.0, variance))  # rounding may give less than 0
    p = math.erfc(abs(value) / error / math.sqrt(2)) if error > 0 else math.nan
    return DeLong(areas[0], areas[1], value, error, value - _NORMAL_975 * error, value + _NORMAL_975 * error, p)


def _placements(positive: Flags, scores: Floats) -> NDArray[np.float64]:
    """Per film, the share of the other side's films that it is ordered correctly with; ties count half."""
    ranks = _midranks(scores)
    shares = np.empty(len(scores))
    others = int((~positive).sum())
    shares[positive] = (ranks[positive] - _midranks(scores[positive])) / others
    shares[~positive] = 1 - (ranks[~positive] - _midranks(scores[~positive])) / (len(scores) - others)
    return shares


def _midranks(values: Floats) -> NDArray[np.float64]:
    """Ranks from 1; equal values all get the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])


def _clustered_variance(positive: Flags, deviations: Floats, groups: Indices) -> float:
    """Variance of the mean placement, from the films' deviations from it, summed within groups (Obuchowski 1997)."""
    sums = [np.bincount(groups, np.where(side, deviations, 0)) for side in (positive, ~positive)]
    films = [int(side.sum()) for side in (positive, ~positive)]
    clusters = [len(np.unique(groups[side])) for side in (positive, ~positive)]
    if min(clusters) < 2:
        return math.nan
    own = [
        many / (many - 1) * float(each @ each) / count**2
        for many, each, count in zip(clusters, sums, films, strict=True)
    ]
    every = len(np.unique(groups))
    # Patients with films on both sides make the sides dependent.
    shared = every / (every - 1) * float(sums[0] @ sums[1]) / (films[0] * films[1])
    return sum(own) + 2 * shared
