"""Golden cases: stored bytes of films and what the whole way from there must say of them (`golden/golden.json`)."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field

from pneumoscope.contract import CoverageRow
from pneumoscope.documents import Document, Text, read_document
from pneumoscope.engine.bundle import MODEL_FILE
from pneumoscope.engine.core import Engine
from pneumoscope.engine.document import Status
from pneumoscope.engine.normalisation import can_read_graphs, check_normalisation
from pneumoscope.engine.prediction import Prediction
from pneumoscope.errors import BundleError

GOLDEN_FOLDER, GOLDEN_FILE = "golden", "golden.json"
#: Largest difference of a probability between machines, by the model's precision.
TOLERANCES = {"fp32": 1e-3, "int8": 2e-2}
_MODULES = {"dicom": "pydicom"}


class GoldenCase(Document):
    """A file of the folder and what must be said of it."""

    file: Text
    needs: Literal["dicom"] | None = Field(description="The package's extra without which it cannot be read.")
    status: Status
    label: str | None
    probabilities: dict[Text, float]


class Golden(Document):
    """`golden.json`."""

    schema_version: Literal[2]
    tolerance: float = Field(gt=0, le=0.05, description="Largest difference of a probability.")
    cases: tuple[GoldenCase, ...] = Field(min_length=1)


class _OldCase(Document):
    file: Text
    probabilities: dict[Text, float]


class _OldGolden(Document):
    """Of schema version 1: films that were answered, and no word on the decision."""

    schema_version: Literal[1]
    cases: tuple[_OldCase, ...] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Verified:
    """How many golden cases came out as they must, and the files left out for want of an extra."""

    cases: int
    left_out: tuple[str, ...]


def verify(bundle: Path, *, engine: Engine | None = None) -> Verified:
    """Run a bundle's golden cases through decode, preprocess, model and decision.

    Where the package onnx is installed, the normalisation in an fp32 graph is compared with the contract's too.

    Args:
        bundle: the folder.
        engine: the bundle's engine, if it is loaded already.

    Raises:
        BundleError: a file is damaged, or a case comes out otherwise.
    """
    engine = engine or Engine.load(bundle)
    if can_read_graphs() and engine.contract.precision == "fp32":
        check_normalisation(bundle / MODEL_FILE, engine.contract.normalisation)
    _require_listed(GOLDEN_FILE, bundle, engine)
    golden = _read(bundle / GOLDEN_FOLDER / GOLDEN_FILE, engine)
    for case in golden.cases:
        _require_listed(case.file, bundle, engine)
    chosen = [case for case in golden.cases if case.needs is None or find_spec(_MODULES[case.needs]) is not None]
    for case in chosen:
        prediction = engine.predict((bundle / GOLDEN_FOLDER / case.file).read_bytes(), name=case.file)
        if difference := _difference(case, prediction, engine.rule().row, golden.tolerance):
            raise BundleError(
                f"{bundle}: golden case {case.file} gives {difference}; "
                "this machine does not reproduce the model, do not use it."
            )
    return Verified(cases=len(chosen), left_out=tuple(case.file for case in golden.cases if case not in chosen))


def _require_listed(file: str, bundle: Path, engine: Engine) -> None:
    """What the contract lists was compared with its hash when the engine was loaded."""
    if (name := f"{GOLDEN_FOLDER}/{file}") not in engine.contract.files:
        raise BundleError(f"{bundle}: the contract does not list {name}; export the bundle again.")


def _read(path: Path, engine: Engine) -> Golden:
    content = path.read_bytes() if path.is_file() else b""
    try:
        if b'"schema_version": 1,' in content:
            return _up_to_date(read_document(_OldGolden, content, strict=True), engine)
        return read_document(Golden, content, strict=True)
    except ValueError as failure:
        raise BundleError(f"{path} is not valid: {failure}; export the bundle again.") from failure


def _up_to_date(old: _OldGolden, engine: Engine) -> Golden:
    """Version 1 answered every film with its most probable class; today's rule may not, and only rejections count."""
    if engine.contract.decision.coverage is not None:
        raise ValueError("its schema version 1 belongs to a bundle without a coverage")
    cases = tuple(
        GoldenCase(
            file=case.file,
            needs=None,
            status="answered",
            label=max(case.probabilities, key=case.probabilities.__getitem__),
            probabilities=case.probabilities,
        )
        for case in old.cases
    )
    return Golden(schema_version=2, tolerance=TOLERANCES["fp32"], cases=cases)


def _difference(case: GoldenCase, prediction: Prediction, row: CoverageRow, tolerance: float) -> str:
    """In words how a prediction differs from its case, or nothing.

    Status and label must be equal unless a probability lies so near a threshold, or two so near each other, that the
    tolerance explains it. An older bundle, whose row has no coverage, was decided on by another rule.
    """
    for label, expected in case.probabilities.items():
        got = prediction.probabilities.get(label, float("nan"))
        if not abs(got - expected) <= tolerance:
            return f"{label} {got:.4f}, expected {expected:.4f}"
    as_expected = (prediction.status, prediction.label) == (case.status, case.label)
    is_rejected, was_rejected = prediction.status == "rejected", case.status == "rejected"
    if row.coverage is None and is_rejected == was_rejected:
        return ""
    if as_expected or _is_close(case, prediction, row, tolerance):
        return ""
    return f"{prediction.status} {prediction.label}, expected {case.status} {case.label}"


def _is_close(case: GoldenCase, prediction: Prediction, row: CoverageRow, tolerance: float) -> bool:
    """Whether the tolerance may turn the decision: two classes meet, or a class or side and its threshold."""
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
