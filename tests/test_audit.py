"""The whole audit: a clean data set has no error, the page and the tables are complete, and wrong usage is refused."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from audits import audit_leaks, codes
from dicoms import dicom
from pneumoscope.audit import audit
from pneumoscope.audit.findings import class_findings
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.errors import ArchiveError, DatasetError, UsageError
from pneumoscope.imaging.bounded import BoundedBytes
from pneumoscope.phantom import FINDINGS, film
from samples import encode, make_zip, reencoded


def test_a_clean_data_set_has_no_error(clean_data: Path, tmp_path: Path) -> None:
    found = audit(clean_data, tmp_path / "audit")
    assert not codes(found, "error")
    assert found.worst() in (None, "warning", "note")
    assert sum(row.films for row in found.counts if row.split != "stress") == 150
    assert {row.split for row in found.counts} == {"train", "val", "test", "stress"}
    assert found.fingerprint == load_dataset(clean_data).fingerprint
    assert not found.odd
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == json.loads(found.model_dump_json())


def test_the_same_data_give_the_same_audit(clean_data: Path) -> None:
    one, two = (audit(clean_data).model_dump() for _ in range(2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_preparing_and_auditing_open_every_film_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []

    class Counting(BoundedBytes):
        def __init__(self, data: bytes) -> None:
            opened.append(data)
            super().__init__(data)

    monkeypatch.setattr("pneumoscope.imaging.raster.BoundedBytes", Counting)
    monkeypatch.setattr("pneumoscope.imaging.dicom.dataset.BoundedBytes", Counting)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 60, 60), dtype=np.uint8)
    films = {f"ill/{number}": dicom(each, PatientID=str(number)) for number, each in enumerate(pixels)}
    films |= {f"well/{number}.png": encode(Image.fromarray(255 - each)) for number, each in enumerate(pixels)}
    prepare([make_zip(tmp_path / "a.zip", films)], tmp_path / "data", PrepareConfig())
    assert sorted(opened) == sorted(films.values())
    opened.clear()
    audit_leaks(tmp_path / "data")
    assert sorted(opened) == sorted(films.values())


def test_classes_spelled_in_two_ways_are_named() -> None:
    (found,) = class_findings({"Normal": 3, "NORMAL ": 2, "ill": 4})
    assert found.code == "class-spellings"
    assert found.title == "2 classes differ in spelling only: 'Normal', 'NORMAL '"


def test_other_classes_without_splits(tmp_path: Path) -> None:
    films = {
        f"{label}/{number:02d}.png": encode(Image.fromarray(film(finding, patient=number, size=(210, 230))))
        for label, finding in zip(("ill", "well"), FINDINGS[1:], strict=True)
        for number in range(12)
    }
    found = audit(make_zip(tmp_path / "a.zip", films))
    assert found.classes == ("ill", "well")
    assert found.groups == {}
    assert {row.split for row in found.counts} == {"all"}
    assert found.not_measured == ("train against test: there is no test part",)
    one = audit(make_zip(tmp_path / "b.zip", {name: held for name, held in films.items() if name.startswith("ill")}))
    assert not one.shortcuts
    assert any("the shortcut baselines" in each for each in one.not_measured)


class Reader(HTMLParser):
    """Collects a page's tags and its `src` and `href`; `silent` counts pictures without alternative text."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.silent = 0
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.fetched += [str(values[name]) for name in ("src", "href") if name in values]
        self.silent += tag == "img" and not values.get("alt")


def test_the_page_is_self_contained_and_names_are_escaped(phantom_members: dict[str, bytes], tmp_path: Path) -> None:
    first = next(iter(phantom_members))
    odd = "cat/<script>alert(1)<x>.jpeg"
    plain = {f"w/{name}": held for name, held in phantom_members.items()}
    stored = {f"{'cat' if 'NORMAL' in name else 'dog'}/{Path(name).name}": held for name, held in plain.items()}
    stored["cat/<script>alert(1)<x>.jpeg"] = phantom_members[first]
    audit_leaks(make_zip(tmp_path / "a.zip", stored), tmp_path / "out")
    page = (tmp_path / "out" / "audit.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    assert "&lt;script&gt;alert(1)" in page
    assert reader.fetched
    assert all(each.startswith("data:image/jpeg;base64,") for each in reader.fetched)
    assert not reader.silent
    assert not re.search(r"https?://|@import|url\(", page)
    assert "Not a medical device" in page
    assert odd not in page


def test_the_command_prints_tables_or_one_document(
    clean_data: Path, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    done = command("data", "audit", clean_data, "--out", tmp_path / "audit")
    assert done.code == 0
    assert "classified without any detail of a lung" in done.out
    assert "Not a medical device" in done.out
    assert "audit.html" in done.err
    again = command("data", "audit", clean_data, "--out", tmp_path / "audit")
    assert again.code == 2
    assert "exists already" in again.err
    document = command("data", "audit", clean_data, "--format", "json", "--quiet", "--no-shortcuts")
    assert document.err == ""
    one, two = json.loads(document.out), json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert one["identical"] == two["identical"]
    assert one["spreads"] == two["spreads"]


def test_fail_on_warning_and_wrong_usage(
    clean_data: Path, own_data: Path, command: Callable[..., SimpleNamespace]
) -> None:
    film = next(path for path in own_data.rglob("*.jpeg") if "train" in path.parts)
    film.with_name("unlisted.jpeg").write_bytes(reencoded(film.read_bytes(), quality=50))
    assert audit_leaks(own_data).worst() == "warning"
    for folder, severity, code in (
        (own_data, "warning", 1),
        (own_data, "error", 0),
        (clean_data, "warning", int(audit_leaks(clean_data).worst() == "warning")),
    ):
        done = command("data", "audit", folder, "--no-shortcuts", "--fail-on", severity, "--quiet")
        assert done.code == code, done.err
    assert command("data", "audit", clean_data, "--fail-on", "sometimes").code == 2
    with pytest.raises(UsageError, match="exists already"):
        audit(clean_data, clean_data)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("nothing", ArchiveError, "does not exist"),
        ("text", ArchiveError, "neither a folder nor a readable ZIP"),
        ("empty", DatasetError, "no readable film"),
        ("damaged", DatasetError, "prepare the data set again"),
    ],
)
def test_subjects_that_cannot_be_audited(
    clean_data: Path, kind: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    if kind == "text":
        path.write_text("no archive")
    elif kind == "empty":
        path.mkdir()
    elif kind == "damaged":
        shutil.copytree(clean_data, path)
        (path / "manifest.csv").write_text("path,label\n")
    with pytest.raises(error, match=message):
        audit(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
