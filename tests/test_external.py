"""External data sets: labels mapped, classes collapsed, and the drop against the model's own figures."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pneumoscope.contract import Contract, load_contract
from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.errors import UsageError
from pneumoscope.report import Options, evaluate
from pneumoscope.report.document import Figure
from pneumoscope.report.external import NONE_OF_THESE, LabelMap, independent_difference, map_films, read_map

MAP = """leave_out = ["TB"]
[labels]
NORMAL = "normal"
PNEUMONIA = "pneumonia"
"""


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return load_contract(tiny_bundle)


@pytest.fixture
def adults(dataset: Dataset, tmp_path: Path) -> Dataset:
    """The test films as those of another hospital, with two labels of its own and a few films of a third."""
    for number, film in enumerate(dataset.split("test")):
        label = "TB" if number % 11 == 0 else "NORMAL" if film.label == "normal" else "PNEUMONIA"
        path = tmp_path / "adults" / label / f"{number}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dataset.read(film))
    prepare([tmp_path / "adults"], tmp_path / "external", PrepareConfig(test_only=True))
    return load_dataset(tmp_path / "external")


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    (tmp_path / "map.toml").write_text(MAP)
    return tmp_path / "map.toml"


def test_classes_are_collapsed(
    tiny_bundle: Path, dataset: Dataset, adults: Dataset, mapping: Path, tmp_path: Path
) -> None:
    report = evaluate(tiny_bundle, adults, "test", tmp_path / "out", Options(external=mapping, shortcuts=False))
    assert report.kind == "external"
    assert report.classes == ("normal", "pneumonia")
    assert report.external is not None
    assert report.external.members == {"normal": ("normal",), "pneumonia": ("bacteria", "virus")}
    left_out = len([film for film in adults.films if film.label == "TB"])
    assert report.external.left_out == {"TB": left_out}
    assert report.n == len(adults.films) - left_out
    own = evaluate(tiny_bundle, dataset, "test", tmp_path / "own", Options(shortcuts=False))
    assert own.groups
    assert not report.groups
    assert report.external.own.startswith("none, because the bundle has no report")
    assert not report.external.drops
    assert report.calibration_at == "films"
    lines = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert lines[0].startswith("path,patient,label,predicted,status,p_normal,p_pneumonia,set")
    shares = np.array([line.split(",")[5:7] for line in lines[1:]], float)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def test_a_map_of_the_bundles_own_classes_changes_nothing(tiny_bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "same.toml"
    path.write_text("[labels]\n" + "".join(f'{label} = "{label}"\n' for label in dataset.classes))
    mapped = evaluate(tiny_bundle, dataset, "test", tmp_path / "a", Options(external=path, shortcuts=False))
    plain = evaluate(tiny_bundle, dataset, "test", tmp_path / "b", Options(shortcuts=False))
    assert mapped.confusion == plain.confusion
    assert mapped.groups == plain.groups
    assert mapped.per_group["pneumonia"]["auroc"] == plain.per_group["pneumonia"]["auroc"]


def test_classes_without_a_label_get_a_name_of_their_own(contract: Contract, dataset: Dataset) -> None:
    films = [film for film in dataset.split("test") if film.label != "virus"]
    mapped = map_films(films, LabelMap(labels={"bacteria": "bacteria", "normal": "normal"}), contract)
    assert mapped.scheme.members == {"bacteria": ("bacteria",), "normal": ("normal",), NONE_OF_THESE: ("virus",)}
    assert not mapped.scheme.groups


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels = 3", "give a table like"),
        ("[labels]\nnormal = 1", "give a table like"),
        ("[labels]\n", "give a table like"),
        ("what", "is not TOML"),
        ('[labels]\nnormal = "normal"\n[more]\nx = 1', "field 'more' is not known"),
    ],
)
def test_a_malformed_map_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_map(tmp_path / "map.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_map(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("labels", "leave_out", "message"),
    [
        ({"normal": "normal"}, (), "the map lacks the labels bacteria, virus of the data set; add them under .labels."),
        (
            {"normal": "healthy"},
            (),
            "the map names healthy, which the bundle does not have; use one of bacteria, normal, virus, pneumonia",
        ),
        (
            {"normal": "normal", "bacteria": "bacteria", "virus": "pneumonia"},
            (),
            "the map's names bacteria, pneumonia share the classes bacteria; map to classes, or to a group",
        ),
        ({"other": "normal"}, ("bacteria", "normal", "virus"), "no film is left to evaluate"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(
    labels: dict[str, str], leave_out: tuple[str, ...], message: str, contract: Contract, dataset: Dataset
) -> None:
    with pytest.raises(UsageError, match=message):
        map_films(dataset.split("test"), LabelMap(labels=labels, leave_out=leave_out), contract)


def test_the_drop_is_of_two_independent_figures() -> None:
    here, own = Figure(value=0.8, low=0.7, high=0.9), Figure(value=0.9, low=0.875, high=0.925)
    found = independent_difference(here, own)
    spread = np.hypot(0.1, 0.025)
    assert found.value == pytest.approx(-0.1)
    assert (found.low, found.high) == pytest.approx((-0.1 - spread, -0.1 + spread), abs=1e-6)
    nothing = Figure(value=None, low=None, high=None)
    assert independent_difference(here, nothing) == nothing


def test_figures_are_compared_with_the_bundles_own_report(
    described_bundle: Path, adults: Dataset, mapping: Path, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    out = tmp_path / "report"
    done = command(
        *("evaluate", adults.root, "--bundle", described_bundle, "--external", mapping, "--out", out),
        "--no-shortcuts",
    )
    assert done.code == 0, done.err
    assert "compared with the model's own" in done.out
    assert "<h2>External films</h2>" in (out / "report.html").read_text()
    report = evaluate(described_bundle, adults, "test", tmp_path / "b", Options(external=mapping, shortcuts=False))
    assert report.external is not None
    drops = {(drop.of, drop.figure): drop for drop in report.external.drops}
    assert set(drops) == {(n, f) for n in ("normal", "pneumonia") for f in ("auroc", "sensitivity", "specificity")}
    drop = drops["pneumonia", "auroc"]
    assert drop.here == report.per_class["pneumonia"]["auroc"]
    assert drop.difference.value is not None
    assert drop.here.value is not None
    assert drop.own.value is not None
    assert drop.difference.value == pytest.approx(drop.here.value - drop.own.value, abs=2e-6)
