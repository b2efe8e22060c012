"""Contracts of older schema versions, each converted to the next version by one function."""

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pneumoscope.documents import Document, Text, read_document

_SINCE_VERSION_2 = frozenset({"population", "activation_map", "precision", "quantisation"})


def from_version_1(document: dict[str, Any]) -> dict[str, Any]:
    """Convert version 1 to version 2.

    Version 1 decoded images by the rules that version 2 states. It had no activation map and no int8, and did not
    record which films its threshold was set on.

    Raises:
        ValueError: the document has fields of version 2.
    """
    if later := sorted(_SINCE_VERSION_2.intersection(document)):
        raise ValueError(f"field {later[0]!r} is not known in schema version 1")
    # What programs of version 1 did, although the document did not record it.
    rules = {"colours": "bt601", "transparency": "over-black", "orientation": "upright", "dicom": "voi"}
    return document | {
        "input": _with_fields(document.get("input"), rules),
        "calibration": _with_fields(document.get("calibration"), {"prior": "train", "films": None}),
        "decision": _with_fields(document.get("decision"), {"coverage": None, "films": None}),
        "provenance": _with_fields(document.get("provenance"), {"evidence": None}),
        "population": {"age_years": None, "drawings": None},
        "activation_map": None,
        "precision": "fp32",
        "quantisation": None,
    }


def from_version_2(document: dict[str, Any]) -> dict[str, Any]:
    """Convert version 2 to version 3.

    Version 2 had a temperature, one threshold for the largest probability, and no gate. The threshold becomes a table
    of one row without a coverage; a threshold below one half is raised to one half. A class, or a side of a group (in
    it, or not in it), fits a film if its probability reaches the threshold. So at most one class and one side of each
    group fit.

    Raises:
        ValueError: a field that version 3 changes is missing or invalid, or the document has a field of version 3.
    """
    if "gate" in document:
        raise ValueError("field 'gate' is not known before schema version 3")
    old = read_document(_Version2, json.dumps(document).encode(), strict=True)
    calibration, decision = old.calibration, old.decision
    scale, threshold = 1 / calibration.temperature, max(decision.answer_from, 0.5)
    # Version 2 fitted a temperature only where there were out-of-fold predictions. Elsewhere the temperature was 1, and
    # the threshold was set on the validation split.
    evidence = "none" if calibration.films is None else "out-of-fold"
    return document | {
        "schema_version": 3,
        "gate": None,
        "calibration": {
            "method": "none" if scale == 1 else "temperature",
            "scale": dict.fromkeys(old.classes, scale),
            "bias": dict.fromkeys(old.classes, 0.0),
            "prior": dict.fromkeys(old.classes, 1 / len(old.classes)) if calibration.prior == "uniform" else None,
            "evidence": evidence,
            "films": calibration.films,
        },
        "decision": {
            "coverage": None,
            "table": [
                {
                    "coverage": None,
                    "classes": dict.fromkeys(old.classes, threshold),
                    "groups": {group: {"inside": threshold, "outside": threshold} for group in old.groups},
                    "observed": {},  # not recorded
                    "answered": None,
                    "accuracy": None,
                }
            ],
            "operating_points": [],
            "evidence": "validation" if evidence == "none" and decision.films is not None else evidence,
            "films": decision.films,
        },
    }


def from_version_3(document: dict[str, Any]) -> dict[str, Any]:
    """Convert version 3 to version 4.

    The gate of version 3 did not look at textures.

    Raises:
        ValueError: the gate has version 4's field `textures`.
    """
    gate = document.get("gate")
    if isinstance(gate, dict) and "textures" in gate:
        raise ValueError("field 'gate.textures' is not known before schema version 4")
    return document | {"schema_version": 4} | ({} if gate is None else {"gate": _with_fields(gate, {"textures": None})})


class _Calibration2(Document):
    temperature: float = Field(gt=0)
    prior: Literal["train", "uniform"]
    films: int | None = Field(ge=1)


class _Decision2(Document):
    answer_from: Annotated[float, Field(ge=0, le=1)]
    coverage: float | None = Field(gt=0, le=1)
    films: int | None = Field(ge=1)


class _Version2(Document):
    """The fields of version 2 that change in version 3."""

    model_config = ConfigDict(extra="ignore")

    classes: tuple[Text, ...]
    groups: dict[Text, tuple[Text, ...]]
    calibration: _Calibration2
    decision: _Decision2


def _with_fields(part: Any, fields: dict[str, Any]) -> Any:
    """A part of a document with further fields. What is not an object is returned as it is; validation refuses it."""
    return part | fields if isinstance(part, dict) else part
