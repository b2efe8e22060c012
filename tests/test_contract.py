"""The contract: every field is required and checked, older versions are converted, and any change is detected."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope.contract import Contract, InputRule, load_contract, save_contract
from pneumoscope.errors import BundleError

REQUIRED = sorted(Contract.model_fields)
#: Contracts written by programs of these schema versions.
VERSION_1, VERSION_2, VERSION_3 = (Path(__file__).parent / "data" / f"contract-{number}.json" for number in (1, 2, 3))


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return load_contract(tiny_bundle)


def test_round_trip(contract: Contract, tmp_path: Path) -> None:
    save_contract(contract, tmp_path)
    assert load_contract(tmp_path) == contract
    assert contract.classes == ("bacteria", "normal", "virus")
    assert contract.groups == {"pneumonia": ("bacteria", "virus")}
    assert "Not a medical device" in contract.intended_use


@pytest.mark.parametrize("field", REQUIRED)
def test_every_missing_field_is_an_error(field: str, contract: Contract, tmp_path: Path) -> None:
    document = contract.model_dump(mode="json")
    del document[field]
    (tmp_path / "contract.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=f"field '{field}' is missing"):
        load_contract(tmp_path)


def test_no_field_of_any_part_has_a_default() -> None:
    def check(kind: Any) -> None:
        for part in get_args(kind):  # of `Gate | None`, `tuple[CoverageRow, ...]`, `dict[Text, Sides]`
            check(part)
        for name, field in getattr(kind, "model_fields", {}).items():
            assert field.is_required(), f"{kind.__name__}.{name} has a default"
            check(field.annotation)

    check(Contract)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("surprise", 1, "'surprise' is not known"),
        ("classes", ["a"], "classes"),
        ("classes", ["a", "a"], "not distinct"),
        ("groups", {"g": ["nobody"]}, "group 'g'"),
        ("groups", {"g": ["bacteria", "normal", "virus"]}, "some, not all"),
        ("groups", {"virus": ["bacteria"]}, "name of a class"),
        ("schema_version", 9, "schema version 9 is newer than 4"),
        ("schema_version", [], "'schema_version' is not a number"),
        ("population", {"age_years": [9, 3], "drawings": False}, "youngest is older"),
        ("population", {"age_years": [-1, 3], "drawings": False}, "age_years"),
        ("population", {"age_years": None}, r"population\.drawings"),
        ("population", {"age_years": None, "drawings": "no"}, r"population\.drawings"),
        ("files", {"../secret": "0" * 64}, "not inside the bundle"),
        ("files", {"/etc/hostname": "0" * 64}, "not inside the bundle"),
        ("normalisation", {"mean": 120, "std": 50}, r"normalisation\.mean"),
    ],
)
def test_wrong_values_are_named(contract: Contract, tmp_path: Path, field: str, value: object, message: str) -> None:
    document = contract.model_dump(mode="json") | {field: value}
    (tmp_path / "contract.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=message):
        load_contract(tmp_path)


def changed(part: dict[str, Any], *path: str | int, value: object) -> dict[str, Any]:
    """A copy of a part of a document with another value at a path."""
    copy = json.loads(json.dumps(part))
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return dict(copy)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("calibration", "scale", "virus"), 0, r"calibration\.scale\.virus"),
        (
            ("calibration", "scale"),
            {"bacteria": 1.0},
            r"'calibration\.scale' must name each of: bacteria, normal, virus",
        ),
        (("calibration", "bias"), {"cat": 1.0}, r"'calibration\.bias' must name each of"),
        (("calibration", "prior"), {}, r"'calibration\.prior' must name each of"),
        (("calibration", "method"), "isotonic", r"calibration\.method"),
        (("calibration", "films"), True, r"calibration\.films"),
        (("decision", "coverage"), 0.5, "coverage 0.5 must be one row"),
        (("decision", "coverage"), "0.9", r"decision\.coverage"),
        (("decision", "table"), [], r"decision\.table"),
        (("decision", "table", 1, "coverage"), 0.9, "rows and operating points must be distinct"),
        (("decision", "table", 0, "classes"), {"virus": 0.5}, "row 0.9 .* must name each class and each group"),
        (("decision", "table", 0, "classes", "virus"), 1.5, r"decision\.table\.0\.classes\.virus"),
        (("decision", "table", 0, "groups"), {}, "row 0.9 .* must name each class and each group"),
        (("decision", "operating_points", 0, "group"), "cats", "of 'cats', which is not a group"),
        (("decision", "operating_points", 1, "name"), "sensitivity-0.95", "must be distinct"),
        (("decision", "operating_points", 0, "level"), 1, r"operating_points\.0\.level"),
    ],
)
def test_calibration_and_tables_are_checked(
    contract: Contract, tmp_path: Path, path: tuple[str | int, ...], value: object, message: str
) -> None:
    document = changed(contract.model_dump(mode="json"), *path, value=value)
    (tmp_path / "contract.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=message):
        load_contract(tmp_path)


@pytest.mark.parametrize("position", range(0, 3000, 61))
def test_any_changed_byte_of_the_contract_is_detected(position: int, contract: Contract, tmp_path: Path) -> None:
    save_contract(contract, tmp_path)
    path = tmp_path / "contract.json"
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"contract\.json is not valid"):
        load_contract(tmp_path)


def test_version_1_is_converted(contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "contract.json").write_bytes(VERSION_1.read_bytes())
    old = load_contract(tmp_path)
    assert old.schema_version == 4
    assert old.input == InputRule.squash(96)
    assert old.classes == contract.classes
    assert old.groups == contract.groups
    assert old.calibration.method == "none"
    assert old.calibration.prior is None
    assert old.calibration.evidence == old.decision.evidence == "none"
    (row,) = old.decision.table
    assert row.classes == dict.fromkeys(old.classes, 0.5)  # raised from version 1's 0, at which every class would fit
    assert old.decision.coverage is row.coverage is None
    assert old.activation_map is None
    assert old.precision == "fp32"
    assert old.quantisation is None
    assert old.population.age_years is None
    assert old.population.drawings is None
    assert old.files.keys() >= {"model.onnx", "golden/golden.json"}
    save_contract(old, tmp_path)
    assert load_contract(tmp_path) == old


def test_version_2_is_converted(tmp_path: Path) -> None:
    """Its one threshold becomes that of every class, and of both sides of every group."""
    path = tmp_path / "contract.json"
    path.write_bytes(VERSION_2.read_bytes())
    old = load_contract(tmp_path)
    calibration, (row,) = old.calibration, old.decision.table
    assert (calibration.method, calibration.evidence, calibration.films) == ("temperature", "out-of-fold", 5232)
    assert calibration.scale == pytest.approx(dict.fromkeys(old.classes, 1 / 0.5876))
    assert set(calibration.bias.values()) == {0.0}
    assert calibration.prior == dict.fromkeys(old.classes, 1 / 3)
    assert row.classes == dict.fromkeys(old.classes, 0.510644)
    assert (row.groups["pneumonia"].inside, row.groups["pneumonia"].outside) == (0.510644, 0.510644)
    assert (old.decision.coverage, old.decision.operating_points) == (None, ())
    assert (old.decision.evidence, old.decision.films) == ("out-of-fold", 5232)
    path.write_bytes(VERSION_2.read_bytes().replace(b'"temperature": 0.5876', b'"temperature": 0.5877'))
    with pytest.raises(BundleError, match="it was changed since it was written"):
        load_contract(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("calibration", "temperature"), 0, r"field 'calibration\.temperature'"),
        (("decision", "answer_from"), "0.5", r"field 'decision\.answer_from'"),
        (("decision", "films"), True, r"field 'decision\.films'"),
        (("classes",), 7, "field 'classes'"),
        (("groups",), [], "field 'groups'"),
        (("calibration",), None, "field 'calibration'"),
    ],
)
def test_a_damaged_version_2_is_an_error(path: tuple[str, ...], value: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "contract.json").write_text(json.dumps(changed(json.loads(VERSION_2.read_text()), *path, value=value)))
    with pytest.raises(BundleError, match=message):
        load_contract(tmp_path)


@pytest.mark.parametrize("field", ["classes", "input", "decision", "provenance", "files"])
def test_a_damaged_version_1_is_an_error(field: str, tmp_path: Path) -> None:
    document = json.loads(VERSION_1.read_text())
    for broken in ({name: value for name, value in document.items() if name != field}, document | {field: 7}):
        (tmp_path / "contract.json").write_text(json.dumps(broken))
        with pytest.raises(BundleError, match=f"field '{field}"):
            load_contract(tmp_path)


@pytest.mark.parametrize("field", ["population", "activation_map", "precision", "quantisation"])
def test_version_1_has_no_later_fields(field: str, tmp_path: Path) -> None:
    document = json.loads(VERSION_1.read_text()) | {field: "anything"}
    (tmp_path / "contract.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=f"field '{field}' is not known in schema version 1"):
        load_contract(tmp_path)


def test_version_3_is_converted(tmp_path: Path) -> None:
    """Its gate names the kind of a rejected picture by scores alone."""
    path = tmp_path / "contract.json"
    path.write_bytes(VERSION_3.read_bytes())
    old = load_contract(tmp_path)
    stored = json.loads(VERSION_3.read_text())
    assert old.gate is not None
    assert old.gate.textures is None
    assert list(old.gate.codes) == stored["gate"]["codes"]
    assert old.decision.model_dump(mode="json") == stored["decision"]
    save_contract(old, tmp_path)
    assert load_contract(tmp_path) == old
    assert load_contract(tmp_path).schema_version == 4


def test_a_damaged_version_3_is_an_error(tmp_path: Path) -> None:
    stored = json.loads(VERSION_3.read_text())
    for gate, words in (
        (7, r"field 'gate"),
        (stored["gate"] | {"textures": None}, "not known before schema version 4"),
    ):
        (tmp_path / "contract.json").write_text(json.dumps(stored | {"gate": gate}))
        with pytest.raises(BundleError, match=words):
            load_contract(tmp_path)


def test_a_newer_version_needs_a_newer_program(contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "contract.json").write_text(json.dumps(contract.model_dump(mode="json") | {"schema_version": 5}))
    with pytest.raises(BundleError, match=r"newer than 4, the last that this program reads; upgrade pneumoscope\.$"):
        load_contract(tmp_path)


def test_int8_needs_its_figures(contract: Contract, tmp_path: Path) -> None:
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
def test_different_rules_have_different_fingerprints(one: int, two: int) -> None:
    assert (InputRule.squash(one).fingerprint() == InputRule.squash(two).fingerprint()) == (one == two)
