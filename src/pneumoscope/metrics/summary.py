"""All figures of a set of predictions, with bootstrap intervals."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from pneumoscope.metrics import rates, reliability
from pneumoscope.metrics.array_types import Flags, Floats, Indices, Prior, Weights, check_indices, finite_or_none
from pneumoscope.metrics.ranking import weighted_areas
from pneumoscope.metrics.resampling import bootstrap_weights, centred_interval, percentile_interval
from pneumoscope.metrics.selective import risk_coverage_areas, set_figures

#: Named figures, one value per row of film weights: `float [B]` each.
Figures: TypeAlias = dict[str, Floats]
#: Named figures for JSON: `value`, `low` and `high`; None if undefined.
Summary: TypeAlias = dict[str, dict[str, float | None]]

_CALIBRATION_ERRORS = frozenset({"ece", "classwise_ece", "class_ece", "group_ece"})
_LOWER_IS_BETTER = _CALIBRATION_ERRORS | {"brier", "cross_entropy", "aurc", "set_size"}


def summarise(
    truth: Indices,
    probabilities: Floats,
    patients: Sequence[str],
    *,
    classes: tuple[str, ...],
    groups: dict[str, tuple[str, ...]],
    prior: Prior,
    resamples: int = 2000,
) -> Summary:
    """Figures of predictions with 95 % intervals by the patient-clustered bootstrap.

    All films count, by their most probable class; a group's probability is the sum of its classes'.

    Args:
        truth: class indices `[N]`.
        probabilities: `[N, C]`.
        patients: the patient of every film, `[N]`.
        classes: their names, in the order of the indices.
        groups: classes reported together.
        prior: the class frequencies that the probabilities assume. Brier score, cross-entropy and calibration errors
            weight the films so that the classes have these frequencies (`reliability.weights_at_prior`), anew in
            every resample; other figures do not.
        resamples: number of bootstrap resamples.

    Returns:
        Per figure `value`, `low` and `high`; `low` and `high` enclose the middle 95 % of the resampled values (for
        calibration errors see `resampling.centred_interval`). Undefined values are None. For each class L and group G:
        accuracy, balanced_accuracy, macro_f1, mcc, macro_auroc, macro_average_precision, sensitivity.L,
        specificity.L, ppv.L, npv.L, f1.L, auroc.L, average_precision.L, group_accuracy.G, group_sensitivity.G,
        group_specificity.G, group_ppv.G, group_npv.G, group_auroc.G, group_average_precision.G, brier, cross_entropy
        (nats), ece (of the most probable class), classwise_ece (mean of class_ece.L), class_ece.L, group_ece.G, aurc.

    Raises:
        ValueError: there are no films, or the arrays' shapes do not match.
    """
    _check(truth, probabilities, patients, len(classes))
    members = {name: [classes.index(label) for label in group] for name, group in groups.items()}

    def figures(weights: Weights) -> Figures:
        return weighted_figures(truth, probabilities, weights, classes, members, prior=prior)

    return with_intervals(figures, patients, resamples=resamples)


def summarise_rule(
    positive: Flags, called: Flags, patients: Sequence[str], *, prevalences: Sequence[float] = (), resamples: int = 2000
) -> Summary:
    """Rates of a rule that calls films positive or not, with 95 % intervals by the patient-clustered bootstrap.

    Args:
        positive: whether each film is positive, `[N]`.
        called: whether the rule calls it positive, `[N]`. At an operating point: the group's probability >= threshold.
        patients: the patient of every film, `[N]`.
        prevalences: shares of positives at which to give predictive values, besides the films' own share.
        resamples: number of bootstrap resamples.

    Returns:
        As `summarise`: sensitivity, specificity, ppv, npv, lr_positive, lr_negative (likelihood ratios), and for each
        prevalence P, written as `format(P, "g")`, ppv_at.P and npv_at.P.

    Raises:
        ValueError: there are no films, the arrays' shapes do not match, or a prevalence is out of range.
    """
    if positive.shape != called.shape:
        raise ValueError(f"positive has shape {positive.shape}, called {called.shape}; they must be equal")

    def figures(weights: Weights) -> Figures:
        confusion = rates.rule_confusion(positive, called, weights)
        sensitivities, specificities = rates.sensitivity(confusion)[:, 1], rates.specificity(confusion)[:, 1]
        ppvs, npvs = rates.precision(confusion)[:, 1], rates.npv(confusion)[:, 1]
        lr_positive, lr_negative = rates.likelihood_ratios(sensitivities, specificities)
        named = {"sensitivity": sensitivities, "specificity": specificities, "ppv": ppvs, "npv": npvs}
        named |= {"lr_positive": lr_positive, "lr_negative": lr_negative}
        for prevalence in prevalences:
            ppvs, npvs = rates.predictive_values(sensitivities, specificities, prevalence)
            named |= {f"ppv_at.{prevalence:g}": ppvs, f"npv_at.{prevalence:g}": npvs}
        return named

    return with_intervals(figures, patients, resamples=resamples)


def summarise_operating_point(
    truth: Indices,
    probabilities: Floats,
    patients: Sequence[str],
    *,
    members: Sequence[int],
    threshold: float,
    prevalences: Sequence[float] = (),
    resamples: int = 2000,
) -> Summary:
    """`summarise_rule` for films that are called positive if a group's probability reaches a threshold.

    Args:
        truth: class indices `[N]`.
        probabilities: `[N, C]`.
        patients: the patient of every film, `[N]`.
        members: the group's class indices; a single index for a class.
        threshold: least sum of the members' probabilities at which a film is called positive.
        prevalences: see `summarise_rule`.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: as `summarise_rule`.
    """
    _check(truth, probabilities, patients, probabilities.shape[-1])
    scores = probabilities[:, list(members)].sum(axis=1)
    positive = np.isin(truth, list(members))
    return summarise_rule(positive, scores >= threshold, patients, prevalences=prevalences, resamples=resamples)


def summarise_sets(
    truth: Indices, sets: Flags, patients: Sequence[str], *, classes: tuple[str, ...], resamples: int = 2000
) -> Summary:
    """Coverage and size of prediction sets `bool [N, C]`, with 95 % intervals by the patient-clustered bootstrap.

    Returns:
        As `summarise`: coverage, set_size, for each class L coverage.L and set_size.L, and for each K from 0 to the
        number of classes the share of sets with K classes, size_share.K.

    Raises:
        ValueError: there are no films, or the arrays' shapes do not match.
    """
    _check(truth, sets, patients, len(classes))

    def figures(weights: Weights) -> Figures:
        of_sets = set_figures(truth, sets, weights)
        named = {"coverage": of_sets.coverage, "set_size": of_sets.size}
        for index, label in enumerate(classes):
            named[f"coverage.{label}"] = of_sets.class_coverage[:, index]
            named[f"set_size.{label}"] = of_sets.class_size[:, index]
        return named | {f"size_share.{size}": of_sets.size_shares[:, size] for size in range(len(classes) + 1)}

    return with_intervals(figures, patients, resamples=resamples)


def with_intervals(figures: Callable[[Weights], Figures], patients: Sequence[str], *, resamples: int = 2000) -> Summary:
    """The figures that a function computes, with 95 % intervals by the patient-clustered bootstrap.

    Args:
        figures: computes the figures for each row of film weights `[B, N]`.
        patients: the patient of every film, `[N]`.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: there are no films.
    """
    values, resampled = resample(figures, patients, resamples=resamples)
    summary = {}
    # Resampling adds noise, which inflates a calibration error: its interval is shifted to centre on the value.
    for name, value in values.items():
        if is_calibration_error(name):
            low, high = centred_interval(resampled[name], value)
            low = low if np.isnan(low) else max(low, 0.0)  # an error cannot be negative; the shift may make it so
        else:
            low, high = percentile_interval(resampled[name])
        summary[name] = {"value": finite_or_none(value), "low": finite_or_none(low), "high": finite_or_none(high)}
    return summary


def resample(
    figures: Callable[[Weights], Figures], patients: Sequence[str], *, resamples: int
) -> tuple[dict[str, float], Figures]:
    """Figures of the films themselves, and of each resample, `float [resamples]` each.

    Raises:
        ValueError: there are no films.
    """
    if not len(patients):
        raise ValueError("there are no films; figures need at least one")
    # The films themselves are a resample in which each counts once.
    values = {name: float(value[0]) for name, value in figures(np.ones((1, len(patients)), np.int64)).items()}
    # In batches, so that memory does not grow with the number of bootstrap resamples.
    parts = [figures(weights) for weights in bootstrap_weights(patients, resamples=resamples)]
    return values, {name: np.concatenate([part[name] for part in parts]) for name in values}


def is_calibration_error(name: str) -> bool:
    """Whether the figure of this name is an expected calibration error, which resampling inflates."""
    return name.partition(".")[0] in _CALIBRATION_ERRORS


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of the figure of this name is better."""
    return name.partition(".")[0] in _LOWER_IS_BETTER


