"""A model's card: what its contract means, in words."""

from typing import Any

from pneumoscope.contract import DISCLAIMER, Contract


def card(contract: Contract) -> dict[str, Any]:
    """The card as plain JSON values."""
    origin = contract.provenance
    return {
        "name": contract.name,
        "version": contract.version,
        "notice": DISCLAIMER,
        "intended_use": contract.intended_use,
        "population": _population(contract),
        "classes": list(contract.classes),
        "groups": {group: list(members) for group, members in contract.groups.items()},
        "decision": _decision(contract),
        "training": f"{origin.arch}, recipe {origin.recipe}, weights {origin.weights}",
        "dataset_sha256": origin.dataset,
        "precision": contract.precision,
        "where_it_looked": "exact class-activation maps" if contract.activation_map else "no maps: see `explain`",
        "limits": [
            "A readable picture that is not a chest film may be taken for one.",
            "A map shows which places counted towards a class, not that the class is right.",
            "Films that differ from the training films in age, machine or view may be misread without a warning.",
        ],
    }


def _population(contract: Contract) -> str:
    if contract.population.drawings:
        return "drawings, not patients"
    ages = contract.population.age_years
    return "ages unknown" if ages is None else f"ages {ages[0]:g} to {ages[1]:g} years"


def _decision(contract: Contract) -> str:
    decision = contract.decision
    row = decision.row(decision.coverage)
    assert row is not None
    if row.coverage is None:
        return f"answers when the largest probability is at least {min(row.classes.values()):.3f}, else abstains"
    rule = (
        "answers when the most probable class is the only one that fits the film, and each group agrees with it, at "
        f"{100 * row.coverage:.0f} % coverage"
    )
    if row.answered is None or row.accuracy is None:
        return f"{rule}, else abstains"
    return (
        f"{rule}, else abstains; of {decision.films:,} unseen films ({decision.evidence}) it answers "
        f"{100 * row.answered:.0f} %, and {100 * row.accuracy:.0f} % of these with the right class"
    )
