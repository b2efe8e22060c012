"""Split conformal prediction by class: sets of classes that contain the true class at a guaranteed rate, the coverage.

Class-conditional, or Mondrian (Vovk, Gammerman, Shafer 2005, *Algorithmic Learning in a Random World*, section 4.5;
Vovk 2012, arXiv:1209.2673). Here, the nonconformity score of a class for a film is 1 minus the class's probability. The
guarantee holds for each class, on average over films that are exchangeable with those that set the thresholds; for
films of another hospital, or several films of one patient, it is an approximation.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pneumoscope.metrics.array_types import Floats, Indices, check_indices, ratio


def conformal_thresholds(scores: Floats, truth: Indices, classes: int, coverage: float) -> NDArray[np.float64]:
    """Per class, the largest score at which the class is still in the set, `float64 [C]`.

    For a class with n films this is the `ceil((n + 1) * coverage)`-th smallest score. It is infinite if there are too
    few films; the class is then in every set.

    >>> conformal_thresholds(np.array([0.3, 0.1, 0.2, 0.4, 0.5]), np.array([0, 0, 0, 0, 1]), 2, 0.8).tolist()
    [0.4, inf]

    Args:
        scores: of the true class of each film, `[N]`, finite.
        truth: class indices `[N]`.
        classes: number of classes, C.
        coverage: least share of a class's films whose set must contain it, over 0 and under 1.

    Raises:
        ValueError: the coverage is out of range, or the scores are not finite or not one per film.
    """
    check_indices(truth, classes)
    if not 0 < coverage < 1:
        raise ValueError(f"expected a coverage over 0 and under 1, got {coverage}")
    if scores.shape != truth.shape or not np.isfinite(scores).all():
        raise ValueError(f"expected {len(truth)} finite scores [N], got shape {scores.shape}")
    found = np.full(classes, np.inf)
    for index in range(classes):
        own = np.sort(scores[truth == index])
        # Rounded first: 0.9 has no exact binary fraction, and a product just above an integer would raise the rank.
        rank = math.ceil(round((len(own) + 1) * coverage, 9))
        if rank <= len(own):
            found[index] = own[rank - 1]
    return found


def prediction_sets(scores: Floats, thresholds: Floats) -> NDArray[np.bool_]:
    """Classes in each film's set, `bool [N, C]`, by scores `[N, C]` and thresholds `[C]`; a set may be empty."""
    return np.asarray(scores <= thresholds)


def class_coverage(sets: NDArray[np.bool_], truth: Indices) -> Floats:
    """Per class, the share of its films whose set `bool [N, C]` contains it, `float64 [C]`; NaN without films.

    >>> class_coverage(np.array([[True, False], [False, True], [True, True]]), np.array([0, 0, 1])).tolist()
    [0.5, 1.0]
    """
    classes = sets.shape[1]
    check_indices(truth, classes)
    covered = np.bincount(truth[sets[np.arange(len(truth)), truth]], minlength=classes)
    return ratio(covered, np.bincount(truth, minlength=classes))
