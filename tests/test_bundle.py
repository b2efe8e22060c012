"""Bundles whose files or model do not fit the contract are refused."""

from pathlib import Path

import onnx
import pytest

from pneumoscope.contract import InputRule, load_contract, save_contract
from pneumoscope.engine import Engine
from pneumoscope.errors import BundleError
from pneumoscope.files import sha256_of
from samples import coverage_row


def test_the_error_names_a_missing_file(own_bundle: Path) -> None:
    (own_bundle / "golden" / "virus-8bit.png").unlink()
    with pytest.raises(BundleError, match=r"virus-8bit\.png is missing"):
        Engine.load(own_bundle)


def test_a_model_that_onnxruntime_cannot_read_is_refused(own_bundle: Path) -> None:
    import hashlib

    (own_bundle / "model.onnx").write_bytes(b"no model")
    contract = load_contract(own_bundle)
    files = contract.files | {"model.onnx": hashlib.sha256(b"no model").hexdigest()}
    save_contract(contract.model_copy(update={"files": files}), own_bundle)
    with pytest.raises(BundleError, match="cannot be loaded"):
        Engine.load(own_bundle)


@pytest.mark.parametrize("change", ["size", "classes"])
def test_a_contract_that_does_not_match_the_model_is_refused(change: str, own_bundle: Path) -> None:
    contract, pair = load_contract(own_bundle), ("bacteria", "virus")
    flat = dict.fromkeys(pair, 1.0)
    of_two = {
        "classes": pair,
        "groups": {},
        "calibration": contract.calibration.model_copy(update={"scale": flat, "bias": flat, "prior": None}),
        "decision": contract.decision.model_copy(update={"table": (coverage_row(0.9, flat),), "operating_points": ()}),
    }
    changed = {"input": InputRule.squash(64)} if change == "size" else of_two
    save_contract(contract.model_copy(update=changed), own_bundle)
    with pytest.raises(BundleError, match="the contract states"):
        Engine.load(own_bundle)


def test_a_model_for_batches_of_one_size_is_refused(own_bundle: Path) -> None:
    model = onnx.load(own_bundle / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, own_bundle / "model.onnx")
    contract = load_contract(own_bundle)
    files = contract.files | {"model.onnx": sha256_of(own_bundle / "model.onnx")}
    save_contract(contract.model_copy(update={"files": files}), own_bundle)
    with pytest.raises(BundleError, match=r"the contract states uint8 \[N, 1,"):
        Engine.load(own_bundle)
