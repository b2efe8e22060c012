"""Folders: splits by everyday names, patients below them, masks beside films, classes spelled in several ways."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope.dataset import Dataset, PrepareConfig, PrepareSummary, load_dataset, prepare
from pneumoscope.dataset.places import FolderRules, find_places, split_by_name
from pneumoscope.errors import DatasetError, UsageError
from samples import make_zip
from twins import noise_png

EIGHT = range(8)


def make(tmp_path: Path, *sources: list[str], **settings: Any) -> tuple[PrepareSummary, Dataset]:
    """Prepare ZIP archives of films with these names."""
    tmp_path.mkdir(exist_ok=True)
    paths = []
    for at, names in enumerate(sources):
        path = tmp_path / f"source{at}.zip"
        paths.append(make_zip(path, {name: noise_png(f"{at}{name}") for name in names}))
    config = PrepareConfig(**{"val_fraction": 0.25, "test_fraction": 0.25} | settings)
    summary = prepare(paths, tmp_path / "out", config)
    return summary, load_dataset(tmp_path / "out")


def refused(tmp_path: Path, *sources: list[str], **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make(tmp_path, *sources, **settings)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def films(*folders: str, each: int = 8) -> list[str]:
    return [f"{folder}/{folder.replace('/', '')}{number}.png" for folder in folders for number in range(each)]


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (
            ("train", "Training", "Training Set", "train_images", "TRAIN-DATA", "TrainingSet", "trainset", "train 2"),
            "train",
        ),
        (("val", "valid", "Validation", "val_images", "dev", "Dev Set", "validate"), "val"),
        (("test", "Testing", "Testing Set", "test_images", "stage_2_test_images", "TEST FILES", "testdata"), "test"),
        (
            ("trainval", "test_A", "Hold-out", "holdout set", "eval", "Evaluation", "train+test", "train (old)"),
            "unclear",
        ),
        (("normal", "tested", "validity", "device", "retrain", "TB", "developed"), None),
    ],
)
def test_the_names_of_split_folders(names: tuple[str, ...], split: str | None) -> None:
    found = {name: split_by_name(name) for name in names}
    assert set(found.values()) == {split}, found


@pytest.mark.parametrize(("train", "test"), [("Training Set", "Testing Set"), ("train_images", "test_images")])
def test_published_test_films_stay_test_under_everyday_names(train: str, test: str, tmp_path: Path) -> None:
    made = make(tmp_path, films(*(f"set/{part}/{label}" for part in (train, test) for label in ("ill", "well"))))[1]
    assert Counter(film.split == "test" for film in made.films) == {False: 16, True: 16}
    assert all(f"/{test}/" in film.source for film in made.split("test"))


@pytest.mark.parametrize("other", ["trainval", "test_A", "holdout", "Eval"])
def test_a_folder_that_might_be_a_split_needs_an_option(other: str, tmp_path: Path) -> None:
    names = films(*(f"{part}/{label}" for part in ("train", other) for label in ("ill", "well")))
    assert f"'{other}' might be the folder of a split; pass --split-folder \"{other}=test\"" in refused(tmp_path, names)
    made = make(tmp_path, names, split_folders={other.lower(): "test"})[1]
    assert {film.source.split("/")[0] for film in made.split("test")} == {f"source0.zip:{other}"}


def test_a_folder_can_be_declared_not_to_be_a_split(tmp_path: Path) -> None:
    names = films("eval/ill", "eval/well")
    assert make(tmp_path, names, split_folders={"eval": "none"})[1].classes == ("ill", "well")


def test_a_missing_split_folder_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path, films("ill", "well"), split_folders={"holdout": "test"})
    assert message == "--split-folder 'holdout': no source has a folder of this name."


def test_splits_below_the_classes(tmp_path: Path) -> None:
    made = make(tmp_path, films("set/ill/train", "set/ill/test", "set/well/train", "set/well/test"))[1]
    assert made.classes == ("ill", "well")
    assert all("/test/" in film.source for film in made.split("test"))
    with pytest.raises(DatasetError, match=r"no usable image found[\s\S]*not inside a class folder"):
        make(tmp_path / "one", films("set/train", "set/test"))


@pytest.mark.parametrize(
    "pattern",
    [
        "CheXpert-v1.0-small/{part}/patient{n:05d}/study1/view{shot}.jpg",
        "{part}/p{n}/{shot}.png",
        "set/Training Set/{n}/xray/{shot}.png",
        "{part}/{label}/patient{n}/{shot}.png",
        "p{n}/{shot}.png",
        "hospital/p{n}/{shot}.png",
    ],
)
def test_folders_that_may_be_patients_need_an_option(pattern: str, tmp_path: Path) -> None:
    names = [
        pattern.format(part="train" if n < 12 else "valid", label="ill" if n % 2 else "well", n=n, shot=shot)
        for n in range(20)
        for shot in range(2)
    ]
    message = refused(tmp_path, names)
    assert "--class-folder" in message
    assert "--labels FILE" in message
    assert "p1" not in message
    assert "patient0" not in message


@pytest.mark.parametrize("form", ["patient{}", "train/Case_{}", "train/p{}/study1", "{}"])
def test_folders_named_like_patients_need_an_option_however_many_films_they_have(form: str, tmp_path: Path) -> None:
    message = refused(tmp_path, films(*(form.format(number) for number in range(12))))
    assert "would be 12 classes, but may be those of patients" in message


@pytest.mark.parametrize(
    "folders",
    [
        ("ill/2019", "ill/2020", "well/2019", "well/2020"),
        ("NORMAL/frontal", "PNEUMONIA/frontal"),
        ("train/north/NORMAL", "train/north/PNEUMONIA", "train/south/NORMAL", "train/south/PNEUMONIA"),
    ],
)
def test_unclear_class_folders_need_an_option(folders: tuple[str, ...], tmp_path: Path) -> None:
    message = refused(tmp_path, films(*folders))
    assert "which are the classes? Pass --class-folder outermost or innermost" in message


@pytest.mark.parametrize(
    "folders",
    [
        ("north/ill", "north/well", "south/ill", "south/well"),
        ("train/NORMAL/north", "train/NORMAL/south", "train/PNEUMONIA/north", "train/PNEUMONIA/south"),
        ("train/cat/images", "train/dog/images"),
    ],
)
def test_clear_class_folders_need_no_option(folders: tuple[str, ...], tmp_path: Path) -> None:
    assert len(make(tmp_path, films(*folders))[1].classes) == 2


def test_grades_are_not_taken_for_patients(tmp_path: Path) -> None:
    assert len(make(tmp_path, films("grade 0", "grade 1", "grade 2"))[1].classes) == 3


def test_classes_of_patients_below_a_split_by_option(tmp_path: Path) -> None:
    names = [f"train/{label}/p{n}/{n}{s}.png" for label in ("ill", "well") for n in EIGHT for s in "ab"]
    outer = make(tmp_path, names, class_folder="outermost", patient_pattern=r"p\d")[1]
    assert outer.classes == ("ill", "well")
    inner = [f"{part}/images/{label}/{n}.png" for part in ("train", "test") for label in ("ill", "well") for n in EIGHT]
    assert "(1 name) or the innermost one (2 names" in refused(tmp_path / "two", inner)
    assert make(tmp_path / "two", inner, class_folder="innermost")[1].classes == ("ill", "well")


def test_many_small_classes_are_accepted_by_option(tmp_path: Path) -> None:
    names = films(*(f"k{n}" for n in range(11)), each=4)
    assert "11 folders, with about 4 films each, would be 11 classes" in refused(tmp_path, names)
    assert len(make(tmp_path, names, class_folder="innermost")[1].classes) == 11
    assert len(make(tmp_path / "ten", films(*(f"k{n}" for n in range(10)), each=4))[1].classes) == 10


MASKED = {
    "radiography": ["{label}/images/{label}-{n}.png", "{label}/masks/{label}-{n}.png"],
    "beside": ["images/{label}{n}.png", "Lung Masks/{label}{n}.png"],
    "montgomery": [
        "CXR_png/{label}{n}.png",
        "ManualMask/leftMask/{label}{n}.png",
        "ManualMask/rightMask/{label}{n}.png",
    ],
    "below a split": ["train/{label}/images/{n}{label}.png", "train/{label}/infection masks/{n}{label}.png"],
    "suffix": ["{label}/{n}.png", "{label}/{n}_mask.png"],
    "truth": ["{label}/{n}.png", "Ground Truth/{n}.png"],
    "annotated": ["{label}/{n}.jpg", "annotations/{n}.png"],
}


def masked(name: str) -> list[str]:
    return sorted({form.format(label=label, n=n) for form in MASKED[name] for label in ("ill", "well") for n in EIGHT})


@pytest.mark.parametrize("name", MASKED)
def test_masks_are_not_taken_for_films(name: str, tmp_path: Path) -> None:
    message = refused(tmp_path, masked(name))
    assert "--exclude" in message
    assert "--class-folder" in message


def test_masks_are_excluded_by_pattern_and_counted(tmp_path: Path) -> None:
    names = [
        form.format(label=label, n=n) for form in MASKED["radiography"] for label in ("ill", "well") for n in EIGHT
    ]
    assert '--exclude "masks"' in refused(tmp_path, names, class_folder="outermost")
    summary, made = make(tmp_path, names, class_folder="outermost", exclude=("masks",))
    assert made.classes == ("ill", "well")
    assert summary.sources[0].excluded == 16
    assert summary.refused == ()
    assert len(make(tmp_path / "two", masked("suffix"), exclude=("*_mask.png",))[1].films) == 16
    assert "--exclude 'mask' matches no file" in refused(tmp_path / "three", names, exclude=("mask",))


def test_a_class_called_labels_is_accepted_by_option(tmp_path: Path) -> None:
    names = [f"{folder}/{n}.png" for folder in ("films", "labels") for n in EIGHT]
    assert make(tmp_path, names, class_folder="innermost")[1].classes == ("films", "labels")


SPELLED = {
    "case": ("NORMAL", "Normal"),
    "trailing space": ("Normal", "Normal "),
    "underscore": ("Lung_Opacity", "Lung Opacity"),
    "hyphen": ("COVID-19", "COVID19"),
    "decomposed": ("Pneumon\u00eda", "Pneumoni\u0301a"),
    "full width": ("TB", "\uff34\uff22"),
}


@pytest.mark.parametrize("name", SPELLED)
def test_classes_spelled_in_two_ways_are_named_and_merged(name: str, tmp_path: Path) -> None:
    one, other = SPELLED[name]
    names = [
        f"{folder}/{number}{len(folder)}.png" for folder, n in ((one, 9), (other, 8), ("ill", 8)) for number in range(n)
    ]
    names = [f"{each.replace('.png', '')}-{at}.png" for at, each in enumerate(names)]
    message = refused(tmp_path, names)
    assert f"'{one}' (9 films) and " in message
    assert "(8 films). If they are the same, pass --merge-classes" in message
    assert set(make(tmp_path, names, merge_classes=True)[1].classes) == {one, "ill"}


def test_spellings_are_compared_over_splits_and_sources(tmp_path: Path) -> None:
    parts = [*films("train/NORMAL", "train/ILL"), *films("test/Normal", "test/Ill", each=4)]
    message = refused(tmp_path, parts)
    assert "'ILL' (8 films) and 'Ill' (4 films); 'NORMAL' (8 films) and 'Normal' (4 films)" in message
    made = make(tmp_path, parts, merge_classes=True)[1]
    assert Counter((film.split, film.label) for film in made.films)["test", "NORMAL"] == 4
    message = refused(tmp_path / "two", films("NORMAL", "PNEUMONIA"), films("normal", "Pneumonia", each=6))
    assert "'NORMAL' (8 films) and 'normal' (6 films); 'PNEUMONIA' (8 films) and 'Pneumonia' (6 films)" in message


PATHS = st.lists(
    st.lists(st.sampled_from(["train", "test", "a", "b", "images", "masks", "x y"]), max_size=4).map(
        lambda folders: "/".join([*folders, "1.png"])
    ),
    max_size=12,
)


@given(names=PATHS, level=st.sampled_from([None, "innermost", "outermost"]))
def test_every_path_has_one_place_whatever_the_tree(names: list[str], level: Any) -> None:
    places = find_places(names, FolderRules(level=level, strict=False))
    assert len(places) == len(names)
    for name, place in zip(names, places, strict=True):
        folders = name.split("/")[:-1]
        assert place.folder is None or place.folder in folders
        assert (place.split is not None) == bool({"train", "test"} & set(folders))
