"""The report's figures from a model's results on films, each with an interval from a bootstrap over patients."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pneumoscope import metrics
from pneumoscope.metrics import Flags, Floats, Prior, Weights
from pneumoscope.report.document import (
    Band,
    Curve,
    Curves,
    DecisionCurve,
    Decisions,
    Figure,
    Figures,
    OperatingPoint,
    PredictiveValues,
    Reliability,
    SetFigures,
    Sets,
)
from pneumoscope.report.scoring import STATUSES, FilmResults

RESAMPLES = 2000
PREVALENCES = (0.05, 0.1, 0.2, 0.5)
MOST_PROBABLE, HALF = "most probable", "at one half"
#: Values of x at which bands are computed: false positive rates, sensitivities and shares answered, and the threshold
#: probabilities of decision curves.
_GRID = np.linspace(0.0, 1.0, 41)
_ACTION_THRESHOLDS = np.linspace(0.02, 0.98, 25)
_GROUP = "group_"


@dataclass(frozen=True, kw_only=True)
class Cutoff:
    """A rule that calls films positive for a class or group, `of`.

    With a threshold, a film is positive if the probability of `of` reaches it. Without one, a film is positive if its
    most probable class is `of` or belongs to `of`.
    """

    name: str
    of: str
    threshold: float | None


@dataclass(frozen=True, kw_only=True)
class SplitFigures:
    """The figures of a set of films: overall, by class and by group."""

    overall: Figures
    per_class: dict[str, Figures]
    per_group: dict[str, Figures]


def figures(results: FilmResults, prior: Prior) -> SplitFigures:
    """The figures of `metrics.summarise`, sorted into overall figures, classes and groups."""
    flat = to_figures(
        metrics.summarise(
            results.truth,
            results.probabilities,
            results.patients,
            classes=results.classes,
            groups=dict(results.groups),
            prior=prior,
            resamples=RESAMPLES,
        )
    )
    found = SplitFigures(
        overall={},
        per_class={label: {} for label in results.classes},
        per_group={group: {} for group in results.groups},
    )
    for key, figure in flat.items():
        name, _, of = key.partition(".")
        if not of:
            found.overall[name] = figure
        elif name.startswith(_GROUP):
            found.per_group[of][name.removeprefix(_GROUP)] = figure
        else:
            found.per_class[of][name.removeprefix("class_")] = figure
    return found


def key_figures(results: FilmResults) -> Figures:
    """The few figures by which subgroups are compared."""

    def compute(weights: Weights) -> metrics.Figures:
        table = metrics.weighted_confusions(results.truth, results.predicted, len(results.classes), weights)
        found = {"accuracy": metrics.accuracy(table), "balanced_accuracy": metrics.balanced_accuracy(table)}
        for group in results.groups:
            inside = np.flatnonzero(results.inside(group)).tolist()
            sides = metrics.group_confusion(table, inside)
            found[f"sensitivity of {group}"] = metrics.sensitivity(sides)[:, 1]
            found[f"specificity of {group}"] = metrics.specificity(sides)[:, 1]
        for name, positive, scores in one_vs_rest(results):
            if name in results.groups or not results.groups:
                found[f"AUROC of {name}"] = metrics.weighted_aurocs(positive, scores, weights)
        return found

    return _with_intervals(results, compute)


def operating_points(results: FilmResults, cutoffs: Sequence[Cutoff]) -> tuple[OperatingPoint, ...]:
    """Sensitivity, specificity and predictive values at cut-offs; predictive values also at `PREVALENCES`."""
    return tuple(_operating_point(results, cutoff) for cutoff in cutoffs)


def plain_cutoffs(results: FilmResults) -> list[Cutoff]:
    """The cut-offs that need no stored threshold: the most probable class, and a probability of at least one half."""
    names = [*results.classes, *results.groups]
    return [
        *(Cutoff(name=MOST_PROBABLE, of=name, threshold=None) for name in names),
        *(Cutoff(name=HALF, of=name, threshold=0.5) for name in names),
    ]


def _operating_point(results: FilmResults, cutoff: Cutoff) -> OperatingPoint:
    positive, scores = next(each[1:] for each in one_vs_rest(results) if each[0] == cutoff.of)
    if cutoff.threshold is None:
        members = results.inside(cutoff.of) if cutoff.of in results.groups else np.array(results.classes) == cutoff.of
        called = members[results.predicted]
    else:
        called = scores >= cutoff.threshold
    found = to_figures(
        metrics.summarise_rule(positive, called, results.patients, prevalences=PREVALENCES, resamples=RESAMPLES)
    )
    return OperatingPoint(
        name=cutoff.name,
        of=cutoff.of,
        threshold=cutoff.threshold,
        **{name: found[name] for name in ("sensitivity", "specificity", "ppv", "npv")},
        at_prevalences=tuple(
            PredictiveValues(prevalence=share, ppv=found[f"ppv_at.{share:g}"], npv=found[f"npv_at.{share:g}"])
            for share in PREVALENCES
        ),
    )


def decisions(results: FilmResults) -> Decisions:
    """How many films were answered, abstained on and rejected, and the figures of those that were answered."""
    answered = results.has_status("answered")

    def compute(weights: Weights) -> metrics.Figures:
        total = weights.sum(axis=1)
        found = {status: weights @ results.has_status(status) / total for status in STATUSES}
        table = metrics.weighted_confusions(results.truth, results.predicted, len(results.classes), weights * answered)
        found["answered.accuracy"] = metrics.accuracy(table)
        for at, label in enumerate(results.classes):
            found[f"answered.{label}: sensitivity"] = metrics.sensitivity(table)[:, at]
        for group in results.groups:
            sides = metrics.group_confusion(table, np.flatnonzero(results.inside(group)).tolist())
            found[f"answered.{group} or not: accuracy"] = metrics.accuracy(sides)
        return found

    found = _with_intervals(results, compute)
    rejected = results.has_status("rejected")
    return Decisions(
        statuses={status: int(results.has_status(status).sum()) for status in STATUSES},
        shares={status: found[status] for status in STATUSES},
        reasons=_counts(code for codes in results.codes for code in codes),
        rejected_for=_counts(results.codes[row][0] for row in np.flatnonzero(rejected).tolist() if results.codes[row]),
        answered={name.removeprefix("answered."): figure for name, figure in found.items() if name not in STATUSES},
    )


def sets(results: FilmResults, level: float | None) -> Sets:
    """Coverage and size of the prediction sets of the films that were not rejected."""
    kept = ~results.has_status("rejected")
    truth, possible = results.truth[kept], results.sets[kept]
    patients = [results.patients[each] for each in np.flatnonzero(kept).tolist()]
    if not patients:
        nothing = Figure(value=None, low=None, high=None)
        empty = SetFigures(films=0, coverage=nothing, size=nothing)
        return Sets(level=level, all=empty, per_class=dict.fromkeys(results.classes, empty), sizes={})
    found = to_figures(metrics.summarise_sets(truth, possible, patients, classes=results.classes, resamples=RESAMPLES))

    def part(of: str, films: int) -> SetFigures:
        return SetFigures(films=films, coverage=found[f"coverage{of}"], size=found[f"set_size{of}"])

    return Sets(
        level=level,
        all=part("", len(truth)),
        per_class={label: part(f".{label}", int((truth == at).sum())) for at, label in enumerate(results.classes)},
        sizes={str(count): found[f"size_share.{count}"] for count in range(len(results.classes) + 1)},
    )


def curves(results: FilmResults, prior: Prior) -> Curves:
    """The numbers behind the charts."""
    hits, confidence = results.predicted == results.truth, results.probabilities.max(axis=1)
    sides = list(one_vs_rest(results))
    shares = _GRID[1:]

    def compute(weights: Weights) -> metrics.Figures:
        found = _cells("selective", metrics.accuracies_at(hits, confidence, weights, shares))
        for name, positive, scores in sides:
            found |= _cells(f"roc {name}", metrics.weighted_sensitivities(positive, scores, weights, _GRID))
            found |= _cells(f"pr {name}", metrics.weighted_precisions(positive, scores, weights, shares))
            found |= _cells(f"act {name}", metrics.decision_curve(positive, scores, _ACTION_THRESHOLDS, weights).model)
        return found

    bands = _with_intervals(results, compute)
    selective = metrics.coverage_points(hits, confidence)
    return Curves(
        roc={
            name: _curve(*metrics.roc_points(positive, scores)[:2], _band(bands, f"roc {name}", _GRID))
            for name, positive, scores in sides
        },
        precision_recall={
            name: _curve(*metrics.precision_recall_points(positive, scores)[:2], _band(bands, f"pr {name}", shares))
            for name, positive, scores in sides
        },
        reliability=dict(_reliabilities(results, prior)),
        selective=_curve(selective.coverage, selective.accuracy, _band(bands, "selective", shares)),
        decision={
            name: DecisionCurve(
                model=_band(bands, f"act {name}", _ACTION_THRESHOLDS),
                treat_all=tuple(metrics.decision_curve(positive, scores, _ACTION_THRESHOLDS).treat_all.tolist()),
            )
            for name, positive, scores in sides
        },
    )


def one_vs_rest(results: FilmResults) -> Iterator[tuple[str, Flags, Floats]]:
    """Every class and group against the rest: its name, which films belong to it, and its probabilities, `[N]` each."""
    for at, label in enumerate(results.classes):
        yield label, results.truth == at, results.probabilities[:, at]
    for group in results.groups:
        inside = results.inside(group)
        yield group, inside[results.truth], results.probabilities[:, inside].sum(axis=1)


def to_figures(summary: metrics.Summary) -> Figures:
    """Convert a summary of `metrics` into figures of the report."""
    return {name: Figure.model_validate(each) for name, each in summary.items()}


def _with_intervals(results: FilmResults, compute: Callable[[Weights], metrics.Figures]) -> Figures:
    return to_figures(metrics.with_intervals(compute, results.patients, resamples=RESAMPLES))


def _reliabilities(results: FilmResults, prior: Prior) -> Iterator[tuple[str, Reliability]]:
    """Reliability of the most probable class, and of each class's own probability; films are weighted to the prior."""
    count = len(results.classes)
    pairs = [(MOST_PROBABLE, results.predicted == results.truth, results.probabilities.max(axis=1))]
    pairs += [(label, results.truth == at, results.probabilities[:, at]) for at, label in enumerate(results.classes)]
    for name, hits, confidence in pairs:
        # `hits` and `confidence` are default values, since a function that reads a loop's variables would see their
        # later values (ruff's B023).
        def observed(weights: Weights, hits: Flags = hits, confidence: Floats = confidence) -> metrics.Figures:
            at_prior = metrics.weights_at_prior(results.truth, weights, classes=count, prior=prior)
            return _cells("bin", metrics.reliability_curve(hits, confidence, at_prior).observed)

        ones = np.ones(len(results.truth))
        weights = metrics.weights_at_prior(results.truth, ones, classes=count, prior=prior)
        curve, found = metrics.reliability_curve(hits, confidence, weights), _with_intervals(results, observed)
        filled = [place for place in range(len(curve.share)) if curve.share[place] > 0]
        yield (
            name,
            Reliability(
                confidence=tuple(curve.confidence[filled].tolist()),
                observed=tuple(found[f"bin {place}"] for place in filled),
                share=tuple(curve.share[filled].tolist()),
            ),
        )


def _cells(name: str, values: Floats) -> metrics.Figures:
    """The columns of values `[B, K]` as K named figures, so that each gets its own interval."""
    return {f"{name} {place}": values[:, place] for place in range(values.shape[1])}


def _band(found: Figures, name: str, x: Floats) -> Band:
    cells = [found[f"{name} {place}"] for place in range(len(x))]
    return Band(
        x=tuple(x.tolist()),
        value=tuple(each.value for each in cells),
        low=tuple(each.low for each in cells),
        high=tuple(each.high for each in cells),
    )


def _curve(x: Floats, y: Floats, band: Band) -> Curve:
    return Curve(x=tuple(x.tolist()), y=tuple(y.tolist()), band=band)


def _counts(codes: Iterable[str]) -> dict[str, int]:
    return dict(Counter(codes).most_common())
