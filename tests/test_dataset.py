import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.phantom import FINDINGS, encode_jpeg, film
from samples import INTERRUPTIBLE, REAL, encode, make_zip, ramp, small_films, speckle, write_tree

QUARTER = PrepareConfig(val_fraction=0.25)


def class_folders(classes: tuple[str, ...] = ("cat", "dog"), films: int = 8) -> dict[str, bytes]:
    return {
        f"{label}/{number:02d}.png": encode(Image.fromarray(speckle(label, number)))
        for label in classes
        for number in range(films)
    }


def each_class_in_one_part_only() -> dict[str, bytes]:
    """Class cat in the train part, class dog in the test part."""
    parts = (("train", "cat"), ("test", "dog"))
    return {f"{part}/{name}": data for part, label in parts for name, data in class_folders((label,)).items()}


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
    ("members", "message"),
    [
        ({}, "no usable image"),
        ({"cat/readme.txt": b"x"}, "no usable image"),
        (class_folders(("cat",)), r"only one class found \(cat\)"),
        ({**class_folders(("cat",)), **class_folders(("dog",), films=1)}, "class 'dog' has too few patients"),
        (each_class_in_one_part_only(), "test part only"),
    ],
)  # fmt: skip
def test_sources_that_give_no_data_set(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    source = write_tree(tmp_path / "source", members)
    source.mkdir(exist_ok=True)
    with pytest.raises(DatasetError, match=message):
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
    name = "n" * 250 + ".png"  # with a suffix of its own it would be longer than the 255 bytes that Linux allows
    films = class_folders()
    one = write_tree(tmp_path / "one", films | {f"cat/{name}": encode(Image.fromarray(ramp()))})
    two = write_tree(tmp_path / "two", films | {f"cat/{name}": encode(Image.fromarray(255 - ramp()))})
    prepare([one, two], tmp_path / "out", PrepareConfig(train_only=True))
    made = [Path(film.path).name for film in load_dataset(tmp_path / "out").films]
    assert len(made) == 18
    first, second = sorted((each for each in made if each.startswith("nn")), key=len, reverse=True)
    assert first == name
    assert re.fullmatch(r"n+~[0-9a-f]{8}\.png", second)


def test_when_a_class_has_no_film_left_the_reasons_are_reported(tmp_path: Path) -> None:
    films = {**class_folders(("cat",)), "dog/1.png": b"text", "dog/2.png": b"text"}
    with pytest.raises(DatasetError, match=r"only one class found \(cat\).*2 inputs were refused:\n.*dog/1.png"):
        prepare([write_tree(tmp_path / "source", films)], tmp_path / "out", PrepareConfig())


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
