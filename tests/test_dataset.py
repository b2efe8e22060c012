import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dicoms import dicom
from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.dataset.grammar import (
    Identity,
    Naming,
    follows_archive,
    identify,
    parse_published,
    parse_version2,
    parse_version3,
)
from pneumoscope.dataset.manifest import Record, format_manifest, parse_manifest
from pneumoscope.dataset.places import place
from pneumoscope.dataset.split import LabelledFilm, cut_patients
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.phantom import FINDINGS, encode_jpeg, film
from samples import INTERRUPTIBLE, REAL, encode, make_zip, ramp, small_films

TESTED = "its patient, or an identical or nearly identical film, is also in a test part"
QUARTER = PrepareConfig(val_fraction=0.25)


def write_tree(root: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def speckle(label: str, number: int) -> NDArray[np.uint8]:
    return np.random.default_rng([*label.encode(), number]).integers(0, 256, (40, 60), dtype=np.uint8)


def class_folders(classes: tuple[str, ...] = ("cat", "dog"), films: int = 8) -> dict[str, bytes]:
    return {
        f"{label}/{number:02d}.png": encode(Image.fromarray(speckle(label, number)))
        for label in classes
        for number in range(films)
    }


def films_of_one_part_only() -> dict[str, bytes]:
    """Class cat in the train part, class dog in the test part."""
    parts = (("train", "cat"), ("test", "dog"))
    return {f"{part}/{name}": data for part, label in parts for name, data in class_folders((label,)).items()}


@pytest.mark.parametrize(
    ("stem", "label", "patient"),
    [
        ("person1000_virus_1681", "virus", "virus/person1000"),
        ("person1_bacteria_1", "bacteria", "bacteria/person1"),
        ("person447_virus_921_1", "virus", "virus/person447"),
        ("IM-0001-0001", "normal", "normal/IM-0001"),
        ("IM-0011-0001-0002", "normal", "normal/IM-0011"),
        ("NORMAL2-IM-0007-0001", "normal", "normal/NORMAL2-IM-0007"),
        ("person1_bacteria_1~0badcafe", "bacteria", "bacteria/person1"),
    ],
)
def test_version2_names(stem: str, label: str, patient: str) -> None:
    assert (
        parse_version2(stem) == parse_published(stem) == Identity(label=label, patient=patient, naming=Naming.VERSION2)
    )
    assert parse_version3(stem) is None


@pytest.mark.parametrize("stem", ["person1_fungus_1", "IM-0001", "VIRUS-1-2", "person_virus_1", "xIM-0001-0001", ""])
def test_other_names_are_not_version2(stem: str) -> None:
    assert parse_version2(stem) is None


@pytest.mark.parametrize(
    ("stem", "label", "patient"),
    [
        ("VIRUS-3637528-0002", "virus", "3637528"),
        ("BACTERIA-213622-0001", "bacteria", "213622"),
        ("NORMAL-28501-0001", "normal", "28501"),
        ("NORMAL-28501-0001~0badcafe", "normal", "28501"),
    ],
)
def test_version3_names(stem: str, label: str, patient: str) -> None:
    assert (
        parse_version3(stem) == parse_published(stem) == Identity(label=label, patient=patient, naming=Naming.VERSION3)
    )
    assert parse_version2(stem) is None


@pytest.mark.parametrize("stem", ["FUNGUS-1-1", "VIRUS-1", "VIRUS-1-1-1", "VIRUS--1", "person1_virus_1", ""])
def test_other_names_are_not_version3(stem: str) -> None:
    assert parse_version3(stem) is None


@given(number=st.integers(0, 10**6), film_number=st.integers(0, 10**6), label=st.sampled_from(["bacteria", "virus"]))
def test_version2_names_carry_label_and_number(number: int, film_number: int, label: str) -> None:
    found = parse_version2(f"person{number}_{label}_{film_number}")
    assert found == Identity(label=label, patient=f"{label}/person{number}", naming=Naming.VERSION2)


def test_places() -> None:
    assert place("chest_xray/chest_xray/Train/PNEUMONIA/a.jpeg").folder == "PNEUMONIA"
    assert place("data/val/cat/deep/er/a.jpeg").folder == "cat"
    assert place("data/val/cat/a.jpeg").part == "train"
    assert place("a.jpeg").folder is None


def test_folder_and_name_must_agree() -> None:
    def read(name: str) -> Identity | str:
        return identify(name, place(name).folder, archive=True, patient_pattern=None)

    assert read("NORMAL/person1_virus_1.jpeg") == "unknown label: the file name states virus, the folder NORMAL"
    assert read("PNEUMONIA/IM-0001-0001.jpeg") == "unknown label: the file name states normal, the folder PNEUMONIA"
    assert read("virus/person1_virus_1.jpeg") == Identity(
        label="virus", patient="virus/person1", naming=Naming.VERSION2
    )
    assert isinstance(read("PNEUMONIA/hello.jpeg"), str)
    assert follows_archive(["NORMAL/IM-0001-0001.jpeg"])
    assert not follows_archive(["cat/IM-0001-0001.jpeg"])
    assert read("figures/1.png") == "unknown label: figures is not one of the archive's class folders"


def test_patients_by_pattern() -> None:
    named = identify("cat/p7_1.png", "cat", archive=False, patient_pattern=re.compile(r"(?P<patient>p\d+)_"))
    assert named == Identity(label="cat", patient="p7", naming=Naming.PATTERN)
    assert identify("cat/p7_1.png", "cat", archive=False, patient_pattern=re.compile(r"p(\d+)")) == Identity(
        label="cat", patient="7", naming=Naming.PATTERN
    )
    assert "unknown patient" in str(identify("cat/x.png", "cat", archive=False, patient_pattern=re.compile(r"p\d+")))


FILMS = st.lists(
    st.builds(LabelledFilm, label=st.sampled_from("ab"), patient=st.integers(0, 25).map(str)), min_size=1, max_size=120
)


@given(films=FILMS, fraction=st.floats(0.05, 0.6), seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_split_is_by_patient_near_the_fraction_and_independent_of_order(
    films: list[LabelledFilm], fraction: float, seed: int
) -> None:
    patients: defaultdict[str, set[str]] = defaultdict(set)
    for each in films:
        patients[each.label].add(each.patient)
    if any(len(holders) < 2 for holders in patients.values()):
        with pytest.raises(DatasetError, match="has too few patients"):
            cut_patients(films, fraction=fraction, seed=seed)
        return
    try:
        chosen = cut_patients(films, fraction=fraction, seed=seed)
    except DatasetError as failure:
        assume("cannot be on both sides" not in str(failure))
        raise
    assert chosen == cut_patients(films[::-1], fraction=fraction, seed=seed)
    sizes = Counter(each.patient for each in films)
    for label, holders in patients.items():
        assert chosen & holders, label
        assert holders - chosen, label
        taken = sum(each.label == label and each.patient in chosen for each in films)
        wanted = fraction * sum(each.label == label for each in films)
        assert abs(taken - wanted) <= 2 * max(sizes.values()) + 1


def test_an_impossible_split_is_an_error() -> None:
    tied = [LabelledFilm(label=label, patient=patient) for label in "ab" for patient in ("1", "2")]
    chosen = cut_patients(tied, fraction=0.3, seed=0)
    assert len(chosen) == 1
    chain = [
        ("a", "1"),
        ("a", "2"),
        ("b", "2"),
        ("b", "3"),
        ("c", "3"),
        ("c", "1"),
    ]  # each pair of classes shares a patient
    with pytest.raises(DatasetError, match="cannot be on both sides"):
        cut_patients([LabelledFilm(label=label, patient=patient) for label, patient in chain], fraction=0.3, seed=0)


def test_prepare_keeps_the_test_part_and_splits_by_patient(dataset: Dataset, phantom_folder: Path) -> None:
    published = {path.name for path in phantom_folder.rglob("test/*/*.jpeg")}
    assert {Path(each.path).name for each in dataset.split("test")} == published
    assert dataset.classes == ("bacteria", "normal", "virus")
    assert dataset.groups == {"pneumonia": ("bacteria", "virus")}
    splits = defaultdict(set)
    for each in dataset.films:
        splits[each.patient].add(each.split)
        assert each.path == f"{each.split}/{each.label}/{Path(each.path).name}"
        assert (dataset.root / each.path).is_file()
    assert all(len(held) == 1 for held in splits.values())
    assert len(dataset.films) == 90
    assert {(each.split, each.label) for each in dataset.films} == {
        (split, label) for split in ("train", "val", "test") for label in dataset.classes
    }


def test_zip_and_folder_give_the_same_films(phantom_zip: Path, phantom_folder: Path, tmp_path: Path) -> None:
    tables = []
    for number, source in enumerate((phantom_zip, phantom_folder)):
        prepare([source], tmp_path / str(number), QUARTER)
        rows = load_dataset(tmp_path / str(number)).films
        tables.append([(row.path, row.patient, row.file_sha256, row.luma_sha256) for row in rows])
    assert tables[0] == tables[1]


def test_same_input_and_seed_give_the_same_manifest_and_another_seed_another(phantom_zip: Path, tmp_path: Path) -> None:
    contents = []
    for number, seed in enumerate((5, 5, 6)):
        prepare([phantom_zip], tmp_path / str(number), PrepareConfig(seed=seed, val_fraction=0.25))
        contents.append((tmp_path / str(number) / "manifest.csv").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_manifest_columns_are_the_documented_ones(dataset: Dataset) -> None:
    with (dataset.root / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    documented = "path label split patient source file_sha256 luma_sha256 phash width height bytes mode"
    assert list(rows[0]) == documented.split(" ")
    row = rows[0]
    path = dataset.root / row["path"]
    with Image.open(path) as image:
        assert str(image.width) == row["width"]
        assert str(image.height) == row["height"]
        assert image.mode == row["mode"]
    assert int(row["bytes"]) == path.stat().st_size


def test_manifest_survives_a_round_trip() -> None:
    odd = Record(
        path='train/a/"x",\n.png', label="a", split="train", patient="a/1", source="s:é", file_sha256="0" * 64,
        luma_sha256="1" * 64, phash="2" * 64, width=3, height=4, bytes=5, mode="L",
    )  # fmt: skip
    assert parse_manifest(format_manifest([odd])) == [odd]
    with pytest.raises(ValueError, match="not the header"):
        parse_manifest("a,b\n1,2\n")


def test_the_result_loads_with_torchvision(dataset: Dataset) -> None:
    from torchvision.datasets import ImageFolder

    for split in ("train", "val", "test"):
        folder = ImageFolder(dataset.root / split)
        assert tuple(folder.classes) == dataset.classes
        assert len(folder) == len(dataset.split(split))


def test_a_prepared_data_set_is_a_source_again(dataset: Dataset, tmp_path: Path) -> None:
    prepare([dataset.root], tmp_path / "again", QUARTER)
    again = load_dataset(tmp_path / "again")
    assert {(each.file_sha256, each.patient) for each in again.films} == {
        (each.file_sha256, each.patient) for each in dataset.films
    }


def test_other_class_folders_are_the_classes(tmp_path: Path) -> None:
    write_tree(tmp_path / "animals", class_folders(("cat", "dog", "emu")))
    summary = prepare([tmp_path / "animals"], tmp_path / "out", PrepareConfig(groups={"mammal": ("cat", "dog")}))
    out = load_dataset(tmp_path / "out")
    assert out.classes == ("cat", "dog", "emu")
    assert out.groups == {"mammal": ("cat", "dog")}
    assert not summary.sources[0].patients_named
    assert {each.split for each in out.films} == {"train", "val", "test"}


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


def by_patient(*, deeper: str = "") -> dict[str, bytes]:
    return {
        f"{deeper}{label}/patient{label}{number // 2}/{number}.png": encode(Image.fromarray(speckle(label, number)))
        for label in ("ill", "well")
        for number in range(8)
    }


@pytest.mark.parametrize("deeper", ["", "export/2026/"])
def test_folders_of_patients_are_not_taken_for_classes(deeper: str, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", by_patient(deeper=deeper))
    with pytest.raises(
        UsageError, match=r"outermost folder \(2 names\) .* \(8 names, about 2 films in each\)"
    ) as caught:
        prepare([source], tmp_path / "out", QUARTER)
    assert "patientill0" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    outer = PrepareConfig(val_fraction=0.25, class_folder="outermost", patient_pattern=r"patient\w+\d")
    prepare([source], tmp_path / "out", outer)
    made = load_dataset(tmp_path / "out")
    assert made.classes == ("ill", "well")
    assert len({each.patient for each in made.films}) == 8
    inner = PrepareConfig(val_fraction=0.25, test_fraction=0.25, class_folder="innermost")
    with pytest.raises(
        DatasetError, match="class 'patientill0' has too few patients"
    ):  # two films: too few to split twice
        prepare([source], tmp_path / "inner", inner)


@pytest.mark.parametrize(
    "folders",
    [
        ("normal", "pneumonia/bacteria", "pneumonia/virus"),
        ("healthy/normal", "ill/bacteria", "ill/virus", "ill/COVID-19", "ill/tb"),
        ("north/ill", "north/well", "south/ill", "south/well"),
        ("north/ill", "south/well"),
    ],
)
def test_ordinary_trees_are_unambiguous(folders: tuple[str, ...], tmp_path: Path) -> None:
    members = {
        f"{folder}/{number}.png": encode(Image.fromarray(speckle(folder, number)))
        for folder in folders
        for number in range(6)
    }
    prepare([write_tree(tmp_path / "source", members)], tmp_path / "out", QUARTER)
    assert set(load_dataset(tmp_path / "out").classes) == {Path(folder).name for folder in folders}


def test_with_test_only_every_film_is_test(tmp_path: Path) -> None:
    source = write_tree(
        tmp_path / "source", class_folders(films=1) | {"train/cat/x.png": encode(Image.fromarray(ramp()))}
    )
    prepare([source], tmp_path / "out", PrepareConfig(test_only=True))
    made = load_dataset(tmp_path / "out")
    assert [each.split for each in made.films] == ["test"] * 3
    with pytest.raises(UsageError, match="--test-only makes none"):
        prepare([source], tmp_path / "other", PrepareConfig(test_only=True, stress=True))
    assert not (tmp_path / "other").exists()


def test_with_train_only_every_film_is_train(tmp_path: Path) -> None:
    """Films of a test part as well."""
    archive = make_zip(tmp_path / "a.zip", small_films())
    summary = prepare([archive], tmp_path / "out", PrepareConfig(train_only=True))
    made = load_dataset(tmp_path / "out")
    assert {each.split for each in made.films} == {"train"}
    assert len(made.films) == len(small_films())
    assert made.has("train")
    assert not made.has("val")
    assert not made.has("test")
    assert not summary.refused
    assert {each.patient for each in made.films} >= {"virus/person1", "virus/person3"}
    for contradiction, words in (
        (PrepareConfig(train_only=True, test_only=True), "--test-only and --train-only contradict each other; drop"),
        (PrepareConfig(train_only=True, stress=True), "made of validation films, and --train-only makes none; drop"),
    ):
        with pytest.raises(UsageError, match=words):
            prepare([archive], tmp_path / "other", contradiction)
    assert not (tmp_path / "other").exists()


def test_kaggles_copy_nested_twice_counts_once(tmp_path: Path) -> None:
    members = small_films()
    members |= {f"chest_xray/{name}": data for name, data in members.items()}
    members |= {
        "__MACOSX/chest_xray/train/._IM.jpeg": b"junk",
        "chest_xray/.DS_Store": b"junk",
        "chest_xray/a.txt": b"",
    }
    summary = prepare([make_zip(tmp_path / "a.zip", members)], tmp_path / "out", QUARTER)
    source = summary.sources[0]
    assert source.copies == 36
    assert source.junk == 2
    assert source.other_files == 1
    assert source.refused == 0
    assert len(load_dataset(tmp_path / "out").films) == 36


def test_different_films_of_one_name_are_both_kept(tmp_path: Path) -> None:
    one, two = class_folders(), {name: encode(Image.fromarray(speckle(name, 99))) for name in class_folders(films=1)}
    prepare([write_tree(tmp_path / "one", one), write_tree(tmp_path / "two", two)], tmp_path / "out", QUARTER)
    out = load_dataset(tmp_path / "out")
    assert len(out.films) == len(one) + len(two)
    assert len({each.path.lower() for each in out.films}) == len(out.films)


def test_a_patient_of_any_test_part_is_never_trained_on(tmp_path: Path) -> None:
    members = small_films()
    leaked = encode_jpeg(film("virus", patient=3, shot=9, size=(64, 72)))
    members["chest_xray/train/PNEUMONIA/person3_virus_99.jpeg"] = leaked  # patient 3 is in the test part
    summary = prepare([make_zip(tmp_path / "a.zip", members)], tmp_path / "out", QUARTER)
    assert [each.reason for each in summary.refused] == [TESTED]
    assert all(each.split == "test" for each in load_dataset(tmp_path / "out").films if each.patient == "virus/person3")


def damaged_archive(tmp_path: Path) -> Path:
    members = small_films() | {
        "../evil.jpeg": b"evil",
        "chest_xray/train/NORMAL/IM-9001-0001.png": b"I am a text file",
        "chest_xray/train/PNEUMONIA/what_is_this.jpeg": encode_jpeg(ramp()),
        "chest_xray/train/NORMAL/IM-9002-0001.jpeg": encode_jpeg(film("normal", patient=1))[:-4000],
    }
    return make_zip(tmp_path / "bad.zip", members)


def test_refused_files_are_named_and_the_rest_is_prepared(tmp_path: Path) -> None:
    summary = prepare([damaged_archive(tmp_path)], tmp_path / "out", QUARTER)
    reasons = {each.name: each.reason for each in summary.refused}
    assert len(reasons) == 4
    assert reasons["../evil.jpeg"] == "unsafe path in the archive"
    assert "not an accepted image" in reasons["chest_xray/train/NORMAL/IM-9001-0001.png"]
    assert "unknown label" in reasons["chest_xray/train/PNEUMONIA/what_is_this.jpeg"]
    assert "damaged" in reasons["chest_xray/train/NORMAL/IM-9002-0001.jpeg"]
    assert not list(tmp_path.rglob("evil*"))
    assert len(load_dataset(tmp_path / "out").films) == 36


def test_strict_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nothing was made\. 4 inputs were refused:\n.*evil"):
        prepare([damaged_archive(tmp_path)], tmp_path / "out", PrepareConfig(val_fraction=0.25, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "no usable image"),
        ({"cat/readme.txt": b"x"}, "no usable image"),
        (class_folders(("cat",)), r"only one class found \(cat\)"),
        ({**class_folders(("cat",)), **class_folders(("dog",), films=1)}, "class 'dog' has too few patients"),
        (films_of_one_part_only(), "test part only"),
    ],
)  # fmt: skip
def test_sources_that_give_no_data_set(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    source = write_tree(tmp_path / "source", members)
    source.mkdir(exist_ok=True)
    with pytest.raises(DatasetError, match=words):
        prepare([source], tmp_path / "out", PrepareConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_existing_output_is_replaced_only_on_request_and_if_it_is_a_data_set(tmp_path: Path, phantom_zip: Path) -> None:
    write_tree(tmp_path / "out", {"precious.txt": b"1"})
    with pytest.raises(UsageError, match="--overwrite"):
        prepare([phantom_zip], tmp_path / "out", QUARTER)
    with pytest.raises(UsageError, match="did not make it"):
        prepare([phantom_zip], tmp_path / "out", QUARTER, overwrite=True)
    assert (tmp_path / "out" / "precious.txt").is_file()
    prepare([phantom_zip], tmp_path / "two", QUARTER)
    (tmp_path / "two" / "old.txt").write_text("from before")
    prepare([phantom_zip], tmp_path / "two", QUARTER, overwrite=True)
    assert not (tmp_path / "two" / "old.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "two"]


def test_a_stray_image_does_not_change_how_an_archive_is_read(tmp_path: Path) -> None:
    logo = encode(Image.fromarray(ramp()))
    members = small_films() | {"chest_xray/logo.png": logo, "chest_xray/train/x/1.pgm": b"P5"}
    summary = prepare([make_zip(tmp_path / "a.zip", members)], tmp_path / "out", QUARTER)
    assert summary.classes == ("bacteria", "normal", "virus")
    reasons = {each.name: each.reason for each in summary.refused}
    assert "chest_xray is not one of the archive's class folders" in reasons["chest_xray/logo.png"]
    assert "accepted are JPEG" in reasons["chest_xray/train/x/1.pgm"]


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
        f"{label}/p{patient}_{shot}.png": encode(Image.fromarray(np.roll(ramp(), 7 * patient + shot + len(label), 1)))
        for label in ("cat", "bird")
        for patient in range(12)
        for shot in range(2)
    }
    source = write_tree(tmp_path / "source", films)
    prepare([source], tmp_path / "out", PrepareConfig(patient_pattern=r"p(\d+)_", val_fraction=0.3, test_fraction=0.3))
    splits = defaultdict(set)
    for each in load_dataset(tmp_path / "out").films:
        splits[Path(each.path).name.split("_")[0]].add(each.split)
    assert len(splits) == 12
    assert all(len(held) == 1 for held in splits.values())


def test_odd_names_links_and_suffixes(tmp_path: Path) -> None:
    films = class_folders()
    films |= {"cat/a\rb.png": films["cat/00.png"], "dog/film.jfif": encode_jpeg(ramp())}
    source = write_tree(tmp_path / "source", films)
    (Path(os.fsdecode(os.fsencode(source) + b"/cat/\xff.png"))).write_bytes(films["cat/00.png"])
    (source / "emu").symlink_to(source / "cat")
    (source / "cat" / "gone.png").symlink_to(source / "nothing")
    summary = prepare([source], tmp_path / "out", PrepareConfig())
    reasons = {each.name: each.reason for each in summary.refused}
    assert "control characters" in reasons["cat/a\\x0db.png"]
    assert "undecodable bytes" in reasons["cat/\\udcff.png"]
    assert "linked folder" in reasons["emu"]
    assert reasons["cat/gone.png"] == "not a regular file"
    out = load_dataset(tmp_path / "out")
    assert [Path(each.path).name for each in out.films if "film" in each.path] == ["film.jpeg"]
    from torchvision.datasets import ImageFolder

    assert sum(len(ImageFolder(out.root / split)) for split in ("train", "val", "test")) == len(out.films) == 17


def test_long_names_used_twice_are_shortened(tmp_path: Path) -> None:
    name = "n" * 240 + ".png"
    films = class_folders()
    one = write_tree(tmp_path / "one", films | {f"cat/{name}": encode(Image.fromarray(ramp()))})
    two = write_tree(tmp_path / "two", films | {f"cat/{name}": encode(Image.fromarray(255 - ramp()))})
    prepare([one, two], tmp_path / "out", PrepareConfig())
    assert len(load_dataset(tmp_path / "out").films) == 18


def test_when_no_film_is_left_the_reasons_are_reported(tmp_path: Path) -> None:
    films = {**class_folders(("cat",)), "dog/1.png": b"text", "dog/2.png": b"text"}
    with pytest.raises(DatasetError, match=r"only one class found \(cat\).*2 inputs were refused:\n.*dog/1.png"):
        prepare([write_tree(tmp_path / "source", films)], tmp_path / "out", PrepareConfig())


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


def test_the_output_must_not_be_inside_a_source(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", class_folders())
    for out in (source, source / "out"):
        with pytest.raises(UsageError, match="is inside the source"):
            prepare([source], out, PrepareConfig(), overwrite=True)
    assert sorted(path.name for path in source.iterdir()) == ["cat", "dog"]


def test_bad_groups_and_patterns(tmp_path: Path, phantom_zip: Path) -> None:
    for config, words in (
        (PrepareConfig(groups={"g": ("nobody",)}), "--group"),
        (PrepareConfig(patient_pattern="("), "--patient-pattern"),
    ):
        with pytest.raises(UsageError, match=words):
            prepare([phantom_zip], tmp_path / "out", config)
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    """Interrupt the command while it reads, as a user does; there must be no output."""
    members = {
        f"{finding}/{n:04d}.jpeg": encode_jpeg(film(finding, patient=n % 9, size=(600, 700)))
        for finding in FINDINGS[:2]
        for n in range(120)
    }
    source = write_tree(tmp_path / "source", members)
    command = [sys.executable, "-c", INTERRUPTIBLE, "data", "prepare", str(source), "--out", str(tmp_path / "out")]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while running.poll() is None and not list(tmp_path.glob(".out.partial-*/.incoming/0/*")):
        pass
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in out + err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_changed_film_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    copy = load_dataset(Path(shutil.copytree(dataset.root, tmp_path / "copy")))
    film_row = copy.films[0]
    path = copy.root / film_row.path
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(DatasetError, match="not the file the manifest names"):
        copy.read(film_row)
    path.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        copy.read(film_row)


def test_not_a_data_set(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="not a prepared data set"):
        load_dataset(tmp_path)
    copy = Path(shutil.copytree(dataset.root, tmp_path / "copy"))
    card = (copy / "dataset.json").read_text()
    (copy / "dataset.json").write_text(card.replace('"seed"', '"sead"'))
    with pytest.raises(DatasetError, match=r"config\.sead"):
        load_dataset(copy)
    (copy / "dataset.json").write_text(card)
    (copy / "manifest.csv").write_text("nonsense\n")
    with pytest.raises(DatasetError, match="1 values and is not the header"):
        load_dataset(copy)
    with pytest.raises(DatasetError, match="no split 'stress'"):
        dataset.split("stress")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real films are not here ({REAL.name})")
def test_the_practice_archive(tmp_path: Path) -> None:
    summary = prepare([REAL / "ChestXRay2017-224-practice.zip"], tmp_path / "out", PrepareConfig())
    films = load_dataset(tmp_path / "out").films
    assert not summary.refused
    assert Counter(each.split == "test" for each in films) == {False: 4712, True: 520}
    splits = defaultdict(set)
    for each in films:
        splits[each.patient].add(each.split)
    assert all(len(held) == 1 for held in splits.values())
    tested = Counter(each.label for each in films if each.split == "test")
    assert tested == {"bacteria": 295, "normal": 115, "virus": 110}
