"""The one place where probabilities become a decision: answer, abstain or reject."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import Contract
from pneumoscope.engine.attention import Attention
from pneumoscope.engine.document import Level, Status
from pneumoscope.errors import UsageError
from pneumoscope.imaging import Reason

_MORE_THAN_HALF = 0.5
_OLDEST_TOLD = 90


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision: the class if answered, a label, the classes it may be, and why."""

    status: Status
    label: str | None = None
    class_index: int | None = None
    prediction_set: tuple[str, ...] = ()
    why: tuple[Reason, ...]
    attention: Attention | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences."""
        return tuple(reason.text for reason in self.why)

    @property
    def reason_codes(self) -> tuple[str, ...]:
        """The words: what each of `reasons` says in one."""
        return tuple(reason.code for reason in self.why)


def reject(contract: Contract, why: Reason) -> Verdict:
    """What is no usable film."""
    return Verdict(status="rejected", why=(why, *_remarks(contract)))


def decide(
    contract: Contract,
    probabilities: NDArray[np.float64],
    maps: NDArray[np.float32] | None,
    *,
    level: Level = "class",
    notes: tuple[Reason, ...] = (),
    age_years: float | None = None,
) -> Verdict:
    """Decide on a film that could be read.

    Args:
        contract: classes, groups, thresholds, population, and what is watched in the maps.
        probabilities: calibrated, `[C]`.
        maps: class-activation maps `[C, h, w]`, if the model gives any.
        level: `class`, or `group` to answer with a group's name where the class is in one.
        notes: what reading the film found worth telling.
        age_years: the patient's age, if the film says it.

    Raises:
        UsageError: level `group` of a contract without groups, or with groups that share a class.
    """
    least = contract.decision.answer_from
    shares = dict(zip(contract.classes, map(float, probabilities), strict=True))
    choices = {name: (name,) for name in contract.classes} if level == "class" else coarse(contract)
    sums = {name: sum(shares[member] for member in members) for name, members in choices.items()}
    label = max(sums, key=sums.__getitem__)
    explained = max(choices[label], key=shares.__getitem__)
    attention = None
    if maps is not None and contract.activation_map is not None:
        activation = maps[contract.classes.index(explained)]
        attention = Attention.of_map(explained, activation, contract.activation_map)
    told = tuple(_remarks(contract, notes, age_years, attention))
    if sums[label] >= least:
        return Verdict(
            status="answered",
            class_index=contract.classes.index(label) if label in contract.classes else None,
            label=label,
            prediction_set=choices[label],
            why=told,
            attention=attention,
        )
    digits = 3 if round(sums[label], 3) < round(least, 3) else 6
    shown = f"{sums[label]:.{digits}f} for {label}, is under {least:.{digits}f}"
    why = Reason("below-threshold", f"the largest probability, {shown}")
    label_of_group, possible = _undetermined(contract, shares)
    return Verdict(
        status="abstained", label=label_of_group, prediction_set=possible, why=(why, *told), attention=attention
    )


def coarse(contract: Contract) -> dict[str, tuple[str, ...]]:
    """The answers of level `group` and the classes each stands for: the groups, and every class in none.

    Raises:
        UsageError: there are no groups, or two share a class.
    """
    members = [member for group in contract.groups.values() for member in group]
    if not members or len(set(members)) < len(members):
        raise UsageError(
            f"level 'group' needs groups that share no class; this model has {dict(contract.groups) or 'none'}; "
            "use level 'class'."
        )
    alone = {name: (name,) for name in contract.classes if name not in members}
    return {**contract.groups, **alone}


def _undetermined(contract: Contract, shares: dict[str, float]) -> tuple[str | None, tuple[str, ...]]:
    """Of a film whose class is not sure: the group that is sure enough, if any, and the classes left.

    It is the most probable group that holds the most probable class and more than half of the probability.
    """
    best, least = max(shares, key=shares.__getitem__), max(contract.decision.answer_from, _MORE_THAN_HALF)
    sure = {
        group: share
        for group, members in contract.groups.items()
        if best in members and (share := sum(shares[member] for member in members)) >= least
    }
    if not sure:
        return None, contract.classes
    group = max(sure, key=sure.__getitem__)
    return f"{group}, type undetermined", contract.groups[group]


def _remarks(
    contract: Contract,
    notes: tuple[Reason, ...] = (),
    age_years: float | None = None,
    attention: Attention | None = None,
) -> Iterator[Reason]:
    """What is worth telling beside the probabilities: of the model, the film, the patient, and where it looked."""
    if contract.population.drawings:
        sentence = "this model was trained on drawings, not on radiographs; its answer says nothing about a patient"
        yield Reason("trained-on-drawings", sentence)
    yield from notes
    ages = contract.population.age_years
    if ages is not None and age_years is not None and not ages[0] <= age_years < ages[1] + 1:
        sentence = f"the patient is {_told(age_years)}; the model was trained on ages {ages[0]:g} to {ages[1]:g}"
        yield Reason("outside-ages", sentence)
    rule = contract.activation_map
    if rule is None or attention is None or attention.border is None or attention.corners is None:
        return
    if max(attention.border, attention.corners) >= rule.warn_from:
        shares = f"{attention.border:.0%} at the border, {attention.corners:.0%} in the corners"
        sentence = f"the model looked mostly at the rim of the film: of the map for {attention.label}, {shares}"
        yield Reason("looked-at-rim", sentence)


def _told(age_years: float) -> str:
    """An age in whole years and no finer, for months tell a birthday, and great ages a person."""
    if age_years < 1:
        return "under 1 year old"
    return f"{int(age_years)} years old" if age_years < _OLDEST_TOLD else f"{_OLDEST_TOLD} years old or older"
