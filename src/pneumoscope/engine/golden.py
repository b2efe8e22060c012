"""Golden cases: stored image files, and the decisions that the whole pipeline must make on them (`golden.json`)."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self, TypeAlias

import numpy as np
from pydantic import Field

from pneumoscope.contract import FILM, MIRRORED, CoverageRow, Gate
from pneumoscope.documents import Document, Text, read_document
from pneumoscope.engine.bundle import MODEL_FILE
from pneumoscope.engine.core import Engine
from pneumoscope.engine.document import Status
from pneumoscope.engine.normalisation import can_read_graphs, check_normalisation
from pneumoscope.engine.prediction import Prediction
from pneumoscope.errors import BundleError
from pneumoscope.metrics import softmax

GOLDEN_FOLDER, GOLDEN_FILE, SCHEMA_VERSION = "golden", "golden.json", 3
#: Largest difference of a probability between machines, by the model's precision.
TOLERANCES = {"fp32": 1e-3, "int8": 2e-2}
_MODULES = {"dicom": "pydicom"}
_Limits: TypeAlias = tuple[CoverageRow, Gate | None]


class GoldenOutputs(Document):
    """The graph's expected outputs for a file that can be decoded, whether or not the gate then rejects it."""

    logits: tuple[float, ...]
    scores: tuple[float, ...] | None = Field(description="Of the gate; null for a bundle without a gate.")
    distances: tuple[float, ...] | None

    @classmethod
    def of(cls, prediction: Prediction) -> Self | None:
        """The outputs of a prediction; None for a file that could not be decoded."""
        if prediction.outputs is None:
            return None
        values = {name: getattr(prediction.outputs, name) for name in cls.model_fields}
        return cls(**{name: None if row is None else tuple(map(float, row)) for name, row in values.items()})


class GoldenCase(Document):
    """A file of the folder, and the expected decision on it."""

    file: Text
    needs: Literal["dicom"] | None = Field(description="The package's extra that is needed to read it; null: none.")
    status: Status
    label: str | None
    probabilities: dict[Text, float]
    outputs: GoldenOutputs | None


class Golden(Document):
    """The document `golden.json`."""

    schema_version: Literal[3]
    tolerance: float = Field(gt=0, le=0.05, description="Largest difference of a probability.")
    cases: tuple[GoldenCase, ...] = Field(min_length=1)


class _Case1(Document):
    file: Text
    probabilities: dict[Text, float]


class _Golden1(Document):
    """Schema version 1: answered films with their probabilities, without the decision."""

    schema_version: Literal[1]
    cases: tuple[_Case1, ...] = Field(min_length=1)


class _Case2(_Case1):
    needs: Literal["dicom"] | None
    status: Status
    label: str | None


