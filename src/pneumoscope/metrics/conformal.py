"""Split conformal prediction by class: sets of classes that hold the true one as often as is promised.

Class-conditional, or Mondrian (Vovk, Gammerman, Shafer 2005, *Algorithmic Learning in a Random World*, section 4.5;
Vovk 2012, arXiv:1209.2673). A score says how strange a class would be for a film: here 1 minus its probability. The
promise holds for each class, on average over films that are exchangeable with those that set the thresholds; for films
of another hospital, or several films of one patient, it is an approximation.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pneumoscope.metrics.array_types import Floats, Indices, check_indices, ratio


def conformal_thresholds(scores: Floats, truth: Indices, classes: int, coverage: float) -> NDArray[np.float64]:
    """Per class the largest score with which it stays in the set, `float64 [C]`.

    Of a class's n films it is the `ceil((n + 1) * coverage)`-th smallest score; infinite if there are too few, so that
    the class is in every set.

    >>> conformal_thresholds(np.array([0.3, 0.1, 0.2, 0.4, 0.5]), np.array([0, 0, 0, 0, 1]), 2, 0.8).tolist()
    [0.4, inf]

    Args:
        scores: of the true class of each film, `[N]`, finite.
        truth: class indices `[N]`.
        classes: how many there are.
        coverage: the least share of a class's films whose set is to hold it, over 0 and under 1.
    """
    check_indices(truth, classes)
    if not 0 < coverage < 1:
        raise ValueError(f"expected a coverage over 0 and under 1, got {coverage}")
    if scores.shape != truth.shape or not np.isfinite(scores).all():
        raise ValueError(f"expected {len(truth)} finite scores [N], got shape {scores.shape}")
    found = np.full(classes, np.inf)
    for index in range(classes):
        own = np.sort(scores[truth == index])
        rank = math.ceil(round((len(own) + 1) * coverage, 9))  # rounded: 70 * 0.9 is not 63 in binary fractions
        if rank <= len(own):
            found[index] = own[rank - 1]
    return found


def prediction_sets(scores: Floats, thresholds: Floats) -> NDArray[np.bool_]:
    """Which classes are in each film's set, `bool [N, C]`, by scores `[N, C]` and thresholds `[C]`; it may be none."""
    return np.asarray(scores <= thresholds)


def class_coverage(sets: NDArray[np.bool_], truth: Indices) -> Floats:
    """Per class, the share of its films whose set `bool [N, C]` holds it, `float64 [C]`; NaN of a class without films.

    >>> class_coverage(np.array([[True, False], [False, True], [True, True]]), np.array([0, 0, 1])).tolist()
    [0.5, 1.0]
    """
    classes = sets.shape[1]
    check_indices(truth, classes)
    held = np.bincount(truth[sets[np.arange(len(truth)), truth]], minlength=classes)
    return ratio(held, np.bincount(truth, minlength=classes))
