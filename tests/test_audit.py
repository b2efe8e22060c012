"""The audit finds planted faults, reports no others, and its page and tables are complete."""

import json
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dicoms import dicom
from pneumoscope.audit import Audit, audit
from pneumoscope.audit.findings import class_findings
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.errors import ArchiveError, DatasetError, UsageError
from pneumoscope.imaging import read_luma
from pneumoscope.imaging.bounded import BoundedBytes
from pneumoscope.phantom import FINDINGS, encode_jpeg, film, population
from samples import REAL, as_version3, encode, make_zip, reencoded, small_films

PRACTICE, ORIGINALS = REAL / "ChestXRay2017-224-practice.zip", REAL / "originals-160.zip"


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    """Small phantoms, enough for a mean film and five folds."""
    films = {}
    for phantom in population(150, seed=5):
        part = "test" if phantom.patient % 4 == 0 else "train"
        folder = "NORMAL" if phantom.finding == "normal" else "PNEUMONIA"
        small = np.asarray(Image.fromarray(phantom.luma).resize((240, 208)))
        films[f"chest_xray/{part}/{folder}/{phantom.name}"] = encode_jpeg(small)
    return films


@pytest.fixture(scope="module")
def clean(members: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set without faults."""
    folder = tmp_path_factory.mktemp("clean")
    prepare([make_zip(folder / "a.zip", members)], folder / "data", PrepareConfig(val_fraction=0.2, stress=True))
    return folder / "data"


@pytest.fixture
def data(clean: Path, tmp_path: Path) -> Path:
    """A copy that a test can change."""
    return Path(shutil.copytree(clean, tmp_path / "data"))


def codes(found: Audit, severity: str | None = None) -> set[str]:
    return {each.code for each in found.findings if severity in (None, each.severity)}


def leaks(path: Path, out: Path | None = None) -> Audit:
    """An audit without the shortcut baselines, which take half of its time."""
    return audit(path, out, shortcuts=False)


def films_of(found: Audit, code: str) -> set[str]:
    return {name for each in found.findings if each.code == code for name in each.films}


def test_classes_spelled_in_two_ways_are_named() -> None:
    (found,) = class_findings({"Normal": 3, "NORMAL ": 2, "ill": 4})
    assert found.code == "class-spellings"
    assert found.title == "2 classes differ in spelling only: 'Normal', 'NORMAL '"


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
    leaks(tmp_path / "data")
    assert sorted(opened) == sorted(films.values())


def test_a_clean_data_set_has_no_error(clean: Path, tmp_path: Path) -> None:
    found = audit(clean, tmp_path / "audit")
    assert not codes(found, "error")
    assert found.worst() in (None, "warning", "note")
    assert sum(row.films for row in found.counts if row.split != "stress") == 150
    assert {row.split for row in found.counts} == {"train", "val", "test", "stress"}
    assert found.fingerprint == load_dataset(clean).fingerprint
    assert not found.odd
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == json.loads(found.model_dump_json())


def test_every_baseline_and_shift_has_its_interval_and_chance(clean: Path) -> None:
    found = audit(clean)
    rows = {(row.features, row.task, row.tested_on) for row in found.shortcuts}
    sets = ("metadata", "intensity", "border", "thumbnail")
    assert rows == {
        (f, t, on) for f in sets for t in ("classes", "pneumonia") for on in ("held-out folds", "test", "stress")
    }
    for row in found.shortcuts:
        assert 0 <= row.accuracy.low <= row.accuracy.value <= row.accuracy.high <= 1
        assert row.auroc.low <= row.auroc.value <= row.auroc.high
    counts = {
        label: sum(c.films for c in found.counts if c.label == label and c.split == "test") for label in found.classes
    }
    stress = next(r for r in found.shortcuts if (r.features, r.task, r.tested_on) == ("metadata", "classes", "stress"))
    assert stress.n == sum(row.films for row in found.counts if row.split == "val")
    chances = {row.chance for row in found.shortcuts if row.tested_on == "test" and row.task == "classes"}
    assert chances == {round(max(counts.values()) / sum(counts.values()), 4)}
    assert {(row.label, row.features) for row in found.shifts} == {(label, f) for label in found.classes for f in sets}


def test_phantoms_show_no_encoding_difference(clean: Path) -> None:
    found = leaks(clean)
    assert not any(code.startswith("encoding-differs") for code in codes(found))
    assert found.not_measured == ("the shortcut baselines and shifts: not requested",)
    assert not found.shortcuts


def test_ten_films_planted_in_another_split_are_all_named(data: Path, command: Callable[..., SimpleNamespace]) -> None:
    films = [each for each in load_dataset(data).films if each.split == "train"][:10]
    planted = set()
    for number, each in enumerate(films):
        content = (data / each.path).read_bytes()
        content = (content, reencoded(content), reencoded(content, quality=50))[number % 3]  # bytes, pixels, look
        target = data / "test" / each.label / f"planted{number}{'.png' if number % 3 == 1 else '.jpeg'}"
        target.write_bytes(content)
        planted.add(target.relative_to(data).as_posix())
    found = leaks(data)
    assert films_of(found, "unlisted-files") == planted
    named = films_of(found, "duplicate-crosses-splits") | films_of(found, "near-duplicate-crosses-splits")
    assert named == planted | {each.path for each in films}
    done = command("data", "audit", data, "--no-shortcuts", "--fail-on", "error", "--quiet")
    assert done.code == 1
    assert all(name in done.out for name in named)
    assert command("data", "audit", data, "--no-shortcuts", "--quiet").code == 0


def test_a_manifest_that_puts_a_patient_in_two_splits_is_an_error(data: Path) -> None:
    text = (data / "manifest.csv").read_text()
    row = next(line for line in text.splitlines() if line.startswith("train/virus/"))
    name, patient = row.split(",")[0], row.split(",")[3]
    other = next(line for line in text.splitlines() if line.startswith("test/virus/"))
    cells = other.split(",")
    cells[3] = patient
    (data / "manifest.csv").write_text(text.replace(other, ",".join(cells)))
    found = leaks(data)
    shared = films_of(found, "patient-crosses-splits")
    assert {name, cells[0]} <= shared
    rules = {each.rule for each in found.patients}
    assert "the manifest" in rules


def test_patients_are_compared_under_every_rule(tmp_path: Path) -> None:
    two = small_films(6)
    moved = {name.replace("/train/", "/test/") if "IM-0001-0001" in name else name: held for name, held in two.items()}
    found = leaks(make_zip(tmp_path / "two.zip", moved))
    assert [(each.rule, each.patient) for each in found.patients if "without" not in each.rule] == [
        ("version 2 names", "normal/IM-0001")
    ]
    three = leaks(make_zip(tmp_path / "three.zip", as_version3(moved)))
    assert [each.rule for each in three.patients] == ["version 3 names"]
    mixed = {name.replace("/train/", "/test/") if "person2_virus" in name else name: held for name, held in two.items()}
    naive = leaks(make_zip(tmp_path / "naive.zip", mixed))
    assert codes(naive, "error") == set()
    assert films_of(naive, "number-crosses-splits") == {name for name in mixed if "person2_" in name}


def test_conflicting_labels_and_duplicates_within_a_split(tmp_path: Path) -> None:
    two = small_films(6)
    virus = next(name for name in two if "person1_virus" in name)
    two["chest_xray/train/PNEUMONIA/person1_bacteria_99.jpeg"] = two[virus]
    two["chest_xray/train/NORMAL/IM-0001-0009.jpeg"] = two["chest_xray/train/NORMAL/IM-0001-0000.jpeg"]
    found = leaks(make_zip(tmp_path / "a.zip", two))
    assert films_of(found, "conflicting-labels") == {virus, "chest_xray/train/PNEUMONIA/person1_bacteria_99.jpeg"}
    assert "chest_xray/train/NORMAL/IM-0001-0009.jpeg" in films_of(found, "duplicates")
    assert "duplicate-crosses-splits" not in codes(found)


def test_missing_changed_and_damaged_files_are_errors(data: Path) -> None:
    films = load_dataset(data).films
    (data / films[0].path).unlink()
    (data / films[1].path).write_bytes((data / films[1].path).read_bytes()[:500])
    (data / films[2].path).write_bytes(encode_jpeg(film("virus", patient=77)))
    found = leaks(data)
    assert films_of(found, "unreadable") == {films[0].path, films[1].path}
    assert films_of(found, "changed-files") == {films[2].path}
    assert codes(found, "error") >= {"unreadable", "changed-files"}


def turned_tag() -> bytes:
    tags = Image.Exif()
    tags[274] = 6
    lying = np.rot90(film("normal", patient=901), 1)  # 6: a quarter turn to the right makes it upright
    return encode(Image.fromarray(lying), "JPEG", exif=tags)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("turned", lambda luma: encode(Image.fromarray(np.rot90(luma)))),
        ("turned", lambda luma: encode(Image.fromarray(np.rot90(luma, 2)))),
        ("inverted", lambda luma: encode(Image.fromarray(255 - luma))),
        ("mostly blank", lambda luma: encode(Image.fromarray(np.where(np.arange(luma.shape[1]) < 60, luma, 0)))),
        ("tiny", lambda luma: encode(Image.fromarray(luma[:150, :150]))),
        ("aspect", lambda luma: encode(Image.fromarray(luma).resize((900, 300)))),
        ("bit depth", lambda luma: encode(Image.fromarray(luma.astype(np.uint16) * 16))),
        ("colour mode", lambda luma: encode(Image.fromarray(luma).convert("RGB"))),
        ("turned by its tag", lambda _: turned_tag()),
    ],
)
def test_odd_films_are_found_and_no_others(
    members: dict[str, bytes], kind: str, make: Callable[[Any], bytes], tmp_path: Path
) -> None:
    name = "chest_xray/train/NORMAL/IM-9999-0001.png"
    found = leaks(make_zip(tmp_path / "a.zip", members | {name: make(film("normal", patient=900))}))
    assert {(each.film, each.kind) for each in found.odd} == {(name, kind)}
    assert films_of(found, f"odd-{kind.replace(' ', '-')}") == {name}


def test_films_that_are_all_deep_are_not_odd(members: dict[str, bytes], tmp_path: Path) -> None:
    deep = {
        f"{name}.png": encode(Image.fromarray(read_luma(held).astype(np.uint16) * 16)) for name, held in members.items()
    }
    assert "odd-bit-depth" not in codes(leaks(make_zip(tmp_path / "a.zip", deep)))


def test_a_patient_of_dicom_headers_in_two_parts_is_found(tmp_path: Path) -> None:
    films = {
        f"{part}/{label}/IM{number}": dicom(film("normal", patient=seed), PatientID=f"{label}{number % 2}")
        for seed, (part, label, number) in enumerate(product(("train", "test"), ("ill", "well"), range(3)))
    }
    found = leaks(make_zip(tmp_path / "a.zip", films))
    assert {each.rule for each in found.patients} == {"DICOM headers"}
    assert len(found.patients) == 4
    assert "patient-crosses-splits" in codes(found, "error")
    anonymous = {name: dicom(film("normal", patient=at), PatientID="ANON") for at, name in enumerate(films)}
    assert not leaks(make_zip(tmp_path / "b.zip", anonymous)).patients


def test_an_encoding_that_reveals_the_class_is_a_warning(members: dict[str, bytes], tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[305] = "a scanner"
    stored = {
        name: encode(Image.fromarray(read_luma(held)), "JPEG", quality=96, exif=tags) if "NORMAL" in name else held
        for name, held in members.items()
    }
    found = audit(make_zip(tmp_path / "a.zip", stored))
    assert {"shortcut-metadata-pneumonia", "encoding-differs-train"} <= codes(found, "warning")
    meaning = next(each.meaning for each in found.findings if each.code == "encoding-differs-train")
    assert "EXIF in 100 % of normal and 0 % of bacteria" in meaning
    assert "JPEG quality about 96 in normal and 85 in bacteria" in meaning
    best = next(r for r in found.shortcuts if (r.features, r.task, r.tested_on) == ("metadata", "pneumonia", "test"))
    assert best.accuracy.value > 0.95


def test_a_test_part_that_differs_from_train_is_a_warning(members: dict[str, bytes], tmp_path: Path) -> None:
    stored = {
        name: encode_jpeg((read_luma(held) // 4 + 150).astype(np.uint8)) if "/test/NORMAL" in name else held
        for name, held in members.items()
    }
    found = audit(make_zip(tmp_path / "a.zip", stored))
    shifted = {(row.label, row.features) for row in found.shifts if row.auroc.low > 0.9}
    assert ("normal", "intensity") in shifted
    assert not {label for label, _ in shifted} - {"normal"}
    assert "shift-intensity-normal" in codes(found, "warning")


def test_a_class_that_is_missing_from_test(members: dict[str, bytes], tmp_path: Path) -> None:
    some = {name: held for name, held in members.items() if "/test/NORMAL" not in name}
    found = audit(make_zip(tmp_path / "a.zip", some))
    tested = {row.task for row in found.shortcuts if row.tested_on == "test"}
    assert tested == {"classes"}, "without normals there is no task of pneumonia or not"
    assert {row.label for row in found.shifts} == {"bacteria", "virus"}
    Audit.model_validate_json(found.model_dump_json())


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
    """Collects the addresses that a page would fetch, and its pictures without alternative text."""

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


def test_the_page_is_self_contained_and_names_are_escaped(members: dict[str, bytes], tmp_path: Path) -> None:
    first = next(iter(members))
    odd = "chest_xray/train/NORMAL/IM-0001-0001<script>alert(1)<x>.jpeg"
    plain = {f"w/{name}": held for name, held in members.items()}
    stored = {f"{'cat' if 'NORMAL' in name else 'dog'}/{Path(name).name}": held for name, held in plain.items()}
    stored["cat/<script>alert(1)<x>.jpeg"] = members[first]
    leaks(make_zip(tmp_path / "a.zip", stored), tmp_path / "out")
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
    clean: Path, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    done = command("data", "audit", clean, "--out", tmp_path / "audit")
    assert done.code == 0
    assert "classified without any detail of a lung" in done.out
    assert "Not a medical device" in done.out
    assert "audit.html" in done.err
    again = command("data", "audit", clean, "--out", tmp_path / "audit")
    assert again.code == 2
    assert "exists already" in again.err
    document = command("data", "audit", clean, "--format", "json", "--quiet", "--no-shortcuts")
    assert document.err == ""
    one, two = json.loads(document.out), json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert one["identical"] == two["identical"]
    assert one["spreads"] == two["spreads"]


def test_the_same_data_give_the_same_audit(clean: Path) -> None:
    one, two = (audit(clean).model_dump() for _ in range(2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_class_of_few_films_gives_no_encoding_warning(tmp_path: Path) -> None:
    films = {f"ill/{n}.png": encode(Image.fromarray(film("virus", patient=n, size=(210, 230)))) for n in range(19)}
    films |= {f"well/{n}.jpeg": encode_jpeg(film("normal", patient=n, size=(210, 230))) for n in range(30)}
    assert not any(code.startswith("encoding-differs") for code in codes(leaks(make_zip(tmp_path / "a.zip", films))))
    films["ill/more.png"] = encode(Image.fromarray(film("virus", patient=99, size=(210, 230))))
    assert "encoding-differs-all" in codes(leaks(make_zip(tmp_path / "b.zip", films)))


def test_unlisted_files_are_reported_without_an_error(data: Path) -> None:
    films = load_dataset(data).films
    stray = encode_jpeg(film("virus", patient=801))
    (data / "train" / "stray.jpeg").write_bytes(stray)
    (data / "train" / "zzz").mkdir()
    (data / "train" / "zzz" / "one.jpeg").write_bytes(encode_jpeg(film("virus", patient=802)))
    (data / "train" / "virus" / "._x.jpeg").write_bytes(b"a Mac was here")
    (data / "train" / "virus" / "broken.jpeg").write_bytes(b"broken")
    odd = os.fsdecode(b"st\xffray.jpeg")
    (data / "train" / "virus" / odd).write_bytes(encode_jpeg(film("virus", patient=803)))
    found = audit(data, data.parent / "audit")
    assert films_of(found, "unlisted-files") == {
        "train/stray.jpeg",
        "train/zzz/one.jpeg",
        "train/virus/broken.jpeg",
        "train/virus/st\\udcffray.jpeg",
    }
    assert not codes(found, "error")
    assert found.classes == tuple(sorted({each.label for each in films}))
    assert found.shortcuts


def test_names_that_only_resemble_the_archives_give_no_patients(tmp_path: Path) -> None:
    members = {
        f"train/{label}/s{study}/IM-{number:04d}-0001.png": encode(
            Image.fromarray(film(finding, patient=study, shot=number))
        )
        for label, finding in zip(("covid", "healthy"), FINDINGS[1:], strict=True)
        for study in range(8)
        for number in range(2)
    }
    prepare(
        [make_zip(tmp_path / "a.zip", members)],
        tmp_path / "data",
        PrepareConfig(class_folder="outermost", patient_pattern=r"[a-z]+/s\d+", val_fraction=0.3),
    )
    assert not codes(leaks(tmp_path / "data"), "error")


def test_a_leak_between_train_and_val_of_an_unprepared_folder(members: dict[str, bytes], tmp_path: Path) -> None:
    name = next(name for name in members if "/train/NORMAL" in name)
    moved = name.replace("/train/", "/val/")
    found = leaks(make_zip(tmp_path / "a.zip", members | {moved: members[name]}))
    assert films_of(found, "duplicate-crosses-splits") == {name, moved}
    assert "val" in {row.split for row in found.counts}


def test_a_class_with_one_patient_that_fills_a_fold(members: dict[str, bytes], tmp_path: Path) -> None:
    """Three patients, one of them in both splits: some training fold has films of one split only."""
    films = {name: held for name, held in members.items() if "NORMAL" not in name}
    shots = {
        patient: [encode_jpeg(film("normal", patient=patient, shot=shot)) for shot in range(10)]
        for patient in (1, 2, 3)
    }
    films["chest_xray/test/NORMAL/IM-0001-0001.jpeg"] = shots[1][0]
    films |= {f"chest_xray/{('train', 'test')[s % 2]}/NORMAL/IM-0002-{s:04d}.jpeg": shots[2][s] for s in range(10)}
    films["chest_xray/train/NORMAL/IM-0003-0001.jpeg"] = shots[3][0]
    found = audit(make_zip(tmp_path / "a.zip", films))
    assert {row.label for row in found.shifts} == {"bacteria", "normal", "virus"}
    assert "patient-crosses-splits" in codes(found, "error")


def test_a_rare_class_that_metadata_reveal_is_a_warning(tmp_path: Path) -> None:
    films = {f"ill/{n:03d}.png": encode(Image.fromarray(film("virus", patient=n, size=(210, 230)))) for n in range(120)}
    films |= {f"well/{n}.jpeg": encode_jpeg(film("normal", patient=n, size=(210, 230))) for n in range(8)}
    found = audit(make_zip(tmp_path / "a.zip", films))
    assert "shortcut-metadata-classes" in codes(found, "warning")


def test_nearly_identical_films_of_two_labels_are_a_warning(members: dict[str, bytes], tmp_path: Path) -> None:
    name = next(name for name in members if "/train/" in name and "virus" in name)
    copy = "chest_xray/train/PNEUMONIA/person901_bacteria_1.jpeg"
    found = leaks(make_zip(tmp_path / "a.zip", members | {copy: reencoded(members[name], quality=50)}))
    assert films_of(found, "conflicting-labels-of-near-duplicates") == {name, copy}


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
    clean: Path, kind: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    if kind == "text":
        path.write_text("no archive")
    elif kind == "empty":
        path.mkdir()
    elif kind == "damaged":
        shutil.copytree(clean, path)
        (path / "manifest.csv").write_text("path,label\n")
    with pytest.raises(error, match=message):
        audit(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fail_on_warning_and_wrong_usage(clean: Path, command: Callable[..., SimpleNamespace]) -> None:
    found = leaks(clean)
    done = command("data", "audit", clean, "--no-shortcuts", "--fail-on", "warning", "--quiet")
    assert done.code == int(found.worst() == "warning")
    assert command("data", "audit", clean, "--fail-on", "sometimes").code == 2
    with pytest.raises(UsageError, match="exists already"):
        audit(clean, clean)


@pytest.mark.skipif(not ORIGINALS.exists(), reason="the real originals are not on this machine")
def test_the_real_originals_show_the_encoding_leak(tmp_path: Path) -> None:
    found = audit(ORIGINALS, tmp_path / "audit")
    best = next(row for row in found.shortcuts if (row.features, row.task) == ("metadata", "pneumonia"))
    assert best.accuracy.low > 0.9
    assert {"shortcut-metadata-pneumonia", "encoding-differs-train"} <= codes(found, "warning")
    assert not codes(found, "error")


@pytest.mark.skipif(not PRACTICE.exists(), reason="the real practice archive is not on this machine")
def test_ten_real_films_planted_in_the_other_split_are_all_named(tmp_path: Path) -> None:
    prepare([PRACTICE], tmp_path / "data", PrepareConfig())
    films = load_dataset(tmp_path / "data").films
    planted = {}
    for number, each in enumerate([f for f in films if f.split == "test"][::50][:10]):
        target = f"train/{each.label}/x{number}.jpeg"
        content = (tmp_path / "data" / each.path).read_bytes()
        (tmp_path / "data" / target).write_bytes(content if number % 2 else reencoded(content, quality=60))
        planted[target] = each.path
    found = leaks(tmp_path / "data")
    named = films_of(found, "duplicate-crosses-splits") | films_of(found, "near-duplicate-crosses-splits")
    assert named == {*planted, *planted.values()}
    assert not [each for each in found.odd if each.kind in ("turned", "inverted", "mostly blank")]
