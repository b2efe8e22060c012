import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope.contract import Contract, InputRule, load_contract, save_contract
from pneumoscope.errors import BundleError

REQUIRED = sorted(Contract.model_fields)


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return load_contract(tiny_bundle)


def test_round_trip(contract: Contract, tmp_path: Path) -> None:
    save_contract(contract, tmp_path)
    assert load_contract(tmp_path) == contract
    assert contract.classes == ("bacteria", "normal", "virus")
    assert contract.groups == {"pneumonia": ("bacteria", "virus")}
    assert "Not a medical device" in contract.intended_use


VERSION_1 = Path(__file__).parent / "data" / "contract-1.json"


@pytest.mark.parametrize("field", REQUIRED)
def test_every_missing_field_is_an_error(field: str, contract: Contract, tmp_path: Path) -> None:
    document = contract.model_dump(mode="json")
    del document[field]
    (tmp_path / "contract.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=f"field '{field}' is missing"):
        load_contract(tmp_path)


def test_no_field_of_any_part_has_a_default() -> None:
    def check(model: Any) -> None:
        for name, field in model.model_fields.items():
            assert field.is_required(), f"{model.__name__}.{name} has a default"
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)

    check(Contract)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("surprise", 1, "'surprise' is not known"),
        ("classes", ["a"], "classes"),
        ("classes", ["a", "a"], "not distinct"),
        ("groups", {"g": ["nobody"]}, "group 'g'"),
        ("groups", {"g": ["bacteria", "normal", "virus"]}, "some, not all"),
        ("groups", {"virus": ["bacteria"]}, "name of a class"),
        ("schema_version", 9, "schema version 9 is newer than 2"),
        ("calibration", {"temperature": 0}, r"calibration\.temperature"),
        ("schema_version", [], "'schema_version' is not a number"),
        ("population", {"age_years": [9, 3], "drawings": False}, "youngest is older"),
        ("population", {"age_years": [-1, 3], "drawings": False}, "age_years"),
        ("population", {"age_years": None}, r"population\.drawings"),
        ("population", {"age_years": None, "drawings": "no"}, r"population\.drawings"),
        ("decision", {"answer_from": "0.5", "coverage": None, "films": None}, r"decision\.answer_from"),
        ("decision", {"answer_from": 0.5, "coverage": 0.9, "films": True}, r"decision\.films"),
        ("files", {"../secret": "0" * 64}, "not inside the bundle"),
        ("files", {"/etc/hostname": "0" * 64}, "not inside the bundle"),
        ("normalisation", {"mean": 120, "std": 50}, r"normalisation\.mean"),
    ],
)
def test_wrong_values_are_named(contract: Contract, tmp_path: Path, field: str, value: object, words: str) -> None:
    document = contract.model_dump(mode="json") | {field: value}
    (tmp_path / "contract.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=words):
        load_contract(tmp_path)


@pytest.mark.parametrize("position", range(0, 3000, 61))
def test_any_changed_byte_of_the_contract_is_noticed(position: int, contract: Contract, tmp_path: Path) -> None:
    save_contract(contract, tmp_path)
    path = tmp_path / "contract.json"
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"contract\.json is not valid"):
        load_contract(tmp_path)


def test_version_1_is_brought_up_to_date(contract: Contract, tmp_path: Path) -> None:
    """The document is one that version 1 of this program wrote."""
    (tmp_path / "contract.json").write_bytes(VERSION_1.read_bytes())
    old = load_contract(tmp_path)
    assert old.schema_version == 2
    assert old.input == InputRule.squash(96)
    assert old.classes == contract.classes
    assert old.groups == contract.groups
    assert old.decision.answer_from == 0.0
    assert old.decision.coverage is None
    assert old.activation_map is None
    assert old.precision == "fp32"
    assert old.quantisation is None
    assert old.population.age_years is None
    assert old.population.drawings is None
    assert old.files.keys() >= {"model.onnx", "golden/golden.json"}
    save_contract(old, tmp_path)
    assert load_contract(tmp_path) == old


@pytest.mark.parametrize("field", ["classes", "input", "decision", "provenance", "files"])
def test_a_damaged_version_1_is_an_error(field: str, tmp_path: Path) -> None:
    document = json.loads(VERSION_1.read_text())
    for broken in ({name: value for name, value in document.items() if name != field}, document | {field: 7}):
        (tmp_path / "contract.json").write_text(json.dumps(broken))
        with pytest.raises(BundleError, match=f"field '{field}"):
            load_contract(tmp_path)


@pytest.mark.parametrize("field", ["population", "activation_map", "precision", "quantisation"])
def test_version_1_knows_no_later_field(field: str, tmp_path: Path) -> None:
    document = json.loads(VERSION_1.read_text()) | {field: "anything"}
    (tmp_path / "contract.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=f"field '{field}' is not known in schema version 1"):
        load_contract(tmp_path)


def test_a_later_version_asks_for_a_later_program(contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "contract.json").write_text(json.dumps(contract.model_dump(mode="json") | {"schema_version": 3}))
    with pytest.raises(BundleError, match=r"newer than 2, the last that this program reads; upgrade it\.$"):
        load_contract(tmp_path)


def test_int8_and_its_figures_belong_together(contract: Contract, tmp_path: Path) -> None:
    save_contract(contract.model_copy(update={"precision": "int8"}), tmp_path)
    with pytest.raises(BundleError, match="'quantisation'"):
        load_contract(tmp_path)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        load_contract(tmp_path)
    for text in ("{", "[]", "7", "\udcff", "[" * 200_000):
        (tmp_path / "contract.json").write_text(text, errors="surrogateescape")
        with pytest.raises(BundleError, match="not valid"):
            load_contract(tmp_path)


@given(one=st.integers(16, 1024), two=st.integers(16, 1024))
def test_the_rules_fingerprint_tells_rules_apart(one: int, two: int) -> None:
    assert (InputRule.squash(one).fingerprint() == InputRule.squash(two).fingerprint()) == (one == two)