def weighted_figures(
    truth: Indices,
    probabilities: Floats,
    weights: Weights,
    classes: tuple[str, ...],
    members: dict[str, list[int]],
    *,
    prior: Prior,
) -> Figures:
    """Every figure of `summarise`, `float [B]`, for each row of `weights` `[B, N]`.

    `members` has the class indices of each group.
    """
    as_floats = weights.astype(np.float64)
    confusion = rates.weighted_confusions(truth, probabilities.argmax(axis=1), len(classes), as_floats)
    return (
        _confusion_figures(confusion, classes, members)
        | _ranking_figures(truth, probabilities, as_floats, classes, members)
        | _calibration_figures(truth, probabilities, as_floats, classes, members, prior)
    )


def _confusion_figures(confusion: Floats, classes: tuple[str, ...], members: dict[str, list[int]]) -> Figures:
    figures = {
        "accuracy": rates.accuracy(confusion),
        "balanced_accuracy": rates.balanced_accuracy(confusion),
        "macro_f1": rates.macro_f1(confusion),
        "mcc": rates.mcc(confusion),
    }
    functions = {
        "sensitivity": rates.sensitivity,
        "specificity": rates.specificity,
        "ppv": rates.precision,
        "npv": rates.npv,
    }
    per_class = {name: rate(confusion) for name, rate in (functions | {"f1": rates.f1}).items()}
    for index, label in enumerate(classes):
        figures |= {f"{name}.{label}": values[:, index] for name, values in per_class.items()}
    for group, indices in members.items():
        sides = rates.group_confusion(confusion, indices)
        figures[f"group_accuracy.{group}"] = rates.accuracy(sides)
        figures |= {f"group_{name}.{group}": rate(sides)[:, 1] for name, rate in functions.items()}
    return figures


