"""Metrics as pure functions of arrays. What is undefined (a class without films) is NaN.

Shapes and types: `truth` and `predicted` are integer class indices `[N]`; `probabilities` are
floats `[N, C]` whose rows sum to 1; a confusion matrix is `int64 [C, C]`, rows truth, columns
prediction, or several of them are numbers `[..., C, C]`. Definitions agree with scikit-learn's where
that has them.
"""

from pneumoscope.metrics.arrays import Counts, Floats, Indices, Matrices, finite
from pneumoscope.metrics.calibration import (
    Method,
    Scaling,
    cross_entropy,
    film_losses,
    fit_temperature,
    fit_vector,
    prior_weights,
    reached_by,
    softmax,
)
from pneumoscope.metrics.conformal import class_coverage, conformal_thresholds, prediction_sets
from pneumoscope.metrics.held_out import Unseen, choose_method, cross_fitted, fit, gain_interval
from pneumoscope.metrics.ranking import auroc, class_aurocs, macro_auroc, weighted_aurocs
from pneumoscope.metrics.rates import (
    accuracy,
    confusion_matrix,
    f1,
    group_accuracy,
    macro_f1,
    mcc,
    precision,
    sensitivity,
    specificity,
)
from pneumoscope.metrics.resampling import at_least, bootstrap_weights, percentile_interval
from pneumoscope.metrics.summary import summarise

__all__ = [
    "Counts",
    "Floats",
    "Indices",
    "Matrices",
    "Method",
    "Scaling",
    "Unseen",
    "accuracy",
    "at_least",
    "auroc",
    "bootstrap_weights",
    "choose_method",
    "class_aurocs",
    "class_coverage",
    "conformal_thresholds",
    "confusion_matrix",
    "cross_entropy",
    "cross_fitted",
    "f1",
    "film_losses",
    "finite",
    "fit",
    "fit_temperature",
    "fit_vector",
    "gain_interval",
    "group_accuracy",
    "macro_auroc",
    "macro_f1",
    "mcc",
    "percentile_interval",
    "precision",
    "prediction_sets",
    "prior_weights",
    "reached_by",
    "sensitivity",
    "softmax",
    "specificity",
    "summarise",
    "weighted_aurocs",
]
