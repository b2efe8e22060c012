"""Two models on the same films: paired differences with intervals, and the classical tests."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pneumoscope import metrics
from pneumoscope.engine import Engine
from pneumoscope.engine.document import ModelName
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.report.document import Comparison, Difference, Figure, PairedTest, Seen, Verdict
from pneumoscope.report.figures import DRAWS, sides_of
from pneumoscope.report.scoring import Judged, Scored, part_of

_VERDICTS: dict[metrics.Verdict, Verdict] = {
    "first better": "better",
    "second better": "worse",
    "cannot conclude": "cannot conclude",
}


def verdict_on(difference: Figure, *, lower_is_better: bool = False) -> Verdict:
    """Whether a difference (this minus the other) is better or worse: no conclusion if its interval holds zero."""
    if difference.low is None or difference.high is None:
        return "cannot conclude"
    return _VERDICTS[metrics.verdict(difference.low, difference.high, lower_is_better=lower_is_better)]


def check_classes(engine: Engine, other: Engine) -> None:
    """Raise UsageError unless two bundles know the same classes and groups."""
    one, two = ((set(c.classes), {k: set(v) for k, v in c.groups.items()}) for c in (engine.contract, other.contract))
    if one != two:
        raise UsageError(
            f"--compare {other.contract.name} knows {', '.join(other.contract.classes)} with the groups "
            f"{dict(other.contract.groups)}; {engine.contract.name} knows {', '.join(engine.contract.classes)} with "
            f"{dict(engine.contract.groups)}; only bundles of the same classes and groups can be compared."
        )


def compare(
    this: Scored, other: Scored, model: dict[str, str], *, seen: Seen, priors: tuple[metrics.Prior, metrics.Prior]
) -> Comparison:
    """What two models say of the same films, film by film.

    Args:
        this: the films as the model that is reported on judged them.
        other: the same films by the other model, whose classes may be in another order.
        model: which the other is.
        seen: whether the other was trained on them.
        priors: class frequencies that the two models' losses and calibration errors are at.

    Raises:
        DatasetError: no film could be decoded by both.
    """
    one, two = _aligned(this, other)
    if not len(one.truth):
        raise DatasetError("no film can be decoded by both bundles, so that they cannot be compared.")
    found = metrics.compare_predictions(
        one.truth,
        one.probabilities,
        two.probabilities,
        one.patients,
        classes=one.classes,
        groups=dict(one.groups),
        priors=priors,
        draws=DRAWS,
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


def _aligned(this: Scored, other: Scored) -> tuple[Judged, Judged]:
    """The films that both could decode, in one order of films and classes."""
    place = {film.path: number for number, film in enumerate(other.films)}
    order = [place[film.path] for film in this.films if film.path in place]
    columns = [other.classes.index(label) for label in this.classes]
    one = part_of(this, np.array([film.path in place for film in this.films], bool))
    probabilities = other.probabilities[order][:, columns]
    two = replace(one, predicted=np.asarray(probabilities.argmax(axis=1), np.int64), probabilities=probabilities)
    return one, two


def _tests(one: Judged, two: Judged) -> Iterator[PairedTest]:
    """McNemar's test of the hits, of all classes and of each group's sides; DeLong's of the areas, by patient."""
    yield _mcnemar("all classes", one.predicted == one.truth, two.predicted == two.truth)
    for group in one.groups:
        inside = one.inside(group)
        truth = inside[one.truth]
        yield _mcnemar(group, inside[one.predicted] == truth, inside[two.predicted] == truth)
    for (name, positive, scores), (_, _, others) in zip(sides_of(one), sides_of(two), strict=True):
        test = metrics.delong(positive, scores, others, one.patients)
        yield PairedTest(name="DeLong", of=name, difference=test.value, p=test.p)


def _mcnemar(of: str, first: metrics.Flags, second: metrics.Flags) -> PairedTest:
    test = metrics.mcnemar(first, second)
    return PairedTest(name="McNemar", of=of, difference=test.first_only - test.second_only, p=test.exact)
