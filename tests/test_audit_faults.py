"""The audit finds planted faults: leaks between splits, patients, labels, files and odd films; it reports no others."""

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from audits import audit_leaks, codes, films_of
from dicoms import dicom
from pneumoscope.audit import audit
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.imaging import read_luma
from pneumoscope.phantom import FINDINGS, encode_jpeg, film
from samples import REAL, as_version3, encode, make_zip, reencoded, small_films

PRACTICE = REAL / "ChestXRay2017-224-practice.zip"


def test_ten_films_planted_in_another_split_are_all_named(
    own_data: Path, command: Callable[..., SimpleNamespace]
) -> None:
    films = [each for each in load_dataset(own_data).films if each.split == "train"][:10]
    planted = set()
    for number, each in enumerate(films):
        content = (own_data / each.path).read_bytes()
        content = (content, reencoded(content), reencoded(content, quality=50))[number % 3]  # bytes, pixels, look
        target = own_data / "test" / each.label / f"planted{number}{'.png' if number % 3 == 1 else '.jpeg'}"
        target.write_bytes(content)
        planted.add(target.relative_to(own_data).as_posix())
    found = audit_leaks(own_data)
    assert films_of(found, "unlisted-files") == planted
    named = films_of(found, "duplicate-crosses-splits") | films_of(found, "near-duplicate-crosses-splits")
    assert named == planted | {each.path for each in films}
    done = command("data", "audit", own_data, "--no-shortcuts", "--fail-on", "error", "--quiet")
    assert done.code == 1
    assert all(name in done.out for name in named)
    assert command("data", "audit", own_data, "--no-shortcuts", "--quiet").code == 0


def test_a_leak_between_train_and_val_of_an_unprepared_archive(
    phantom_members: dict[str, bytes], tmp_path: Path
) -> None:
    name = next(name for name in phantom_members if "/train/NORMAL" in name)
    moved = name.replace("/train/", "/val/")
    found = audit_leaks(make_zip(tmp_path / "a.zip", phantom_members | {moved: phantom_members[name]}))
    assert films_of(found, "duplicate-crosses-splits") == {name, moved}
    assert "val" in {row.split for row in found.counts}


def test_conflicting_labels_and_duplicates_within_a_split(tmp_path: Path) -> None:
    members = small_films(6)
    virus = next(name for name in members if "person1_virus" in name)
    members["chest_xray/train/PNEUMONIA/person1_bacteria_99.jpeg"] = members[virus]
    members["chest_xray/train/NORMAL/IM-0001-0009.jpeg"] = members["chest_xray/train/NORMAL/IM-0001-0000.jpeg"]
    found = audit_leaks(make_zip(tmp_path / "a.zip", members))
    assert films_of(found, "conflicting-labels") == {virus, "chest_xray/train/PNEUMONIA/person1_bacteria_99.jpeg"}
    assert "chest_xray/train/NORMAL/IM-0001-0009.jpeg" in films_of(found, "duplicates")
    assert "duplicate-crosses-splits" not in codes(found)


def test_nearly_identical_films_of_two_labels_are_a_warning(phantom_members: dict[str, bytes], tmp_path: Path) -> None:
    name = next(name for name in phantom_members if "/train/" in name and "virus" in name)
    copy = "chest_xray/train/PNEUMONIA/person901_bacteria_1.jpeg"
    found = audit_leaks(
        make_zip(tmp_path / "a.zip", phantom_members | {copy: reencoded(phantom_members[name], quality=50)})
    )
    assert films_of(found, "conflicting-labels-of-near-duplicates") == {name, copy}
    assert "conflicting-labels-of-near-duplicates" in codes(found, "warning")


def test_a_manifest_that_puts_a_patient_in_two_splits_is_an_error(own_data: Path) -> None:
    text = (own_data / "manifest.csv").read_text()
    row = next(line for line in text.splitlines() if line.startswith("train/virus/"))
    name, patient = row.split(",")[0], row.split(",")[3]
    other = next(line for line in text.splitlines() if line.startswith("test/virus/"))
    cells = other.split(",")
    cells[3] = patient
    (own_data / "manifest.csv").write_text(text.replace(other, ",".join(cells)))
    found = audit_leaks(own_data)
    shared = films_of(found, "patient-crosses-splits")
    assert {name, cells[0]} <= shared
    rules = {each.rule for each in found.patients}
    assert "the manifest" in rules


