"""From probabilities to a decision: answer, abstain or reject. No other code decides.

Two questions about a film have answers of different certainty: whether it shows a group of classes (pneumonia), and
which class of the group. Each question has a conformal set at the same coverage, from the contract's table: the classes
that fit the film, and for every group the sides, inside and outside, that fit. At level `class`, a film is `answered`
if a single class fits, it is the most probable one, and for each group only this class's side fits. An empty set means
that the film is less typical of every class than the coverage requires. It gives an abstention: filling it with the
most probable class would give answers to the very films on which answers are most often wrong.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import Contract, CoverageRow, OperatingPoint
from pneumoscope.engine.attention import Attention
from pneumoscope.engine.document import Level, Status
from pneumoscope.errors import UsageError
from pneumoscope.imaging import Reason

_OLDEST_STATED = 90  # one category from here on, as in HIPAA's safe harbor, 45 CFR 164.514(b)(2)(i)(C)
#: By group: whether the film may be inside it, and whether it may be outside.
_Sides = dict[str, tuple[bool, bool]]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision: status, label, the answered class, the prediction set with its coverage, and the reasons."""

    status: Status
    label: str | None = None
    class_index: int | None = None
    prediction_set: tuple[str, ...] = ()
    coverage: float | None = None
    why: tuple[Reason, ...]
    attention: Attention | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons as sentences."""
        return tuple(reason.text for reason in self.why)

    @property
    def reason_codes(self) -> tuple[str, ...]:
        """The code of each of `reasons`."""
        return tuple(reason.code for reason in self.why)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A decision rule: a level with a row of conformal thresholds, or an operating point of a group."""

    level: Level
    row: CoverageRow
    point: OperatingPoint | None = None


def choose_rule(
    contract: Contract, *, level: Level = "class", coverage: float | None = None, operating_point: str | None = None
) -> Rule:
    """The decision rule for these options.

    Args:
        contract: holds the table of coverages and the operating points.
        level: `class`, or `group` to answer with a group's name where the class is in a group.
        coverage: the coverage of a row of the contract's table; by default the table's default row.
        operating_point: the name of a stored operating point. It replaces the sets: its group is answered at or
            above its threshold, at level `group` and without a coverage.

    Raises:
        UsageError: there is no such row or operating point; or the level is `group` and the contract has no groups, or
            groups that share a class.
    """
    decision = contract.decision
    if level == "group" or operating_point is not None:
        group_answers(contract.groups, contract.classes)
    if (row := decision.row(decision.coverage if coverage is None else coverage)) is None:
        known = _join_names((f"{row.coverage:g}" for row in decision.table if row.coverage is not None), "or")
        raise UsageError(f"coverage {coverage:g} is not in this model's table; accepted: {known}.")
    if operating_point is None:
        return Rule(level=level, row=row)
    points = {point.name: point for point in decision.operating_points}
    if operating_point not in points:
        known = _join_names(points, "or")
        raise UsageError(f"operating point {operating_point!r} is not in this model's table; accepted: {known}.")
    return Rule(level="group", row=row, point=points[operating_point])


def reject(contract: Contract, why: Reason) -> Verdict:
    """The decision on a file that is not a usable film."""
    return Verdict(status="rejected", why=(why, *_remarks(contract)))


def decide(
    contract: Contract,
    probabilities: NDArray[np.float64],
    maps: NDArray[np.float32] | None,
    *,
    rule: Rule,
    notes: tuple[Reason, ...] = (),
    age_years: float | None = None,
) -> Verdict:
    """Decide on a film that could be decoded.

    Args:
        contract: classes, groups, population, and the regions of the activation maps to check.
        probabilities: calibrated, `[C]`.
        maps: class-activation maps `[C, h, w]`, if the model has them.
        rule: see `choose_rule`.
        notes: remarks from reading the file.
        age_years: the patient's age, if the file states it.
    """
    shares = dict(zip(contract.classes, map(float, probabilities), strict=True))
    verdict = judge(contract.groups, shares, rule)
    # The map of an abstention explains the most probable class of the set; an empty set leaves all classes.
    explained = max(verdict.prediction_set or contract.classes, key=shares.__getitem__)
    attention = None
    if maps is not None and contract.activation_map is not None:
        activation = maps[contract.classes.index(explained)]
        attention = Attention.of_map(explained, activation, contract.activation_map)
    remarks = _remarks(contract, notes, age_years, attention)
    return replace(verdict, why=(*verdict.why, *remarks), attention=attention)


