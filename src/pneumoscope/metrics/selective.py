"""Selective prediction: accuracy against the share of films answered; size and coverage of prediction sets."""

from typing import NamedTuple

import numpy as np

from pneumoscope.metrics.array_types import (
    Flags,
    Floats,
    Indices,
    Weights,
    check_indices,
    film_weights,
    one_hot,
    ratio,
    weighted_mean,
)
from pneumoscope.metrics.curves import thin
from pneumoscope.metrics.ranking import group_by_score


class CoverageCurve(NamedTuple):
    """Share of films answered, their accuracy, and the least confidence that is answered, `float [P]` each.

    In selective prediction, `coverage` is the share of films answered; in `SetFigures` below, it is that of prediction
    sets.
    """

    coverage: Floats
    accuracy: Floats
    threshold: Floats


def coverage_points(
    right: Flags, confidence: Floats, weights: Weights | None = None, *, most: int | None = 200
) -> CoverageCurve:
    """Accuracy if only the films of highest confidence are answered (El-Yaniv and Wiener 2010: risk is 1 - accuracy).

    Films of equal confidence are answered together, since no threshold separates them.

    Args:
        right: whether the most probable class is the true one, `[N]`.
        confidence: the largest probability, `[N]`.
        weights: how much each film counts, `[N]`; by default all count alike.
        most: largest number of points to keep, chosen by `curves.thin`; None keeps all.

    >>> curve = coverage_points(np.array([True, False]), np.array([0.9, 0.6]))
    >>> curve.coverage.tolist(), curve.accuracy.tolist()
    ([0.5, 1.0], [1.0, 0.5])
    """
    thresholds, hits, misses = group_by_score(right, confidence, film_weights(weights, len(right))[np.newaxis])
    answered = np.cumsum((hits + misses)[0])
    some = answered > 0
    accuracy = ratio(np.cumsum(hits[0])[some], answered[some])
    curve = CoverageCurve(ratio(answered[some], (hits + misses).sum()), accuracy, thresholds[some])
    if most is None:
        return curve
    places = thin(curve.coverage, curve.accuracy, most)
    return CoverageCurve(*(values[places] for values in curve))


def risk_coverage_areas(right: Flags, confidence: Floats, weights: Weights) -> Floats:
    """Area under the risk-coverage curve (AURC) for each row of `weights` `[B, N]`: `float [B]`, 0 at best.

    For each film, take the share of errors among the films of at least its confidence; the area is the mean of these
    shares (Geifman et al. 2019, arXiv:1805.08206). Films of equal confidence have the same share.

    >>> risk_coverage_areas(np.array([True, False]), np.array([0.9, 0.6]), np.ones((1, 2))).tolist()
    [0.25]
    """
    _, hits, misses = group_by_score(right, confidence, weights)
    each = hits + misses
    answered = np.cumsum(each, axis=1)
    # A resample may have no films among the most confident ones; they add nothing to the area.
    risks = np.divide(np.cumsum(misses, axis=1), answered, out=np.zeros_like(answered), where=answered > 0)
    return ratio((risks * each).sum(axis=1), each.sum(axis=1))


def accuracies_at(right: Flags, confidence: Floats, weights: Weights, coverages: Floats) -> Floats:
    """Accuracy of the films of highest confidence that make up at least each of `coverages`: `float [B, K]`.

    Args:
        right: whether the most probable class is the true one, `[N]`.
        confidence: the largest probability, `[N]`.
        weights: how much each film counts, `[B, N]`.
        coverages: shares of the weight, over 0 and at most 1, `[K]`.
    """
    _, hits, misses = group_by_score(right, confidence, weights)
    correct, answered = np.cumsum(hits, axis=1), np.cumsum(hits + misses, axis=1)
    wanted = coverages * answered[:, -1:] * (1 - 1e-12)  # rounding must not miss a share that is reached exactly
    places = np.array([np.searchsorted(row, at) for row, at in zip(answered, wanted, strict=True)])
    chosen = np.take_along_axis(correct, places, axis=1), np.take_along_axis(answered, places, axis=1)
    return ratio(*chosen)


class SetFigures(NamedTuple):
    """Coverage (the share of sets that contain the true class) and size (number of classes) of prediction sets.

    `coverage` and mean `size` are `float [...]`; `class_coverage` and `class_size` are those of each class's films,
    `float [..., C]`; `size_shares` are the shares of sets of 0, 1, …, C classes, `float [..., C + 1]`.
    """

    coverage: Floats
    class_coverage: Floats
    size: Floats
    class_size: Floats
    size_shares: Floats


def set_figures(truth: Indices, sets: Flags, weights: Weights | None = None) -> SetFigures:
    """Coverage and size of prediction sets (Vovk et al. 2005; per class: Sadinle et al. 2019, arXiv:1609.00451).

    Args:
        truth: class indices `[N]`.
        sets: which classes each film's set contains, `[N, C]`.
        weights: how much each film counts, `[..., N]`; by default all count alike.

    >>> found = set_figures(np.array([0, 1]), np.array([[True, True], [True, False]]))
    >>> float(found.coverage), found.class_coverage.tolist(), found.size_shares.tolist()
    (0.5, [1.0, 0.0], [0.0, 0.5, 0.5])
    """
    count = sets.shape[1]
    check_indices(truth, count)
    each, inside = film_weights(weights, len(truth)), one_hot(truth, count)
    covered, sizes = sets[np.arange(len(truth)), truth], sets.sum(axis=1)
    totals = each @ inside
    return SetFigures(
        coverage=weighted_mean(covered, each),
        class_coverage=ratio(each @ (inside * covered[:, np.newaxis]), totals),
        size=weighted_mean(sizes.astype(np.float64), each),
        class_size=ratio(each @ (inside * sizes[:, np.newaxis]), totals),
        size_shares=weighted_mean(one_hot(sizes, count + 1), each),
    )
