"""ROC and precision-recall curves: points for charts, and values in each resample, from which bands are made."""

import heapq
from typing import NamedTuple

import numpy as np

from pneumoscope.metrics.array_types import Flags, Floats, Indices, Weights, film_weights, ratio
from pneumoscope.metrics.ranking import group_by_score

#: Largest distance of a thinned curve from the points left out: half a pixel of a chart 1,000 pixels wide.
INVISIBLE = 0.0005


class Curve(NamedTuple):
    """Points of a curve, `float [P]` each: x, y, and the least score of films that are called positive."""

    x: Floats
    y: Floats
    threshold: Floats


def roc_points(positive: Flags, scores: Floats, weights: Weights | None = None, *, most: int | None = 200) -> Curve:
    """The ROC curve: sensitivity against the false positive rate, from (0, 0) to (1, 1) (Fawcett 2006).

    Args:
        positive: whether each film is positive, `[N]`.
        scores: the higher, the more likely positive, `[N]`.
        weights: how much each film counts, `[N]`; by default all count alike.
        most: largest number of points to keep, chosen by `thin`; None keeps all.

    >>> curve = roc_points(np.array([False, True, True]), np.array([0.2, 0.1, 0.9]))
    >>> curve.x.tolist(), curve.y.tolist()
    ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    thresholds, positives, negatives = group_by_score(positive, scores, film_weights(weights, len(scores))[np.newaxis])
    sensitivities, alarms = _shares(positives)[0], _shares(negatives)[0]
    return _thinned(Curve(alarms, sensitivities, np.concatenate([[np.inf], thresholds])), most)


def precision_recall_points(
    positive: Flags, scores: Floats, weights: Weights | None = None, *, most: int | None = 200
) -> Curve:
    """The precision-recall curve: precision against sensitivity (recall), one point per threshold, highest first.

    The arguments are those of `roc_points`. A threshold that no film of positive weight reaches has no point, since
    precision is undefined there.
    """
    thresholds, positives, negatives = group_by_score(positive, scores, film_weights(weights, len(scores))[np.newaxis])
    hits, called = np.cumsum(positives[0]), np.cumsum((positives + negatives)[0])
    some = called > 0
    recalls = ratio(hits, positives.sum())
    return _thinned(Curve(recalls[some], ratio(hits[some], called[some]), thresholds[some]), most)


def weighted_sensitivities(positive: Flags, scores: Floats, weights: Weights, rates: Floats) -> Floats:
    """Sensitivity at false positive rates `[K]` for each row of `weights` `[B, N]`: `float [B, K]`.

    The curve is interpolated linearly between two thresholds; on a vertical piece its upper end counts (vertical
    averaging, Fawcett 2006). Percentiles over the rows are a band around `roc_points`.

    >>> weighted_sensitivities(np.array([False, True]), np.array([0.2, 0.9]), np.ones((1, 2)), np.array([0.0, 0.5]))
    array([[1., 1.]])
    """
    _, positives, negatives = group_by_score(positive, scores, weights)
    rows = zip(_shares(negatives), _shares(positives), strict=True)
    return np.array([_read(rates, across, up) for across, up in rows])


def weighted_precisions(positive: Flags, scores: Floats, weights: Weights, recalls: Floats) -> Floats:
    """Precision at the highest threshold that reaches a recall, for each row of `weights` `[B, N]`: `float [B, K]`.

    Args:
        positive: whether each film is positive, `[N]`.
        scores: the higher, the more likely positive, `[N]`.
        weights: how much each film counts, `[B, N]`.
        recalls: over 0 and at most 1, `[K]`.
    """
    _, positives, negatives = group_by_score(positive, scores, weights)
    hits, called = np.cumsum(positives, axis=1), np.cumsum(positives + negatives, axis=1)
    total = positives.sum(axis=1, keepdims=True)
    wanted = recalls * total * (1 - 1e-12)  # rounding must not miss a recall that is reached exactly
    places = np.array([np.searchsorted(row, at) for row, at in zip(hits, wanted, strict=True)])
    places = np.minimum(places, hits.shape[1] - 1)
    values = ratio(np.take_along_axis(hits, places, axis=1), np.take_along_axis(called, places, axis=1))
    return np.asarray(np.where(total > 0, values, np.nan))


def thin(x: Floats, y: Floats, most: int) -> Indices:
    """Choose points of a curve, so that a line through them passes close to all others.

    The point farthest from the line so far is added (Ramer 1972, Douglas and Peucker 1973) until `most` are kept or
    no point is farther from it than `INVISIBLE`. Both axes are assumed to span about 1.

    Returns:
        Indices of the chosen points, rising; the first and the last point are always among them.
    """
    if len(x) <= 2 or most <= 2 or np.isnan(x).any() or np.isnan(y).any():
        return np.unique([0, len(x) - 1]) if len(x) else np.zeros(0, np.int64)
    kept = [0, len(x) - 1]
    waiting = [_farthest(x, y, 0, len(x) - 1)]
    while len(kept) < most and waiting[0][0] < -INVISIBLE:
        _, place, start, end = heapq.heappop(waiting)
        kept.append(place)
        heapq.heappush(waiting, _farthest(x, y, start, place))
        heapq.heappush(waiting, _farthest(x, y, place, end))
    return np.array(sorted(kept))


def _shares(parts: Floats) -> Floats:
    """Cumulative share of each row's sum, from 0 to exactly 1: `[B, G]` to `float [B, G + 1]`."""
    # Divided by the last cumulated sum, not by `parts.sum()`, which may be rounded otherwise: the end is exactly 1.
    sums = np.cumsum(np.pad(parts, ((0, 0), (1, 0))), axis=1)
    return ratio(sums, sums[:, -1:])


def _farthest(x: Floats, y: Floats, start: int, end: int) -> tuple[float, int, int, int]:
    """The point between `start` and `end` that is farthest from the line between them: minus distance, and indices.

    The distance is negative, as `heapq` takes the smallest first.
    """
    if end - start < 2:
        return 0.0, start, start, end
    across, up = x[start + 1 : end] - x[start], y[start + 1 : end] - y[start]
    width, height = x[end] - x[start], y[end] - y[start]
    length = width**2 + height**2
    along = np.clip((across * width + up * height) / length, 0, 1) if length > 0 else np.zeros_like(across)
    distances = np.hypot(across - along * width, up - along * height)
    place = int(distances.argmax())
    return -float(distances[place]), start + 1 + place, start, end


def _thinned(curve: Curve, most: int | None) -> Curve:
    if most is None:
        return curve
    places = thin(curve.x, curve.y, most)
    return Curve(*(values[places] for values in curve))


def _read(rates: Floats, across: Floats, up: Floats) -> Floats:
    if np.isnan(across[-1]) or np.isnan(up[-1]):
        return np.full(len(rates), np.nan)
    return np.interp(rates, across, up)
