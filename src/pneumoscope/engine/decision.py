"""The one place where probabilities become a decision: answer, abstain or reject."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import Contract
from pneumoscope.engine.attention import rim_shares
from pneumoscope.engine.prediction import Attention, Status

_MORE_THAN_HALF = 0.5
_OLDEST_TOLD = 90


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision: the class if answered, a label, the classes it may be, and why."""

    status: Status
    answer: int | None
    label: str | None
    prediction_set: tuple[str, ...]
    reasons: tuple[str, ...]
    attention: Attention | None = None


def reject(reason: str) -> Verdict:
    """What is no usable film."""
    return Verdict(status="rejected", answer=None, label=None, prediction_set=(), reasons=(reason,))


def decide(
    contract: Contract,
    probabilities: NDArray[np.float64],
    maps: NDArray[np.float32] | None,
    *,
    notes: tuple[str, ...] = (),
    age_years: float | None = None,
) -> Verdict:
    """Decide on a film that could be read.

    Args:
        contract: classes, groups, thresholds, population, and what is watched in the maps.
        probabilities: calibrated, `[C]`.
        maps: class-activation maps `[C, h, w]`, if the model gives any.
        notes: what reading the film found worth telling.
        age_years: the patient's age, if the film says it.
    """
    best, least = int(probabilities.argmax()), contract.decision.answer_from
    label = contract.classes[best]
    attention = _attention(contract, label, None if maps is None else maps[best])
    told = (*notes, *_age_reasons(contract, age_years), *_attention_reasons(contract, attention))
    if probabilities[best] >= least:
        return Verdict(
            status="answered", answer=best, label=label, prediction_set=(label,), reasons=told, attention=attention
        )
    why = f"the largest probability, {probabilities[best]:.3f} for {label}, is under {least:.3f}"
    label_of_group, possible = _undetermined(contract, probabilities)
    return Verdict(
        status="abstained",
        answer=None,
        label=label_of_group,
        prediction_set=possible,
        reasons=(why, *told),
        attention=attention,
    )


def _undetermined(contract: Contract, probabilities: NDArray[np.float64]) -> tuple[str | None, tuple[str, ...]]:
    """Of a film whose class is not sure: the group that is sure enough, if any, and the classes left.

    It is the most probable group that holds the most probable class and more than half of the probability.
    """
    shares = dict(zip(contract.classes, probabilities, strict=True))
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


def _attention(contract: Contract, label: str, activation: NDArray[np.float32] | None) -> Attention | None:
    if contract.activation_map is None or activation is None:
        return None
    border, corners = rim_shares(activation, contract.activation_map) or (None, None)
    return Attention(label=label, border=border, corners=corners)


def _attention_reasons(contract: Contract, attention: Attention | None) -> tuple[str, ...]:
    if contract.activation_map is None or attention is None or attention.border is None or attention.corners is None:
        return ()
    if max(attention.border, attention.corners) < contract.activation_map.warn_from:
        return ()
    shares = f"{attention.border:.0%} at the border, {attention.corners:.0%} in the corners"
    return (f"the model looked mostly at the rim of the film: of the map for {attention.label}, {shares}",)


def _age_reasons(contract: Contract, age_years: float | None) -> tuple[str, ...]:
    ages = contract.population.age_years
    if ages is None or age_years is None or ages[0] <= age_years < ages[1] + 1:
        return ()
    return (f"the patient is {_told(age_years)}; the model was trained on ages {ages[0]:g} to {ages[1]:g}",)


def _told(age_years: float) -> str:
    """An age in whole years and no finer, for months tell a birthday, and great ages a person."""
    if age_years < 1:
        return "under 1 year old"
    return f"{int(age_years)} years old" if age_years < _OLDEST_TOLD else f"{_OLDEST_TOLD} years old or older"
