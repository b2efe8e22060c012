"""Decision curves: the net benefit of treating every film whose probability reaches a threshold.

Vickers and Elkin 2006, "Decision curve analysis: a novel method for evaluating prediction models", Med Decis Making
26:565.
"""

from typing import NamedTuple

import numpy as np

from pneumoscope.metrics.array_types import Flags, Floats, Weights, film_weights, ratio, weighted_mean


class DecisionCurve(NamedTuple):
    """Net benefit at `thresholds` `[T]` of the model and of treating all films, `float [..., T]`.

    `treat_none` is the net benefit of treating no film: zeros, `[T]`.
    """

    thresholds: Floats
    model: Floats
    treat_all: Floats
    treat_none: Floats


def decision_curve(
    positive: Flags,
    probabilities: Floats,
    thresholds: Floats,
    weights: Weights | None = None,
    *,
    prevalence: float | None = None,
) -> DecisionCurve:
    """Net benefit of treating the films that reach each threshold: true positives minus weighted false positives.

    A threshold t means that one positive found is worth (1 - t) / t false alarms: the net benefit per film is
    TP / N - FP / N · t / (1 - t). The probabilities must assume the prevalence at which they are evaluated
    (`reliability.at_prevalences` converts them); otherwise a threshold is not the probability that it claims to be.

    Args:
        positive: whether each film is positive, `[N]`.
        probabilities: of being positive, `[N]`.
        thresholds: at least 0 and below 1, `[T]`.
        weights: how much each film counts, `[..., N]`; by default all count alike.
        prevalence: share of positives to evaluate at; by default that of the films (Pfeiffer and Gail 2020).

    Raises:
        ValueError: a threshold or the prevalence is out of range.

    >>> curve = decision_curve(np.array([True, False]), np.array([0.9, 0.2]), np.array([0.5]))
    >>> curve.model.tolist(), curve.treat_all.tolist()
    ([0.5], [0.0])
    """
    if not ((thresholds >= 0) & (thresholds < 1)).all():
        raise ValueError(f"expected thresholds of at least 0 and below 1, got {thresholds}")
    if prevalence is not None and not 0 <= prevalence <= 1:
        raise ValueError(f"expected a prevalence from 0 to 1, got {prevalence}")
    each = film_weights(weights, len(positive))
    share = weighted_mean(positive, each) if prevalence is None else np.full(each.shape[:-1], prevalence)
    called = probabilities[:, np.newaxis] >= thresholds
    odds, share = thresholds / (1 - thresholds), np.asarray(share)[..., np.newaxis]
    found = ratio(each @ (called & positive[:, np.newaxis]), (each @ positive)[..., np.newaxis])
    alarms = ratio(each @ (called & ~positive[:, np.newaxis]), (each @ ~positive)[..., np.newaxis])
    model = _part(share, found) - _part(1 - share, alarms) * odds
    return DecisionCurve(thresholds, model, share - (1 - share) * odds, np.zeros(len(thresholds)))


def _part(share: Floats, rate: Floats) -> Floats:
    """`share * rate`; 0 where the share is 0, since the rate of an empty side is NaN."""
    return np.asarray(np.where(share == 0, 0.0, share * rate))
