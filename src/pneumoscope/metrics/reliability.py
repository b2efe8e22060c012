"""How well probabilities are calibrated: proper scores, calibration errors, reliability curves.

The metrics take `weights`, how much each film counts, `[..., N]`, and return one value per row of `weights`; without
weights all films count alike. Probabilities assume class frequencies, their prior. Only films weighted to that prior
(`weights_at_prior`) can show whether the probabilities are calibrated.
"""

from typing import NamedTuple

import numpy as np

from pneumoscope.metrics.array_types import (
    Flags,
    Floats,
    Indices,
    Prior,
    Weights,
    check_indices,
    film_weights,
    one_hot,
    ratio,
    weighted_mean,
)

#: Number of bins of equal width, as in Guo et al. 2017.
BINS = 15


def weights_at_prior(truth: Indices, weights: Weights, *, classes: int, prior: Prior) -> Floats:
    """Weights with which the classes are as frequent as the probabilities assume, `float [..., N]`.

    Args:
        truth: class indices `[N]`.
        weights: how much each film counts so far, `[..., N]`: ones, or resamples.
        classes: number of classes, C.
        prior: of the probabilities; "train" keeps the films' frequencies, "uniform" gives every class the weight
            1 / C. If a row of weights has no film of some class, that is impossible, and the row is NaN.

    >>> weights_at_prior(np.array([0, 0, 1]), np.array([1, 1, 1]), classes=2, prior="uniform").tolist()
    [0.25, 0.25, 0.5]
    """
    check_indices(truth, classes)
    unscaled = film_weights(weights, len(truth))
    if prior == "train":
        return unscaled
    totals = unscaled @ one_hot(truth, classes)
    complete = (totals > 0).all(axis=-1, keepdims=True)
    factors = 1 / (classes * np.where(complete, totals, np.nan))
    return np.asarray(unscaled * factors[..., truth])


def brier(truth: Indices, probabilities: Floats, weights: Weights | None = None) -> Floats:
    """Mean squared distance of the probabilities from the truth, summed over the classes, 0 to 2 (Brier 1950).

    Args:
        truth: class indices `[N]`.
        probabilities: `[N, C]`.
        weights: see the module's docstring.

    >>> float(brier(np.array([0]), np.array([[0.5, 0.5]])))
    0.5
    """
    misses = probabilities - one_hot(truth, probabilities.shape[1])
    return _mean((misses**2).sum(axis=1), weights)


def negative_log_likelihood(truth: Indices, probabilities: Floats, weights: Weights | None = None) -> Floats:
    """`cross_entropy` with film weights: mean negative logarithm of the true class's probability, in nats.

    The arguments are those of `brier`. Probabilities are floored at 1e-12.
    """
    chosen = probabilities[np.arange(len(truth)), truth]
    # One film with probability 0 would otherwise make the mean infinite.
    return _mean(-np.log(np.maximum(chosen, 1e-12)), weights)


def calibration_error(hits: Flags, confidence: Floats, weights: Weights | None = None, *, bins: int = BINS) -> Floats:
    """Expected calibration error, ECE: mean distance between confidence and observed frequency over bins.

    Bins have equal width and include their upper ends, (0, 1/B], (1/B, 2/B], …; the distance of each counts by the
    weight of its films (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599). Even a perfectly calibrated model has
    an ECE over 0; the fewer the films, the larger it is.

    Args:
        hits: whether the event that the confidence refers to is true of each film, `[N]`.
        confidence: 0 to 1, `[N]`.
        weights: see the module's docstring.
        bins: B.

    >>> float(calibration_error(np.array([True, False]), np.array([0.75, 0.75])))
    0.25
    """
    weights = film_weights(weights, len(hits))
    distances = np.zeros((len(hits), bins))
    # The bins' sizes cancel: |mean confidence - frequency| × share of a bin is |sum of (hit - confidence)| / films.
    distances[np.arange(len(hits)), _bin(confidence, bins)] = hits - confidence
    return ratio(np.abs(weights @ distances).sum(axis=-1), weights.sum(axis=-1))


def top_label_calibration_error(
    truth: Indices, probabilities: Floats, weights: Weights | None = None, *, bins: int = BINS
) -> Floats:
    """`calibration_error` of the most probable class, `float [...]`.

    >>> float(top_label_calibration_error(np.array([0, 1]), np.array([[0.75, 0.25], [0.75, 0.25]])))
    0.25
    """
    hits = probabilities.argmax(axis=1) == truth
    return calibration_error(hits, probabilities.max(axis=1), weights, bins=bins)


def class_calibration_errors(
    truth: Indices, probabilities: Floats, weights: Weights | None = None, *, bins: int = BINS
) -> Floats:
    """`calibration_error` of each class's probability, `float [..., C]`.

    Their unweighted mean is the class-wise ECE of Kull et al. 2019, arXiv:1910.12656.
    """
    count = probabilities.shape[1]
    errors = [calibration_error(truth == at, probabilities[:, at], weights, bins=bins) for at in range(count)]
    return np.stack(errors, axis=-1)


class Reliability(NamedTuple):
    """A reliability curve: the bins' edges `[B + 1]`; per bin, `[..., B]`, confidence, observed frequency and share.

    Confidence and observed frequency of an empty bin are NaN.
    """

    edges: Floats
    confidence: Floats
    observed: Floats
    share: Floats


def reliability_curve(
    hits: Flags, confidence: Floats, weights: Weights | None = None, *, bins: int = BINS
) -> Reliability:
    """Mean confidence, observed frequency and share of all weight per bin (DeGroot and Fienberg 1983).

    Arguments and bins are those of `calibration_error`, which is the mean of |confidence - observed| weighted by share.
    """
    weights = film_weights(weights, len(hits))
    inside = one_hot(_bin(confidence, bins), bins)
    totals = weights @ inside
    columns = inside * confidence[:, np.newaxis], inside * hits[:, np.newaxis]
    means, observed = (ratio(weights @ column, totals) for column in columns)
    share = ratio(totals, totals.sum(axis=-1, keepdims=True))
    return Reliability(np.linspace(0, 1, bins + 1), means, observed, share)


def at_prevalences(probabilities: Floats, assumed: Floats, target: Floats) -> Floats:
    """Convert probabilities from class frequencies `assumed` `[C]` to frequencies `target` `[C]`: `float [N, C]`.

    By Bayes' theorem, assuming that each class looks the same at both (Saerens et al. 2002, Neural Comput 14:21).

    >>> at_prevalences(np.array([[0.5, 0.5]]), np.array([0.5, 0.5]), np.array([0.9, 0.1])).round(6).tolist()
    [[0.9, 0.1]]
    """
    changed = probabilities * (target / assumed)
    return ratio(changed, changed.sum(axis=1, keepdims=True))


def _bin(confidence: Floats, bins: int) -> Indices:
    # Inner edges only: a confidence of exactly 0 or 1 falls into the first or the last bin.
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)


def _mean(values: Floats, weights: Weights | None) -> Floats:
    return weighted_mean(values, film_weights(weights, len(values)))
