"""Golden cases: stored bytes of films and what the whole way from there must say of them.

`golden/golden.json` holds `tolerance` and `cases`; each case has a `file`, the package extra it
`needs` or null, and the `status`, `label` and `probabilities` it must give.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pneumoscope.engine.core import Engine
from pneumoscope.engine.prediction import Prediction
from pneumoscope.errors import BundleError

GOLDEN_FOLDER, GOLDEN_FILE = "golden", "golden.json"
#: Largest difference of a probability between machines, by the model's precision.
TOLERANCES = {"fp32": 1e-3, "int8": 2e-2}
_MODULES = {"dicom": "pydicom"}


def verify(bundle: Path, *, engine: Engine | None = None) -> int:
    """Run a bundle's golden cases through decode, preprocess, model and decision; return how many there were.

    A case that needs an extra this installation lacks is left out. Schema version 1 of the golden cases,
    of bundles of contract version 1, holds probabilities only.

    Args:
        bundle: the folder.
        engine: the bundle's engine, if it is loaded already.

    Raises:
        BundleError: a file is damaged, or a case comes out otherwise.
    """
    engine = engine or Engine.load(bundle)
    document = json.loads((bundle / GOLDEN_FOLDER / GOLDEN_FILE).read_text(encoding="utf-8"))
    tolerance = document.get("tolerance", TOLERANCES["fp32"])
    cases = [case for case in document["cases"] if _can_run(case)]
    for case in cases:
        prediction = engine.predict((bundle / GOLDEN_FOLDER / case["file"]).read_bytes(), name=case["file"])
        if difference := _difference(case, prediction, engine.contract.decision.answer_from, tolerance):
            raise BundleError(
                f"{bundle}: golden case {case['file']} gives {difference}; "
                "this machine does not reproduce the model, do not use it."
            )
    return len(cases)


def golden_case(file: str, prediction: Prediction, *, needs: str | None) -> dict[str, Any]:
    """One case as stored."""
    return {
        "file": file,
        "needs": needs,
        "status": prediction.status,
        "label": prediction.label,
        "probabilities": prediction.probabilities,
    }


def _can_run(case: dict[str, Any]) -> bool:
    return case.get("needs") is None or find_spec(_MODULES[case["needs"]]) is not None


def _difference(case: dict[str, Any], prediction: Prediction, least: float, tolerance: float) -> str:
    """In words how a prediction differs from its case, or nothing.

    Status and label must be equal unless a probability lies so near the threshold, or two so near each
    other, that the tolerance explains it.
    """
    for label, expected in case["probabilities"].items():
        got = prediction.probabilities.get(label, float("nan"))
        if not abs(got - expected) <= tolerance:
            return f"{label} {got:.4f}, expected {expected:.4f}"
    as_expected = "status" not in case or (prediction.status, prediction.label) == (case["status"], case["label"])
    if as_expected or _is_close(case, prediction, least, tolerance):
        return ""
    return f"{prediction.status} {prediction.label}, expected {case['status']} {case['label']}"


def _is_close(case: dict[str, Any], prediction: Prediction, least: float, tolerance: float) -> bool:
    """Whether the tolerance may turn the decision: two classes, or one or a group and the threshold, nearly meet."""
    ranked: list[float] = sorted(case["probabilities"].values(), reverse=True)
    first, second, *_ = (*ranked, -1.0, -1.0)
    nearest = min(abs(value - least) for value in (first, *prediction.groups.values()))
    return first >= 0 and (first - second <= 2 * tolerance or nearest <= len(case["probabilities"]) * tolerance)