def _ranking_figures(
    truth: Indices, probabilities: Floats, weights: Weights, classes: tuple[str, ...], members: dict[str, list[int]]
) -> Figures:
    areas = [weighted_areas(truth == at, probabilities[:, at], weights) for at in range(len(classes))]
    aurocs, precisions = zip(*areas, strict=True)
    figures: Figures = {
        "macro_auroc": np.mean(aurocs, axis=0),
        "macro_average_precision": np.mean(precisions, axis=0),
    }
    for index, label in enumerate(classes):
        figures[f"auroc.{label}"], figures[f"average_precision.{label}"] = aurocs[index], precisions[index]
    for group, indices in members.items():
        inside, score = np.isin(truth, indices), probabilities[:, indices].sum(axis=1)
        area, average = weighted_areas(inside, score, weights)
        figures[f"group_auroc.{group}"], figures[f"group_average_precision.{group}"] = area, average
    correct = probabilities.argmax(axis=1) == truth
    figures["aurc"] = risk_coverage_areas(correct, probabilities.max(axis=1), weights)
    return figures


def _calibration_figures(
    truth: Indices,
    probabilities: Floats,
    weights: Weights,
    classes: tuple[str, ...],
    members: dict[str, list[int]],
    prior: Prior,
) -> Figures:
    # Anew in each resample: drawing patients changes the classes' frequencies.
    at_prior = reliability.weights_at_prior(truth, weights, classes=len(classes), prior=prior)
    errors = reliability.class_calibration_errors(truth, probabilities, at_prior)
    figures: Figures = {
        "brier": reliability.brier(truth, probabilities, at_prior),
        "cross_entropy": reliability.negative_log_likelihood(truth, probabilities, at_prior),
        "ece": reliability.top_label_calibration_error(truth, probabilities, at_prior),
        "classwise_ece": errors.mean(axis=-1),
    }
    figures |= {f"class_ece.{label}": errors[:, index] for index, label in enumerate(classes)}
    for group, indices in members.items():
        inside, score = np.isin(truth, indices), probabilities[:, indices].sum(axis=1)
        figures[f"group_ece.{group}"] = reliability.calibration_error(inside, score, at_prior)
    return figures


def _check(truth: Indices, rows: Floats | Flags, patients: Sequence[str], classes: int) -> None:
    check_indices(truth, classes)
    if rows.shape != (len(truth), classes) or len(patients) != len(truth):
        raise ValueError(
            f"{len(truth)} films and {classes} classes need shape {(len(truth), classes)} and {len(truth)} patients; "
            f"got shape {rows.shape} and {len(patients)} patients"
        )
