"""Settings of `pneumoscope data …`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from pneumoscope.documents import Document, Text
from pneumoscope.settings.option import Codec, MaxPixels, Overwrite, Quiet, Spelling, Whole

FolderLevel: TypeAlias = Literal["innermost", "outermost"]
SplitFolder: TypeAlias = Literal["train", "val", "test", "none"]
Several: TypeAlias = Literal["mapped", "skip", "whole"]


def _parse_groups(options: Any) -> Any:
    """`["g=a,b"]`, as on the command line, → `{"g": ("a", "b")}`; anything else is left to validation."""
    if not isinstance(options, list | tuple):
        return options
    groups = {}
    for option in options:
        name, _, members = str(option).partition("=")
        if not name or not members:
            raise ValueError(f"{option!r} is not of the form NAME=CLASS,CLASS")
        groups[name] = tuple(members.split(","))
    return groups


def _parse_splits(options: Any) -> Any:
    """`["Set A=test"]`, as on the command line, → `{"Set A": "test"}`; anything else is left to validation."""
    if not isinstance(options, list | tuple):
        return options
    splits = {}
    for option in options:
        name, _, split = str(option).rpartition("=")
        if not name or split not in get_args(SplitFolder):
            raise ValueError(f"{option!r} is not of the form NAME=train, =val, =test or =none")
        splits[name] = split
    return splits


def _file_names(paths: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(path.name for path in paths)


def _file_name(path: Path | None) -> str | None:
    return None if path is None else path.name


def _sha256(value: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F]{64}", value) is None:
        raise ValueError("a SHA-256 has 64 hexadecimal digits")
    return value


class Fetch(Document):
    """Settings of `data fetch`."""

    version: Annotated[Literal[2, 3], Whole] = Field(
        description="Version of the published archive; version 2 has 1.2 GB."
    )
    out: Path = Field(description="Folder to download into.")
    full: bool = Field(default=False, description="Version 3: download all 8.4 GB, instead of the chest films only.")
    url: str | None = Field(default=None, description="Address of a mirror, instead of the publisher's.")
    sha256: Annotated[str, AfterValidator(_sha256)] | None = Field(
        default=None, description="Expected SHA-256 of a mirror's file, if it differs from the published one."
    )
    quiet: Quiet = False


class PrepareConfig(Document):
    """How `data prepare` reads sources and splits films; saved in `dataset.json`, with names of files, not paths."""

    val_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Share of the train films to split off for validation, by patient."
    )
    test_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the films to split off for testing, by patient, if no source has a test part.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the random splits.")
    patient_pattern: str | None = Field(
        default=None, description=r"Regular expression that finds the patient in a file's path, e.g. 'p(\d+)_'."
    )
    dicom_patients: Annotated[bool, Spelling(names=("--dicom-patients/--ignore-patient-ids",))] = Field(
        default=True, description="Identify patients by the Patient ID of DICOM files."
    )
    class_folder: FolderLevel | None = Field(
        default=None,
        description="Which of several nested folders names the class; by default the first one below a split's folder, "
        "and without such folders the innermost one. Unclear folders are an error until this option is given.",
    )
    split_folders: Annotated[
        dict[Text, SplitFolder], BeforeValidator(_parse_splits), Spelling(names=("--split-folder",), kind=list[str])
    ] = Field(
        default={},
        description="Which split a folder, or a value in --split-column, stands for, "
        'e.g. "Set A=test", or "eval=none" if it is not a split. Repeatable.',
    )
    exclude: tuple[Text, ...] = Field(
        default=(),
        description="Leave out files whose path, or a folder in it, matches this pattern, e.g. masks. Repeatable.",
    )
    merge_classes: bool = Field(
        default=False,
        description="Merge classes whose names differ only in case, spaces, _ or -, such as Normal and NORMAL.",
    )
    name_encoding: Codec | None = Field(
        default=None,
        description="Text codec of file names in an archive, or of a label file, if these are not UTF-8, e.g. gbk.",
    )
    labels: Annotated[tuple[Path, ...], Spelling(path="existing file"), PlainSerializer(_file_names)] = Field(
        default=(),
        description="Label file: CSV, TSV, or the text file of a published set. Repeatable: the files are joined.",
    )
    label_map: Annotated[Path | None, Spelling(path="existing file"), PlainSerializer(_file_name)] = Field(
        default=None,
        description="TOML file that describes the label file: its columns, and the findings that make each class.",
    )
    image_column: Text | None = Field(default=None, description="Column of the label file that names the images.")
    label_column: tuple[Text, ...] = Field(
        default=(),
        description="Column of the labels. Repeatable: several columns each bear a label's name and hold yes or no.",
    )
    patient_column: Text | None = Field(default=None, description="Column that identifies patients.")
    split_column: Text | None = Field(
        default=None, description="Column that assigns rows to train, validation or test."
    )
    view_column: Text | None = Field(default=None, description="Column of the view; only frontal films are kept.")
    several: Several | None = Field(
        default=None,
        description="What to do with a film that has several labels: mapped takes the class that --label-map gives its "
        "labels, or leaves the film out if they belong to several classes; skip leaves it out; whole takes the cell's "
        "text as one label.",
    )
    groups: Annotated[
        dict[Text, tuple[Text, ...]] | None,
        BeforeValidator(_parse_groups),
        Spelling(names=("--group",), kind=list[str]),
    ] = Field(
        default=None, description="Classes that are also reported together, e.g. pneumonia=bacteria,virus. Repeatable."
    )
    max_pixels: MaxPixels = 100_000_000
    test_only: bool = Field(
        default=False, description="Put every film into the test split, to evaluate a trained model."
    )
    train_only: bool = Field(
        default=False,
        description="Put every film into the train split, for a final model; there is no validation then.",
    )
    drop_duplicates: bool = Field(default=False, description="Of films of one source with equal pixels, keep only one.")
    keep_conflicts: bool = Field(default=False, description="Keep films with equal pixels and different labels.")
    merge_near: bool = Field(default=False, description="Treat nearly identical films of two sources as one film.")
    stress: bool = Field(
        default=False,
        description="Also write the stress split: the validation films, cropped at random, with blurred corners, "
        "saved again as JPEG.",
    )
    strict: bool = Field(default=False, description="Write nothing if any input is refused.")


class Prepare(Document):
    """Settings of `data prepare`."""

    sources: Annotated[tuple[Path, ...], Spelling(argument=True, path="existing")] = Field(
        description="ZIP or tar archives as downloaded, or folders; each with one folder of images per "
        "class, or labelled by --labels."
    )
    out: Path = Field(description="Folder of the data set to make.")
    config: PrepareConfig
    overwrite: Overwrite = False
    quiet: Quiet = False


class Audit(Document):
    """Settings of `data audit`."""

    subject: Annotated[Path, Spelling(argument=True, metavar="DATASET", path="existing")] = Field(
        description="A data set made by `data prepare`, or an archive or folder as published."
    )
    out: Path | None = Field(default=None, description="Folder to make, for audit.json and audit.html.")
    form: Annotated[Literal["table", "json"], Spelling(names=("--format",))] = Field(
        default="table", description="Output format."
    )
    fail_on: Literal["error", "warning", "never"] = Field(
        default="never", description="Exit with code 1 if there is a finding of this severity or a more severe one."
    )
    name_encoding: Codec | None = Field(
        default=None, description="Text codec of file names in an archive, if these are not UTF-8, e.g. gbk."
    )
    shortcuts: bool = Field(
        default=True, description="Also measure shortcuts and shifts, which takes most of the time."
    )
    overwrite: Overwrite = False
    quiet: Quiet = False


class Phantom(Document):
    """Settings of `data phantom`."""

    out: Path = Field(description="Folder to make.")
    count: int = Field(default=600, description="Number of films, at least 30; the classes are balanced.")
    seed: int = Field(default=0, ge=0, description="Seed of the drawings.")
    overwrite: Overwrite = False
