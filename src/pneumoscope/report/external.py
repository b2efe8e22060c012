"""External data sets: mapping their labels to the bundle's classes, and the drop against the model's own figures."""

import math
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from pneumoscope.contract import Contract
from pneumoscope.dataset import Record
from pneumoscope.documents import Document, Text, first_problem
from pneumoscope.errors import UsageError
from pneumoscope.report.compare import verdict_on
from pneumoscope.report.document import Drop, External, Figure, Figures, Report
from pneumoscope.report.figures import HALF
from pneumoscope.report.scoring import LabelScheme

#: The name that gathers the bundle's classes to which no label of the data set is mapped.
NONE_OF_THESE = "none of these"


class LabelMap(Document):
    """A mapping file: TOML with a table `labels`, and optionally a list `leave_out` of labels to skip."""

    labels: dict[Text, Text] = Field(min_length=1)
    leave_out: tuple[Text, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MappedFilms:
    """The films of an external data set to evaluate, the names that they are evaluated by, and the labels left out."""

    films: Sequence[Record]
    labels: dict[str, str]
    scheme: LabelScheme
    left_out: dict[str, int]


def read_map(path: Path) -> LabelMap:
    """Read a mapping file.

    Raises:
        UsageError: there is no such file, it is not TOML, or not of the form of `LabelMap`.
    """
    try:
        return LabelMap.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as failure:
        raise UsageError(f"--external {path} cannot be read ({failure.strerror}).") from failure
    except ValidationError as failure:
        raise UsageError(f"--external {path}: {first_problem(failure)}; {_FORM}") from failure
    except ValueError as failure:
        raise UsageError(f"--external {path} is not TOML ({failure}); {_FORM}") from failure


_FORM = 'give a table like labels = {NORMAL = "normal", PNEUMONIA = "pneumonia"}.'


def map_films(films: Sequence[Record], label_map: LabelMap, contract: Contract) -> MappedFilms:
    """Choose the films to evaluate, and the names to evaluate them by.

    Raises:
        UsageError: a label of the films is not in the map, the map names a class or group that the bundle does not
            have, two of its names share a class, or no film is left.
    """
    known: dict[str, tuple[str, ...]] = {label: (label,) for label in contract.classes} | dict(contract.groups)
    if unknown := sorted({name for name in label_map.labels.values() if name not in known}):
        raise UsageError(
            f"the map names {', '.join(unknown)}, which the bundle does not have; use one of {', '.join(known)}."
        )
    counts = Counter(film.label for film in films)
    if missing := sorted(
        label for label in counts if label not in label_map.labels and label not in label_map.leave_out
    ):
        raise UsageError(
            f"the map lacks the labels {', '.join(missing)} of the data set; add them under [labels], each with one "
            f"of {', '.join(known)}, or skip their films with leave_out = [...]."
        )
    evaluated = [film for film in films if film.label in label_map.labels and film.label not in label_map.leave_out]
    if not evaluated:
        raise UsageError(f"no film is left to evaluate: the films' labels are {', '.join(sorted(counts))}.")
    # Names of labels without films count, too: a model that answers with such a name makes an error.
    names = {label_map.labels[film.label] for film in evaluated} | set(label_map.labels.values())
    members = {name: known[name] for name in known if name in names}
    shared = [
        label for label, count in Counter(each for group in members.values() for each in group).items() if count > 1
    ]
    if shared:  # a film of a shared class would have two names
        raise UsageError(
            f"the map's names {', '.join(name for name in members if {*members[name]} & {*shared})} share the classes "
            f"{', '.join(sorted(shared))}; map to classes, or to a group, not to both."
        )
    rest = tuple(label for label in contract.classes if not any(label in group for group in members.values()))
    groups = {
        group: tuple(name for name in members if set(members[name]) <= set(parts))
        for group, parts in contract.groups.items()
        if group not in members and all(label in members for label in parts)
    }
    return MappedFilms(
        films=evaluated,
        labels={label: label_map.labels[label] for label in {film.label for film in evaluated}},
        scheme=LabelScheme(members=members | ({NONE_OF_THESE: rest} if rest else {}), groups=groups),
        left_out={label: count for label, count in sorted(counts.items()) if label in label_map.leave_out},
    )


def describe_external(mapped: MappedFilms, here: dict[str, Figures], own: Report | None) -> External:
    """The part of a report on an external data set.

    Args:
        mapped: how the data set was mapped.
        here: figures of each name on the data set.
        own: the out-of-fold report in the bundle, on films like those that the model was trained on.
    """
    own_films, drops = "none, because the bundle has no report; export it with --evidence", list[Drop]()
    if own is not None:
        own_films = f"{own.n:,} films of {own.dataset.patients:,} patients, {own.dataset.split}"
        for name, figures in here.items():
            theirs = _own_figures(mapped.scheme, name, own)
            drops += [_drop(figure, name, figures[figure], theirs[figure]) for figure in theirs]
    return External(
        labels=mapped.labels,
        left_out=mapped.left_out,
        members=dict(mapped.scheme.members),
        own=own_films,
        drops=tuple(drops),
    )


def _own_figures(scheme: LabelScheme, name: str, own: Report) -> dict[str, Figure]:
    """The model's own figures of a name, by the same rule: those that do not depend on the classes' frequencies."""
    known = own.per_class | own.per_group
    if name not in known:
        return {}
    found = {"auroc": known[name]["auroc"]}
    if all(len(members) == 1 for members in scheme.members.values()):
        found |= {figure: known[name][figure] for figure in ("sensitivity", "specificity")}
    elif len(scheme.members) == 2:  # of two names, the more probable one has a probability of at least one half
        point = next(each for each in own.points if (each.name, each.of) == (HALF, name))
        found |= {"sensitivity": point.sensitivity, "specificity": point.specificity}
    return found


def _drop(figure: str, name: str, here: Figure, own: Figure) -> Drop:
    difference = independent_difference(here, own)
    return Drop(figure=figure, of=name, here=here, own=own, difference=difference, verdict=verdict_on(difference))


def independent_difference(one: Figure, two: Figure) -> Figure:
    """The difference of two figures on different patients, with its 95 % interval.

    The squares of the standard errors add up (Altman and Bland, BMJ 2003;326:219); the intervals' half widths are
    proportional to them.
    """
    ends = (one.value, one.low, one.high, two.value, two.low, two.high)
    if any(each is None for each in ends):
        return Figure(value=None, low=None, high=None)
    value, low, high, other, other_low, other_high = (float(each or 0.0) for each in ends)
    spread = math.hypot((high - low) / 2, (other_high - other_low) / 2)
    return Figure(value=value - other, low=value - other - spread, high=value - other + spread)