class _Golden2(Document):
    """Schema version 2: the decisions, without the graph's outputs."""

    schema_version: Literal[2]
    tolerance: float = Field(gt=0, le=0.05)
    cases: tuple[_Case2, ...] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How many golden cases were reproduced, and the files that were skipped because an extra is not installed."""

    cases: int
    left_out: tuple[str, ...]


def verify(bundle: Path, *, engine: Engine | None = None) -> Verification:
    """Run a bundle's golden cases through decoding, preprocessing, model and decision.

    If the package onnx is installed, the normalisation in an fp32 graph is also compared with the contract's.

    Args:
        bundle: the folder.
        engine: the bundle's engine, if it is loaded already.

    Raises:
        BundleError: a file is damaged, or a case is not reproduced.
    """
    engine = engine or Engine.load(bundle)
    if can_read_graphs() and engine.contract.precision == "fp32":
        check_normalisation(bundle / MODEL_FILE, engine.contract.normalisation)
    _require_listed(GOLDEN_FILE, bundle, engine)
    golden = _read(bundle / GOLDEN_FOLDER / GOLDEN_FILE, engine)
    for case in golden.cases:
        _require_listed(case.file, bundle, engine)
    # A DICOM case needs the extra `dicom`, which inference from other formats does without.
    chosen = [case for case in golden.cases if case.needs is None or find_spec(_MODULES[case.needs]) is not None]
    for case in chosen:
        prediction = engine.predict((bundle / GOLDEN_FOLDER / case.file).read_bytes(), name=case.file)
        limits = (engine.rule().row, engine.contract.gate)
        if difference := _difference(case, prediction, limits, golden.tolerance):
            raise BundleError(
                f"{bundle}: golden case {case.file} gives {difference}; "
                "this machine does not reproduce the model's decisions; do not use the bundle here."
            )
    return Verification(cases=len(chosen), left_out=tuple(case.file for case in golden.cases if case not in chosen))


def _require_listed(file: str, bundle: Path, engine: Engine) -> None:
    """Raise BundleError unless the contract lists a file: only listed files were compared with their hashes on load."""
    if (name := f"{GOLDEN_FOLDER}/{file}") not in engine.contract.files:
        raise BundleError(f"{bundle}: the contract does not list {name}; export the bundle again.")


def _read(path: Path, engine: Engine) -> Golden:
    content = path.read_bytes() if path.is_file() else b""
    try:
        # The version is looked for in the bytes, because each version is validated by a strict model of its own.
        if b'"schema_version": 1,' in content:
            return _upgrade(read_document(_Golden1, content, strict=True), engine)
        if b'"schema_version": 2,' in content:
            old = read_document(_Golden2, content, strict=True)
            cases = tuple(GoldenCase(**case.model_dump(), outputs=None) for case in old.cases)
            return Golden(schema_version=SCHEMA_VERSION, tolerance=old.tolerance, cases=cases)
        return read_document(Golden, content, strict=True)
    except ValueError as failure:
        raise BundleError(f"{path} is not valid: {failure}; export the bundle again.") from failure


def _upgrade(old: _Golden1, engine: Engine) -> Golden:
    """Convert version 1. It answered every film with its most probable class, which today's rule might not do.

    Of status and label, `_difference` therefore compares only whether such a case is rejected.
    """
    if engine.contract.decision.coverage is not None:
        raise ValueError("schema version 1 belongs to a bundle without a coverage")
    cases = tuple(
        GoldenCase(
            file=case.file,
            needs=None,
            status="answered",
            label=max(case.probabilities, key=case.probabilities.__getitem__),
            probabilities=case.probabilities,
            outputs=None,
        )
        for case in old.cases
    )
    return Golden(schema_version=SCHEMA_VERSION, tolerance=TOLERANCES["fp32"], cases=cases)


def _difference(case: GoldenCase, prediction: Prediction, limits: _Limits, tolerance: float) -> str:
    """How a prediction differs from its case, in words; empty if it does not.

    Status and label must be equal, unless a probability is so close to a threshold, or two are so close to each other,
    that the tolerance explains the difference; the same applies to the gate's limits. The cases of an older bundle,
    whose row has no coverage, were decided by another rule: of status and label, only rejection is compared.
    """
    row, gate = limits
    for label, expected in case.probabilities.items():
        got = prediction.probabilities.get(label, float("nan"))
        # A rejected prediction has no probabilities; that its status differs is found below.
        # Written with `not`, so that NaN, a missing class, counts as a difference.
        if not abs(got - expected) <= tolerance and prediction.probabilities:
            return f"{label} {got:.4f}, expected {expected:.4f}"
    if difference := _outputs_difference(case.outputs, GoldenOutputs.of(prediction), tolerance):
        return difference
    as_expected = (prediction.status, prediction.label) == (case.status, case.label)
    is_rejected, was_rejected = prediction.status == "rejected", case.status == "rejected"
    if row.coverage is None and is_rejected == was_rejected:
        return ""
    if as_expected or _is_close(case, prediction, row, tolerance) or _is_at_gate(case.outputs, gate, tolerance):
        return ""
    return f"{prediction.status} {prediction.label}, expected {case.status} {case.label}"


def _outputs_difference(expected: GoldenOutputs | None, got: GoldenOutputs | None, tolerance: float) -> str:
    """How the graph's outputs differ from the expected ones, in words; empty if they do not.

    The softmax of logits and of scores may differ by the tolerance; a distance, by the tolerance times its expected
    value, or times 1 if that is larger.
    """
    if expected is None:
        return ""
    if got is None:
        return "no outputs, as the file could not be read"
    for name in GoldenOutputs.model_fields:
        first, second = getattr(expected, name), getattr(got, name)
        if (first is None) != (second is None) or (first is not None and len(first) != len(second)):
            return f"{name} of a different length"
        if first is None:
            continue
        values, others = np.array(first), np.array(second)
        # Distances have no upper bound, so their rounding errors grow with them; shares are at most 1.
        scale = np.maximum(1, np.abs(values)) if name == "distances" else 1
        values, others = (values, others) if name == "distances" else (softmax(values), softmax(others))
        if not (np.abs(values - others) <= tolerance * scale).all():
            return f"{name} {second}, expected {first}"
    return ""


def _is_at_gate(outputs: GoldenOutputs | None, gate: Gate | None, tolerance: float) -> bool:
    """Whether the expected outputs are so close to a limit of the gate that the tolerance may change its decision."""
    if gate is None or outputs is None or outputs.scores is None or outputs.distances is None:
        return False
    shares = dict(zip(gate.codes, softmax(np.array(outputs.scores)).tolist(), strict=True))
    pairs = zip(outputs.distances, gate.distances, strict=True)
    is_near = any(abs(distance - limit) <= tolerance * limit for distance, limit in pairs)
    # Twice the tolerance, because each of the two shares may differ by it.
    return is_near or abs(shares[FILM] + shares[MIRRORED] - gate.film_from) <= 2 * tolerance


def _is_close(case: GoldenCase, prediction: Prediction, row: CoverageRow, tolerance: float) -> bool:
    """Whether the tolerance may change the decision.

    It may if the two largest probabilities are close to each other, or if the probability of a class, of a group, or of
    all classes outside a group is close to its threshold.
    """
    if not case.probabilities or not prediction.probabilities:
        return False
    first, second, *_ = sorted(case.probabilities.values(), reverse=True)
    of_classes = [abs(case.probabilities[label] - threshold) for label, threshold in row.classes.items()]
    of_groups = [
        abs(share - threshold)
        for group, share in prediction.groups.items()
        for threshold in (row.groups[group].inside, 1 - row.groups[group].outside)
    ]
    near = len(case.probabilities) * tolerance  # a group's sum has the differences of all of its classes
    return first - second <= 2 * tolerance or min(of_classes) <= tolerance or min(of_groups, default=1) <= near
