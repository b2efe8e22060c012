"""Golden cases: what `verify` accepts, and what it detects."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from PIL import Image

from pneumoscope.contract import load_contract, save_contract
from pneumoscope.engine import Engine, Verification, verify
from pneumoscope.engine.golden import GoldenCase, GoldenOutputs, _difference
from pneumoscope.errors import BundleError
from pneumoscope.files import sha256_of
from pneumoscope.phantom import encode_jpeg, film
from samples import coverage_row

FILM = encode_jpeg(film("bacteria", patient=1))


def test_verify_passes_on_a_copy_and_names_a_changed_file(own_bundle: Path) -> None:
    assert verify(own_bundle) == Verification(cases=8, left_out=())
    golden = own_bundle / "golden" / "golden.json"
    golden.write_text(golden.read_text().replace('": 0.', '": 0.9', 1))
    with pytest.raises(BundleError, match=r"golden\.json was changed"):
        verify(own_bundle)


def test_verify_detects_changed_probabilities(own_bundle: Path) -> None:
    """A wrong calibration changes the probabilities, although every file is intact."""
    contract = load_contract(own_bundle)
    calibration = contract.calibration.model_copy(update={"scale": dict.fromkeys(contract.classes, 1 / 3)})
    save_contract(contract.model_copy(update={"calibration": calibration}), own_bundle)
    with pytest.raises(BundleError, match="golden case"):
        verify(own_bundle)


def test_verify_detects_a_changed_decision_on_the_same_probabilities(own_bundle: Path) -> None:
    contract = load_contract(own_bundle)
    row = coverage_row(0.9, dict.fromkeys(contract.classes, 1.0), {"pneumonia": (1.0, 1.0)})
    decision = contract.decision.model_copy(update={"table": (row,)})
    save_contract(contract.model_copy(update={"decision": decision}), own_bundle)
    with pytest.raises(BundleError, match=r"golden case .* gives abstained"):
        verify(own_bundle)


@pytest.mark.parametrize(
    ("class_threshold", "group_thresholds", "is_difference"),
    [
        (0.9, (0.9, 0.9), True),
        (0.7005, (0.9, 0.9), False),  # closer to the probability of bacteria than the tolerance of 0.001
        (0.9, (0.8025, 0.9), False),  # closer to that of pneumonia, 0.8, than three times the tolerance
        (0.9, (0.9, 0.2025), False),  # as above, for the group's complement, 0.2
    ],
)
def test_the_tolerance_explains_a_changed_decision_only_near_a_threshold(
    engine: Engine, class_threshold: float, group_thresholds: tuple[float, float], *, is_difference: bool
) -> None:
    probabilities = {"bacteria": 0.7, "normal": 0.2, "virus": 0.1}
    facts = {"file": "a.png", "needs": None, "probabilities": probabilities}
    case = GoldenCase(**facts, status="answered", label="bacteria", outputs=None)
    prediction = replace(
        engine.predict(FILM), status="abstained", label=None, probabilities=probabilities, groups={"pneumonia": 0.8}
    )
    thresholds = dict.fromkeys(probabilities, class_threshold), {"pneumonia": group_thresholds}
    assert bool(_difference(case, prediction, (coverage_row(0.9, *thresholds), None), 0.001)) is is_difference
    older = coverage_row(None, *thresholds)
    assert not _difference(
        case, prediction, (older, None), 0.001
    )  # an older bundle's cases were decided by another rule


def test_the_graphs_outputs_must_be_reproduced_even_for_a_rejected_film(engine: Engine) -> None:
    prediction = engine.predict(encode_jpeg(255 - film("bacteria", patient=1)))
    assert prediction.status == "rejected"
    outputs = GoldenOutputs.of(prediction)
    assert outputs is not None
    assert outputs.scores is not None
    assert outputs.distances is not None
    case = GoldenCase(file="a", needs=None, status="rejected", label=None, probabilities={}, outputs=outputs)
    limits = (engine.rule().row, engine.contract.gate)
    assert not _difference(case, prediction, limits, 0.001)
    for change in (
        {"logits": (outputs.logits[0] + 0.5, *outputs.logits[1:])},
        {"scores": (outputs.scores[0] + 5, *outputs.scores[1:])},
        {"distances": (outputs.distances[0] * 1.01, outputs.distances[1])},
        {"scores": None},
    ):
        changed = case.model_copy(update={"outputs": outputs.model_copy(update=change)})
        assert _difference(changed, prediction, limits, 0.001)


def test_a_bundle_of_version_1_still_answers(own_bundle: Path) -> None:
    """It has no activation maps and no gate, and does not record which films its threshold was set on.

    Its golden cases have only probabilities.
    """
    expected = Engine.load(own_bundle).predict(FILM)
    model = onnx.load(own_bundle / "model.onnx")
    assert model.graph.output[2].name == "activation_map"
    del model.graph.output[2]
    onnx.save(model, own_bundle / "model.onnx")
    path = own_bundle / "golden" / "golden.json"
    cases = [{name: case[name] for name in ("file", "probabilities")} for case in json.loads(path.read_text())["cases"]]
    answered = [case for case in cases if case["probabilities"]]  # version 1 stored answered films only
    path.write_text(json.dumps({"schema_version": 1, "cases": answered}))
    document = load_contract(own_bundle).model_dump(mode="json")
    for name in ("population", "activation_map", "gate", "precision", "quantisation"):
        del document[name]
    for name in ("colours", "transparency", "orientation", "dicom"):
        del document["input"][name]
    temperature = 1 / 50  # as `stub_calibrate` scales the bundle's logits
    document |= {"schema_version": 1, "decision": {"answer_from": 0.0}, "calibration": {"temperature": temperature}}
    document["files"] = {name: sha256_of(own_bundle / name) for name in document["files"]}
    (own_bundle / "contract.json").write_text(json.dumps(document))
    prediction = Engine.load(own_bundle).predict(FILM)
    assert prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert prediction.attention is None
    assert prediction.maps is None
    assert verify(own_bundle).cases == len(answered) == 7


def test_golden_films_are_in_several_encodings(tiny_bundle: Path) -> None:
    formats = set()
    for path in (tiny_bundle / "golden").iterdir():
        if path.suffix not in (".json", ".dcm") and path.name != "cut-short.jpeg":  # which cannot be decoded
            with Image.open(path) as image:
                formats.add((image.format, image.mode[:1]))  # the first letter of Pillow's mode: L, RGB, I;16
    assert {("JPEG", "L"), ("JPEG", "R"), ("PNG", "L"), ("PNG", "I")} <= formats


@pytest.mark.parametrize("dropped", ["golden/golden.json", "golden/virus-8bit.png"])
def test_golden_cases_must_be_listed(dropped: str, own_bundle: Path) -> None:
    contract = load_contract(own_bundle)
    files = {name: value for name, value in contract.files.items() if name != dropped}
    save_contract(contract.model_copy(update={"files": files}), own_bundle)
    with pytest.raises(BundleError, match=f"the contract does not list {dropped}"):
        verify(own_bundle)
