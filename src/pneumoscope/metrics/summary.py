"""All figures of a set of predictions, with intervals."""

from collections.abc import Sequence

import numpy as np

from pneumoscope.metrics.arrays import Counts, Floats, Indices, finite
from pneumoscope.metrics.ranking import weighted_aurocs
from pneumoscope.metrics.rates import accuracy, group_accuracy, macro_f1, sensitivity, specificity
from pneumoscope.metrics.resampling import bootstrap_weights, percentile_interval


def summarise(
    truth: Indices,
    probabilities: Floats,
    patients: Sequence[str],
    *,
    classes: tuple[str, ...],
    groups: dict[str, tuple[str, ...]],
    draws: int = 2000,
) -> dict[str, dict[str, float | None]]:
    """Figures of predictions with 95 % intervals by the patient-clustered bootstrap.

    Args:
        truth: class indices `[N]`.
        probabilities: `[N, C]`.
        patients: the patient of every film, `[N]`.
        classes: their names, in the order of the indices.
        groups: classes reported together; each gives `group_accuracy.NAME` and `group_auroc.NAME`.
        draws: resamplings.

    Returns:
        Per figure `value`, and `low` and `high`, between which the middle 95 % of the resamplings lie. What is
        undefined is None.
    """
    members = {name: [classes.index(label) for label in group] for name, group in groups.items()}
    once = np.ones((1, len(truth)), np.int64)
    values = weighted_figures(truth, probabilities, once, classes, members)
    parts = [
        weighted_figures(truth, probabilities, weights, classes, members)
        for weights in bootstrap_weights(patients, draws=draws)
    ]
    summary = {}
    for name, value in values.items():
        low, high = percentile_interval(np.concatenate([part[name] for part in parts]))
        summary[name] = {"value": finite(value[0]), "low": finite(low), "high": finite(high)}
    return summary


def weighted_figures(
    truth: Indices, probabilities: Floats, weights: Counts, classes: tuple[str, ...], members: dict[str, list[int]]
) -> dict[str, Floats]:
    """Every figure for each row of `weights` `[B, N]`, `float [B]` each."""
    count = len(classes)
    cells = np.eye(count * count)[truth * count + probabilities.argmax(axis=1)]
    confusion = (weights.astype(np.float64) @ cells).reshape(-1, count, count)
    sensitivities, specificities = sensitivity(confusion), specificity(confusion)
    figures = {"accuracy": accuracy(confusion)}
    for index, label in enumerate(classes):
        figures[f"sensitivity.{label}"] = sensitivities[:, index]
        figures[f"specificity.{label}"] = specificities[:, index]
    figures["balanced_accuracy"] = sensitivities.mean(axis=1)
    for name, indices in members.items():
        figures[f"group_accuracy.{name}"] = group_accuracy(confusion, indices)
    figures["macro_f1"] = macro_f1(confusion)
    areas = [weighted_aurocs(truth == index, probabilities[:, index], weights) for index in range(count)]
    figures["macro_auroc"] = np.mean(areas, axis=0)
    for name, indices in members.items():
        share = probabilities[:, indices].sum(axis=1)
        figures[f"group_auroc.{name}"] = weighted_aurocs(np.isin(truth, indices), share, weights)
    return figures