def test_patients_are_compared_under_every_rule(tmp_path: Path) -> None:
    two = small_films(6)
    moved = {name.replace("/train/", "/test/") if "IM-0001-0001" in name else name: held for name, held in two.items()}
    found = audit_leaks(make_zip(tmp_path / "two.zip", moved))
    assert [(each.rule, each.patient) for each in found.patients if "without" not in each.rule] == [
        ("version 2 names", "normal/IM-0001")
    ]
    three = audit_leaks(make_zip(tmp_path / "three.zip", as_version3(moved)))
    assert [each.rule for each in three.patients] == ["version 3 names"]
    mixed = {name.replace("/train/", "/test/") if "person2_virus" in name else name: held for name, held in two.items()}
    naive = audit_leaks(make_zip(tmp_path / "naive.zip", mixed))
    assert codes(naive, "error") == set()
    assert films_of(naive, "number-crosses-splits") == {name for name in mixed if "person2_" in name}


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
    assert not codes(audit_leaks(tmp_path / "data"), "error")


def test_a_patient_of_dicom_headers_in_two_parts_is_found(tmp_path: Path) -> None:
    films = {
        f"{part}/{label}/IM{number}": dicom(film("normal", patient=seed), PatientID=f"{label}{number % 2}")
        for seed, (part, label, number) in enumerate(product(("train", "test"), ("ill", "well"), range(3)))
    }
    found = audit_leaks(make_zip(tmp_path / "a.zip", films))
    assert {each.rule for each in found.patients} == {"DICOM headers"}
    assert len(found.patients) == 4
    assert "patient-crosses-splits" in codes(found, "error")
    anonymous = {name: dicom(film("normal", patient=at), PatientID="ANON") for at, name in enumerate(films)}
    assert not audit_leaks(make_zip(tmp_path / "b.zip", anonymous)).patients


def test_missing_changed_and_damaged_files_are_errors(own_data: Path) -> None:
    films = load_dataset(own_data).films
    (own_data / films[0].path).unlink()
    (own_data / films[1].path).write_bytes((own_data / films[1].path).read_bytes()[:500])
    (own_data / films[2].path).write_bytes(encode_jpeg(film("virus", patient=77)))
    found = audit_leaks(own_data)
    assert films_of(found, "unreadable") == {films[0].path, films[1].path}
    assert films_of(found, "changed-files") == {films[2].path}
    assert codes(found, "error") >= {"unreadable", "changed-files"}


def test_unlisted_files_are_reported_without_an_error(own_data: Path) -> None:
    films = load_dataset(own_data).films
    stray = encode_jpeg(film("virus", patient=801))
    (own_data / "train" / "stray.jpeg").write_bytes(stray)
    (own_data / "train" / "zzz").mkdir()
    (own_data / "train" / "zzz" / "one.jpeg").write_bytes(encode_jpeg(film("virus", patient=802)))
    (own_data / "train" / "virus" / "._x.jpeg").write_bytes(b"a Mac was here")
    (own_data / "train" / "virus" / "broken.jpeg").write_bytes(b"broken")
    odd = os.fsdecode(b"st\xffray.jpeg")
    (own_data / "train" / "virus" / odd).write_bytes(encode_jpeg(film("virus", patient=803)))
    found = audit(own_data, own_data.parent / "audit")
    assert films_of(found, "unlisted-files") == {
        "train/stray.jpeg",
        "train/zzz/one.jpeg",
        "train/virus/broken.jpeg",
        "train/virus/st\\udcffray.jpeg",
    }
    assert not codes(found, "error")
    assert found.classes == tuple(sorted({each.label for each in films}))
    assert found.shortcuts


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
    phantom_members: dict[str, bytes], kind: str, make: Callable[[Any], bytes], tmp_path: Path
) -> None:
    name = "chest_xray/train/NORMAL/IM-9999-0001.png"
    found = audit_leaks(make_zip(tmp_path / "a.zip", phantom_members | {name: make(film("normal", patient=900))}))
    assert {(each.film, each.kind) for each in found.odd} == {(name, kind)}
    assert films_of(found, f"odd-{kind.replace(' ', '-')}") == {name}


def test_films_that_are_all_deep_are_not_odd(phantom_members: dict[str, bytes], tmp_path: Path) -> None:
    deep = {
        f"{name}.png": encode(Image.fromarray(read_luma(held).astype(np.uint16) * 16))
        for name, held in phantom_members.items()
    }
    assert "odd-bit-depth" not in codes(audit_leaks(make_zip(tmp_path / "a.zip", deep)))


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
    found = audit_leaks(tmp_path / "data")
    named = films_of(found, "duplicate-crosses-splits") | films_of(found, "near-duplicate-crosses-splits")
    assert named == {*planted, *planted.values()}
    assert not [each for each in found.odd if each.kind in ("turned", "inverted", "mostly blank")]
