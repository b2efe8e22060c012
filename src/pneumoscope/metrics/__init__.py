"""Metrics as pure functions of arrays. What is undefined (a class without films) is NaN.

Shapes and types: `truth` and `predicted` are integer class indices `[N]`; `probabilities` are
floats `[N, C]` whose rows sum to 1; a confusion matrix is `int64 [C, C]`, rows truth, columns
prediction, or several of them are numbers `[..., C, C]`. Definitions agree with scikit-learn's where
that has them.
"""

from pneumoscope.metrics.arrays import Counts, Floats, Indices, Matrices, finite
from pneumoscope.metrics.calibration import coverage_threshold, cross_entropy, fit_temperature, softmax
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
    "accuracy",
    "at_least",
    "auroc",
    "bootstrap_weights",
    "class_aurocs",
    "confusion_matrix",
    "coverage_threshold",
    "cross_entropy",
    "f1",
    "finite",
    "fit_temperature",
    "group_accuracy",
    "macro_auroc",
    "macro_f1",
    "mcc",
    "percentile_interval",
    "precision",
    "sensitivity",
    "softmax",
    "specificity",
    "summarise",
    "weighted_aurocs",
]