def judge(groups: dict[str, tuple[str, ...]], shares: dict[str, float], rule: Rule) -> Verdict:
    """The decision on probabilities by class, in the contract's order, with the rule's own reasons and no remarks."""
    if rule.point is not None:
        return _judge_at_point(groups, shares, rule.point)
    judge_level = _judge_class if rule.level == "class" else _judge_group
    return replace(judge_level(groups, shares, rule.row), coverage=rule.row.coverage)


def group_answers(groups: dict[str, tuple[str, ...]], classes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The answers of level `group`, each with its classes: the groups, and every class that is in no group.

    Raises:
        UsageError: there are no groups, or two groups share a class.
    """
    members = [member for group in groups.values() for member in group]
    if not members or len(set(members)) < len(members):
        raise UsageError(
            f"level 'group' needs groups that share no class; this model has {dict(groups) or 'none'}; "
            "use level 'class'."
        )
    return {**groups, **{name: (name,) for name in classes if name not in members}}


def _judge_class(groups: dict[str, tuple[str, ...]], shares: dict[str, float], row: CoverageRow) -> Verdict:
    fitting, sides, at = _fitting_classes(shares, row), _sides(groups, shares, row), _coverage_phrase(row)
    if len(fitting) == 1:
        label, best = fitting[0], max(shares, key=shares.__getitem__)
        only = f"{at} {label} is the only class that fits, but"
        if label != best:  # thresholds differ by class, so the only class that fits need not be the most probable
            return _abstained(fitting, Reason("less-probable", f"{only} {best} is more probable."))
        for group, members in groups.items():
            if sides[group] != (label in members, label not in members):
                return _abstained(fitting, Reason("group-unclear", f"{only} {_sides_phrase(group, sides[group])}."))
        return _answered(label, fitting, shares)
    if not fitting:
        return _abstained((), Reason("no-class", f"{at} no class is probable enough to fit the film."))
    several = Reason("several-classes", f"{at} the film may be {_join_names(fitting, 'or')}.")
    for group, members in groups.items():
        if {*fitting} <= {*members}:
            # It is enough that the group's absence does not fit; the group may miss its threshold as well.
            if not sides[group][1]:
                return replace(_abstained(fitting, several), label=f"{group}, type undetermined")
            unclear = Reason("group-unclear", f"{at} {_sides_phrase(group, sides[group])}.")
            return _abstained(fitting, several, unclear)
    return _abstained(fitting, several)


def _judge_group(groups: dict[str, tuple[str, ...]], shares: dict[str, float], row: CoverageRow) -> Verdict:
    """By the groups' sides; among several classes outside all groups, by the classes' own thresholds."""
    choices, sides = group_answers(groups, shares), _sides(groups, shares, row)
    classes = tuple(
        name for name in shares if all(sides[group][name not in members] for group, members in groups.items())
    )
    answers = [choice for choice, members in choices.items() if {*members} & {*classes}]
    # Sides of groups cannot distinguish classes that are in no group.
    if len(answers) > 1 and not {*answers} & {*groups}:
        answers = [choice for choice in answers if choice in _fitting_classes(shares, row)]
    if len(answers) == 1:
        return _answered(answers[0], choices[answers[0]], shares)
    finding = (
        f"the film may be {_join_names(answers, 'or')}" if answers else f"none of {_join_names(choices)} fits the film"
    )
    return _abstained(classes, Reason("group-unclear", f"{_coverage_phrase(row)} {finding}."))


def _judge_at_point(groups: dict[str, tuple[str, ...]], shares: dict[str, float], point: OperatingPoint) -> Verdict:
    """The group at or above its threshold, else the most probable other answer; never an abstention."""
    choices = group_answers(groups, shares)
    sums = {name: sum(shares[member] for member in members) for name, members in choices.items()}
    # The threshold alone decides about the group: its name must not return as the most probable of the rest.
    others = (name for name in choices if name != point.group)
    label = point.group if sums[point.group] >= point.threshold else max(others, key=sums.__getitem__)
    limit = f"at a probability of {point.threshold:.3f} or more"
    sentence = f"decided at operating point {point.name}: {point.group} {limit}."
    return replace(_answered(label, choices[label], shares), why=(Reason("operating-point", sentence),))


def _fitting_classes(shares: dict[str, float], row: CoverageRow) -> tuple[str, ...]:
    return tuple(name for name, share in shares.items() if share >= row.classes[name])


def _sides(groups: dict[str, tuple[str, ...]], shares: dict[str, float], row: CoverageRow) -> _Sides:
    inside = {group: sum(shares[member] for member in members) for group, members in groups.items()}
    # 1 - p, as `export` computes it for its thresholds: a rounded sum of the other classes might cross a threshold.
    return {group: (p >= row.groups[group].inside, 1 - p >= row.groups[group].outside) for group, p in inside.items()}


def _answered(label: str, possible: tuple[str, ...], shares: dict[str, float]) -> Verdict:
    index = list(shares).index(label) if label in shares else None
    return Verdict(status="answered", label=label, class_index=index, prediction_set=possible, why=())


def _abstained(possible: tuple[str, ...], *why: Reason) -> Verdict:
    return Verdict(status="abstained", prediction_set=possible, why=why)


def _coverage_phrase(row: CoverageRow) -> str:
    return "by this bundle's threshold" if row.coverage is None else f"at {100 * row.coverage:.0f} % coverage"


def _sides_phrase(group: str, sides: tuple[bool, bool]) -> str:
    """How a group's sides fit a film, for a film whose class does not agree with them."""
    return {
        (True, True): f"both {group} and its absence fit the film",
        (False, False): f"neither {group} nor its absence fits the film",
        (True, False): f"only {group} fits the film",
        (False, True): f"{group} does not fit the film",
    }[sides]


def _join_names(names: Iterable[str], word: str = "and") -> str:
    """Names as a list for a sentence; `none` if there are none."""
    *first, last = [*names] or ["none"]
    return f"{', '.join(first)} {word} {last}" if first else last


def _remarks(
    contract: Contract,
    notes: tuple[Reason, ...] = (),
    age_years: float | None = None,
    attention: Attention | None = None,
) -> Iterator[Reason]:
    """Remarks that accompany any decision: on the model, the film, the patient's age, and where the model looked."""
    if contract.population.drawings:
        sentence = "this model was trained on drawings, not on radiographs; its answer says nothing about a patient."
        yield Reason("trained-on-drawings", sentence)
    yield from notes
    ages = contract.population.age_years
    # Someone is 5 years old until the sixth birthday: the upper end includes its whole year.
    if ages is not None and age_years is not None and not ages[0] <= age_years < ages[1] + 1:
        sentence = f"the patient is {_rough_age(age_years)}; the model was trained on ages {ages[0]:g} to {ages[1]:g}."
        yield Reason("outside-ages", sentence)
    rule = contract.activation_map
    if rule is None or attention is None or attention.border is None or attention.corners is None:
        return
    if max(attention.border, attention.corners) >= rule.warn_from:
        border, corners = (f"{100 * share:.0f} %" for share in (attention.border, attention.corners))
        shares = f"{border} of the map for {attention.label} is at the border, {corners} in the corners"
        sentence = f"the model looked mostly at the edge of the film: {shares}."
        yield Reason("looked-at-rim", sentence)


def _rough_age(age_years: float) -> str:
    """An age in whole years: months would reveal a birthday, and a great age a person."""
    if age_years < 1:
        return "under 1 year old"
    return f"{int(age_years)} years old" if age_years < _OLDEST_STATED else f"{_OLDEST_STATED} years old or older"
