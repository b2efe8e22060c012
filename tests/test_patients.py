"""Patients by DICOM headers and names, across sources and parts: none is in two splits."""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicoms import dicom
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.errors import DatasetError
from pneumoscope.phantom import encode_jpeg, film
from samples import encode, make_zip, ramp, small_films, speckle, write_tree

TESTED = "its patient, or an identical or nearly identical film, is also in a test part"
QUARTER = PrepareConfig(val_fraction=0.25)


def hospital(root: Path, *, patient: str | None = None, suffix: str = "") -> Path:
    """Two classes of eight DICOMs each, two per patient, or all of the given patient."""
    for label in ("cough", "none"):
        for number in range(8):
            data = dicom(speckle(label, number), PatientID=patient or f"{label}{number // 2}")
            write_tree(root, {f"{label}/IM{number:05d}{suffix}": data})
    return root


def test_dicoms_name_their_patients_and_need_no_suffix(tmp_path: Path) -> None:
    source = hospital(tmp_path / "pacs")
    write_tree(source, {"cough/notes": b"no film", "cough/worse.jpeg": b"\xff\xd8\xff"})
    summary = prepare([source], tmp_path / "out", QUARTER)
    made = load_dataset(tmp_path / "out")
    assert summary.sources[0].patients_named
    assert len(made.films) == 16
    assert summary.sources[0].other_files == 1
    assert summary.sources[0].refused == 1
    held = defaultdict[str, set[str]](set)
    for each in made.films:
        assert re.fullmatch(r"dicom/[0-9a-f]{16}", each.patient)
        assert each.path.endswith(".dcm")
        held[each.patient].add(each.split)
    assert len(held) == 8
    assert all(len(splits) == 1 for splits in held.values())
    everything = "".join(path.read_text() for path in (tmp_path / "out").glob("*.*"))
    assert "cough0" not in everything
    zipped = make_zip(tmp_path / "pacs.zip", {f"{p.parent.name}/{p.name}": p.read_bytes() for p in source.glob("*/*")})
    prepare([zipped], tmp_path / "other", QUARTER)
    assert {(film.file_sha256, film.patient, film.split) for film in load_dataset(tmp_path / "other").films} == {
        (film.file_sha256, film.patient, film.split) for film in made.films
    }


def test_a_pattern_outranks_dicom_headers(tmp_path: Path) -> None:
    config = PrepareConfig(val_fraction=0.25, patient_pattern=r"IM\d+")
    prepare([hospital(tmp_path / "pacs", suffix=".dcm")], tmp_path / "out", config)
    assert {each.patient for each in load_dataset(tmp_path / "out").films} == {f"IM{at:05d}" for at in range(8)}


def test_patient_ids_can_be_ignored(tmp_path: Path) -> None:
    """For example because there is one identifier per class."""
    source = write_tree(
        tmp_path / "pacs",
        {f"{label}/{at}": dicom(speckle(label, at), PatientID=label) for label in ("ill", "well") for at in range(8)},
    )
    with pytest.raises(DatasetError, match="--ignore-patient-ids"):
        prepare([source], tmp_path / "out", QUARTER)
    prepare([source], tmp_path / "out", PrepareConfig(val_fraction=0.25, dicom_patients=False))
    assert len({each.patient for each in load_dataset(tmp_path / "out").films}) == 16


def test_one_identifier_on_some_films_is_not_a_patient(tmp_path: Path) -> None:
    source = hospital(tmp_path / "pacs", patient="ANONYMOUS")
    write_tree(source, {"cough/a.png": encode(Image.fromarray(ramp())), "DICOMDIR": bytes(128) + b"DICM"})
    summary = prepare([source], tmp_path / "out", QUARTER)
    assert summary.refused == ()
    assert summary.sources[0].other_files == 1
    assert len({each.patient for each in load_dataset(tmp_path / "out").films}) == 17


def test_one_identifier_on_all_films_is_not_a_patient(tmp_path: Path) -> None:
    summary = prepare([hospital(tmp_path / "pacs", patient="ANONYMOUS")], tmp_path / "out", QUARTER)
    assert not summary.sources[0].patients_named
    assert len({each.patient for each in load_dataset(tmp_path / "out").films}) == 16


def test_a_patient_of_any_test_part_is_never_trained_on(tmp_path: Path) -> None:
    members = small_films()
    leaked = encode_jpeg(film("virus", patient=3, shot=9, size=(64, 72)))
    members["chest_xray/train/PNEUMONIA/person3_virus_99.jpeg"] = leaked  # patient 3 is in the test part
    summary = prepare([make_zip(tmp_path / "a.zip", members)], tmp_path / "out", QUARTER)
    assert [each.reason for each in summary.refused] == [TESTED]
    assert all(each.split == "test" for each in load_dataset(tmp_path / "out").films if each.patient == "virus/person3")


def test_identical_films_under_two_patients_stay_in_one_split(tmp_path: Path) -> None:
    """Without patients every film is a patient of its own, but a copy under another name must not leak."""
    films: dict[str, bytes] = {}
    for label, shift in (("cat", 0), ("dog", 20)):
        for number in range(12):
            data = encode(Image.fromarray(np.roll(ramp(), number + shift, 1)))
            films |= {f"{label}/{number:02d}.png": data, f"{label}/copy-of-{number:02d}.png": data}
    config = PrepareConfig(val_fraction=0.3, test_fraction=0.3)
    prepare([write_tree(tmp_path / "source", films)], tmp_path / "out", config)
    splits = defaultdict(set)
    for each in load_dataset(tmp_path / "out").films:
        splits[each.luma_sha256].add(each.split)
    assert len(splits) == 24
    assert all(len(held) == 1 for held in splits.values())


def test_a_patient_of_two_classes_is_one_patient(tmp_path: Path) -> None:
    films = {
        f"{label}/p{patient}_{shot}.png": encode(Image.fromarray(speckle(label, 2 * patient + shot)))
        for label in ("cat", "bird")
        for patient in range(12)
        for shot in range(2)
    }
    source = write_tree(tmp_path / "source", films)
    prepare([source], tmp_path / "out", PrepareConfig(patient_pattern=r"p(\d+)_", val_fraction=0.3, test_fraction=0.3))
    splits = defaultdict(set)
    made = load_dataset(tmp_path / "out").films
    assert len(made) == 48
    for each in made:
        splits[Path(each.path).name.split("_")[0]].add(each.split)
    assert len(splits) == 12
    assert all(len(held) == 1 for held in splits.values())


def test_a_class_whose_train_patients_are_all_test_patients_is_refused(tmp_path: Path) -> None:
    members = small_films()
    for name in list(members):
        if "virus" in name and "/train/" in name and "person1_" not in name:
            del members[name]
    only = members.pop("chest_xray/train/PNEUMONIA/person1_virus_2.jpeg")
    members.pop("chest_xray/train/PNEUMONIA/person1_virus_3.jpeg")
    members["chest_xray/train/PNEUMONIA/person3_virus_70.jpeg"] = only  # patient 3 is in the test part
    with pytest.raises(DatasetError, match="class virus has films in the test part only"):
        prepare([make_zip(tmp_path / "a.zip", members)], tmp_path / "out", QUARTER)
