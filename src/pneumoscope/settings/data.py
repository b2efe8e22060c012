"""Settings of `pneumoscope data …`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from pneumoscope.documents import Document, Text
from pneumoscope.settings.option import MaxPixels, Overwrite, Quiet, Spelling

FolderLevel: TypeAlias = Literal["innermost", "outermost"]
SplitFolder: TypeAlias = Literal["train", "val", "test", "none"]
Several: TypeAlias = Literal["mapped", "skip", "whole"]


def _parse_groups(given: Any) -> Any:
    """`["g=a,b"]`, as on the command line, → `{"g": ("a", "b")}`; anything else is left to validation."""
    if not isinstance(given, list | tuple):
        return given
    groups = {}
    for option in given:
        name, _, members = str(option).partition("=")
        if not name or not members:
            raise ValueError(f"{option!r} is not of the form NAME=CLASS,CLASS")
        groups[name] = tuple(members.split(","))
    return groups


def _parse_splits(given: Any) -> Any:
    """`["Set A=test"]`, as on the command line, → `{"Set A": "test"}`; anything else is left to validation."""
    if not isinstance(given, list | tuple):
        return given
    splits = {}
    for option in given:
        name, _, split = str(option).rpartition("=")
        if not name or split not in get_args(SplitFolder):
            raise ValueError(f"{option!r} is not of the form NAME=train, =val, =test or =none")
        splits[name] = split
    return splits


def _text_codec(given: str) -> str:
    try:
        "".encode(given)
    except LookupError as failure:
        raise ValueError(f"{given!r} is not one of Python's text codecs, such as gbk, shift_jis or cp437") from failure
    return given


def _names(paths: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(path.name for path in paths)


def _name(path: Path | None) -> str | None:
    return None if path is None else path.name


def _sha256(given: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F]{64}", given) is None:
        raise ValueError("a SHA-256 has 64 hexadecimal digits")
    return given


Codec = Annotated[str, AfterValidator(_text_codec)]


class Fetch(Document):
    """Of `data fetch`."""

    version: int = Field(ge=2, le=3, description="Version of the published archive: 2 or 3.")
    out: Path = Field(description="The folder to fetch into.")
    full: bool = Field(default=False, description="Version 3: fetch the whole 8.4 GB, not the chest films alone.")
    url: str | None = Field(default=None, description="A mirror's address instead of the publisher's.")
    sha256: Annotated[str, AfterValidator(_sha256)] | None = Field(
        default=None, description="SHA-256 of a mirror's file, if it is not the published one."
    )
    quiet: Quiet = False


class PrepareConfig(Document):
    """How `data prepare` reads and cuts; saved in `dataset.json`, files by their names alone."""

    val_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Share of the train films cut as validation, by patient."
    )
    test_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Share cut as test, by patient, if no source has a test part."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the cuts.")
    patient_pattern: str | None = Field(
        default=None, description=r"Regular expression that finds the patient in a path, e.g. 'p(\d+)_'."
    )
    dicom_patients: Annotated[bool, Spelling(names=("--dicom-patients/--ignore-patient-ids",))] = Field(
        default=True, description="Tell patients apart by the Patient IDs of DICOMs."
    )
    class_folder: FolderLevel | None = Field(
        default=None,
        description="Which folder names the class where folders lie in folders: innermost if not ambiguous.",
    )
    split_folders: Annotated[
        dict[Text, SplitFolder], BeforeValidator(_parse_splits), Spelling(names=("--split-folder",), kind=list[str])
    ] = Field(
        default={},
        description='What a folder is, or a value of --split-column, e.g. "Set A=test" or "eval=none". Repeatable.',
    )
    exclude: tuple[Text, ...] = Field(
        default=(), description="Leave out files by a pattern of their path or of a folder, e.g. masks. Repeatable."
    )
    merge_classes: bool = Field(
        default=False, description="Merge classes that differ in case, spaces, _ or - only, such as Normal and NORMAL."
    )
    name_encoding: Codec | None = Field(
        default=None, description="Codec of an archive's names, or of a label file, that is not UTF-8, e.g. gbk."
    )
    labels: Annotated[tuple[Path, ...], Spelling(path="existing file"), PlainSerializer(_names)] = Field(
        default=(),
        description="A table of labels: CSV, TSV, or a published set's text file. Repeatable: tables are joined.",
    )
    label_map: Annotated[Path | None, Spelling(path="existing file"), PlainSerializer(_name)] = Field(
        default=None,
        description="TOML file that says what is in the table: its columns, and the findings of each class.",
    )
    image_column: Text | None = Field(default=None, description="The table's column that names images.")
    label_column: tuple[Text, ...] = Field(
        default=(), description="The column of labels; given several times, columns that each say yes or no to one."
    )
    patient_column: Text | None = Field(default=None, description="The column that names patients.")
    split_column: Text | None = Field(default=None, description="The column of train, validation and test.")
    view_column: Text | None = Field(default=None, description="The column of views; only frontal ones are kept.")
    several: Several | None = Field(
        default=None,
        description="A film with several labels: mapped takes the one class that they are of, skip leaves it out, "
        "whole takes the cell's text as one label.",
    )
    groups: Annotated[
        dict[Text, tuple[Text, ...]] | None,
        BeforeValidator(_parse_groups),
        Spelling(names=("--group",), kind=list[str]),
    ] = Field(default=None, description="Classes reported together, e.g. pneumonia=bacteria,virus. Repeatable.")
    max_pixels: MaxPixels = 100_000_000
    test_only: bool = Field(default=False, description="Make every film a test film, to evaluate a trained model on.")
    train_only: bool = Field(
        default=False, description="Make every film a train film, for a final model; nothing validates."
    )
    drop_duplicates: bool = Field(
        default=False, description="Keep one of the films of a source that have equal pixels."
    )
    keep_conflicts: bool = Field(default=False, description="Keep films whose pixels carry several labels.")
    merge_near: bool = Field(default=False, description="Take nearly identical films of two sources as one film.")
    stress: bool = Field(default=False, description="Also write the stress split: validation, stored and framed anew.")
    strict: bool = Field(default=False, description="Make nothing if any input is refused.")


class Prepare(Document):
    """Of `data prepare`."""

    sources: Annotated[tuple[Path, ...], Spelling(argument=True, path="existing")] = Field(
        description="ZIP or tar archives as downloaded, or folders; with one folder of images per class, or --labels."
    )
    out: Path = Field(description="The data set to make.")
    config: PrepareConfig
    overwrite: Overwrite = False
    quiet: Quiet = False


class Audit(Document):
    """Of `data audit`."""

    subject: Annotated[Path, Spelling(argument=True, metavar="DATASET", path="existing")] = Field(
        description="A prepared data set; or an archive or folder as published."
    )
    out: Path | None = Field(default=None, description="A folder to make, with audit.json and audit.html.")
    form: Annotated[Literal["table", "json"], Spelling(names=("--format",))] = Field(
        default="table", description="What is printed."
    )
    fail_on: Literal["error", "warning", "never"] = Field(
        default="never", description="Exit with 1 if there is a finding of this severity or a graver one."
    )
    name_encoding: Codec | None = Field(default=None, description="Codec of an archive's names that are not UTF-8.")
    shortcuts: bool = Field(default=True, description="Also measure shortcuts and shifts: most of the time.")
    overwrite: Overwrite = False
    quiet: Quiet = False


class Phantom(Document):
    """Of `data phantom`."""

    out: Path = Field(description="The folder to make.")
    count: int = Field(default=600, description="How many films; the classes are balanced.")
    seed: int = Field(default=0, ge=0, description="Selects the population.")
    overwrite: Overwrite = False
