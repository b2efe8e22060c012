"""Two models on the same films: paired differences with intervals, and the classical tests."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pneumoscope import metrics
from pneumoscope.engine import Engine
from pneumoscope.engine.document import ModelName
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.report.document import Comparison, Difference, Figure, PairedTest, Seen, Verdict
from pneumoscope.report.figures import RESAMPLES, one_vs_rest
from pneumoscope.report.scoring import FilmResults, SplitResults, select_films

_VERDICTS: dict[metrics.Verdict, Verdict] = {
    "first better": "better",
    "second better": "worse",
    "cannot conclude": "cannot conclude",
}


def verdict_on(difference: Figure, *, lower_is_better: bool = False) -> Verdict:
    """Whether this model is better or worse by a difference (this minus the other), or no conclusion is possible.

    There is no conclusion if the interval of the difference contains zero or is undefined.
    """
    if difference.low is None or difference.high is None:
        return "cannot conclude"
    return _VERDICTS[metrics.verdict(difference.low, difference.high, lower_is_better=lower_is_better)]


def check_classes(engine: Engine, other: Engine) -> None:
    """Raise UsageError unless two bundles have the same classes and groups, in any order."""
    one, two = (
        (set(contract.classes), {group: set(members) for group, members in contract.groups.items()})
        for contract in (engine.contract, other.contract)
    )
    if one != two:
        raise UsageError(
            f"--compare {other.contract.name} has the classes {', '.join(other.contract.classes)} and the groups "
            f"{dict(other.contract.groups)}; {engine.contract.name} has {', '.join(engine.contract.classes)} and "
            f"{dict(engine.contract.groups)}; only bundles of the same classes and groups can be compared."
        )


def compare(
    this: SplitResults,
    other: SplitResults,
    model: dict[str, str],
    *,
    seen: Seen,
    priors: tuple[metrics.Prior, metrics.Prior],
) -> Comparison:
    """Compare two models' results on the same films, paired by film.

    Args:
        this: results of the model that is reported on.
        other: results of the other model, whose classes may be in a different order.
        model: name, version and hash of the other model.
        seen: whether the other model was trained on the films.
        priors: class frequencies at which the two models' losses and calibration errors are measured.

    Raises:
        DatasetError: there is no film that reached both models.
    """
    one, two = _aligned(this, other)
    if not len(one.truth):
        raise DatasetError("no film reached the models of both bundles; they cannot be compared.")
    found = metrics.compare_predictions(
        one.truth,
        one.probabilities,
        two.probabilities,
        one.patients,
        classes=one.classes,
        groups=dict(one.groups),
        priors=priors,
        resamples=RESAMPLES,
    )
    return Comparison(
        other=ModelName(**model),
        other_seen=seen,
        films=len(one.truth),
        differences=tuple(
            Difference(
                figure=name,
                this=each.first,
                other=each.second,
                difference=Figure(value=each.value, low=each.low, high=each.high),
                verdict=_VERDICTS[each.verdict],
            )
            for name, each in found.items()
        ),
        tests=tuple(_tests(one, two)),
    )


def headline_differences(comparison: Comparison) -> list[Difference]:
    """The differences to show first: of all films, and of groups."""
    shown = ("group_accuracy", "group_sensitivity", "group_specificity", "group_auroc")
    return [each for each in comparison.differences if "." not in each.figure or each.figure.partition(".")[0] in shown]


def _aligned(this: SplitResults, other: SplitResults) -> tuple[FilmResults, FilmResults]:
    """The films that reached both models, with films and classes in the order of `this`."""
    place = {film.path: number for number, film in enumerate(other.films)}
    order = [place[film.path] for film in this.films if film.path in place]
    columns = [other.classes.index(label) for label in this.classes]
    one = select_films(this, np.array([film.path in place for film in this.films], bool))
    probabilities = other.probabilities[order][:, columns]
    # Recomputed, as a tie between two classes may be decided otherwise in a different order of classes.
    two = replace(one, predicted=np.asarray(probabilities.argmax(axis=1), np.int64), probabilities=probabilities)
    return one, two


def _tests(one: FilmResults, two: FilmResults) -> Iterator[PairedTest]:
    """McNemar's test of correct films, by class and by each group's sides; DeLong's test of AUROCs, by patient."""
    yield _mcnemar("all classes", one.predicted == one.truth, two.predicted == two.truth)
    for group in one.groups:
        inside = one.inside(group)
        truth = inside[one.truth]
        yield _mcnemar(group, inside[one.predicted] == truth, inside[two.predicted] == truth)
    for (name, positive, scores), (_, _, others) in zip(one_vs_rest(one), one_vs_rest(two), strict=True):
        test = metrics.delong(positive, scores, others, one.patients)
        yield PairedTest(name="DeLong", of=name, difference=test.value, p=test.p)


def _mcnemar(of: str, first: metrics.Flags, second: metrics.Flags) -> PairedTest:
    test = metrics.mcnemar(first, second)
    return PairedTest(name="McNemar", of=of, difference=test.first_only - test.second_only, p=test.exact)
