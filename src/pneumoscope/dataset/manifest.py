"""A prepared data set on disk: `manifest.csv`, `dataset.json` and `{train,val,test,stress}/{class}/…`."""

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pneumoscope.contract import check_classes
from pneumoscope.documents import Document, Text, read_document
from pneumoscope.errors import DatasetError
from pneumoscope.imaging import Limits
from pneumoscope.settings.data import PrepareConfig

MANIFEST_FILE = "manifest.csv"
CARD_FILE = "dataset.json"
SPLITS = ("train", "val", "test")
STRESS = "stress"
SOURCE_SEPARATOR = " | "


@dataclass(frozen=True, kw_only=True)
class Record:
    """One film of a data set, as a row of the manifest. Width and height are as stored in the file, in pixels.

    `source` is `SOURCE:MEMBER`, several joined by ` | ` if several sources have the film. `luma_sha256` is the hash of
    the upright decoded luma and its shape, `phash` the perceptual hash of `likeness`. `mode` is Pillow's.
    """

    path: str
    label: str
    split: str
    patient: str
    source: str
    file_sha256: str
    luma_sha256: str
    phash: str
    width: int
    height: int
    bytes: int
    mode: str


class RefusedFile(Document):
    """A file of a source that is not in the data set, and the reason."""

    source: Text
    name: Text
    reason: Text


class DuplicateFilms(Document):
    """Films of equal pixels, by their names in the sources."""

    films: tuple[Text, ...] = Field(min_length=2)


class NearFilms(Document):
    """Two nearly identical films, by their names in the sources.

    `distance` is the number of bits, of 256, in which their perceptual hashes differ. `merged`: they became one film.
    """

    films: tuple[Text, Text]
    labels: tuple[Text, Text]
    distance: int
    merged: bool


# Settings that were added to schema version 2 later: older files lack them.
_LATER_SETTINGS = (
    *("split_folders", "exclude", "merge_classes", "name_encoding", "labels", "label_map", "several"),
    *("image_column", "label_column", "patient_column", "split_column", "view_column"),
)


def _with_later_settings(config: Any) -> Any:
    """A stored configuration, completed by the defaults of settings that it lacks."""
    if not isinstance(config, dict):
        return config
    settings = PrepareConfig.model_fields
    return {name: settings[name].get_default() for name in _LATER_SETTINGS} | config


class DatasetCard(Document):
    """`dataset.json`: facts about the whole data set, besides the manifest's rows."""

    schema_version: Literal[2]
    classes: tuple[Text, ...] = Field(min_length=2)
    groups: dict[Text, tuple[Text, ...]]
    sources: tuple[Text, ...]
    config: Annotated[PrepareConfig, BeforeValidator(_with_later_settings)]
    refused: tuple[RefusedFile, ...]
    duplicates: tuple[DuplicateFilms, ...]
    near_duplicates: tuple[NearFilms, ...]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A prepared data set. `fingerprint` is the SHA-256 of its manifest."""

    root: Path
    classes: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    films: tuple[Record, ...]
    fingerprint: str
    limits: Limits

    def has(self, name: str) -> bool:
        """Whether the data set has films of this split."""
        return any(film.split == name for film in self.films)

    def split(self, name: str) -> list[Record]:
        """The films of one split, in manifest order.

        Raises:
            DatasetError: the split has no films.
        """
        films = [film for film in self.films if film.split == name]
        if not films:
            splits = sorted({film.split for film in self.films})
            raise DatasetError(f"{self.root} has no split {name!r}; it has: {', '.join(splits)}.")
        return films

    def read(self, film: Record) -> bytes:
        """The bytes of a film's file.

        Raises:
            DatasetError: the file is missing, or has changed since the manifest was written.
        """
        path = self.root / film.path
        try:
            data = path.read_bytes()
        except OSError as failure:
            raise DatasetError(f"{path} cannot be read ({failure.strerror}); prepare the data set again.") from failure
        # Checked at every read, so that a file that changed after `data prepare` is not trained on or evaluated.
        if hashlib.sha256(data).hexdigest() != film.file_sha256:
            raise DatasetError(
                f"{path} has changed since `data prepare` (its SHA-256 is not the manifest's); "
                "prepare the data set again."
            )
        return data


def format_manifest(films: Iterable[Record]) -> str:
    """The manifest as CSV text, rows in path order, lines ended by a newline."""
    # Order and line ends are fixed, so that equal data sets have equal fingerprints on any system.
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(Record)])
    writer.writerows(astuple(film) for film in sorted(films, key=lambda film: film.path))
    return stream.getvalue()


def parse_manifest(text: str) -> list[Record]:
    """Films of a manifest's CSV text.

    Raises:
        ValueError: the columns or a value are not as `format_manifest` writes them.
        csv.Error: the text is not CSV.
    """
    reader = csv.reader(io.StringIO(text))
    names = [field.name for field in fields(Record)]
    if (header := next(reader, [])) != names:
        raise ValueError(f"its first line ({len(header)} values) is not the header {','.join(names)}")
    return [_parse_row(names, row) for row in reader]


def load_dataset(root: Path) -> Dataset:
    """Load a prepared data set.

    Raises:
        DatasetError: it is not a prepared data set, or is a damaged one.
    """
    manifest, card_path = root / MANIFEST_FILE, root / CARD_FILE
    if not manifest.is_file() or not card_path.is_file():
        raise DatasetError(
            f"{root} is not a prepared data set: it has no {MANIFEST_FILE} or no {CARD_FILE}; "
            "make one with `data prepare`."
        )
    # Read once: the fingerprint must be that of the rows that are parsed.
    content = manifest.read_bytes()
    try:
        card = read_document(DatasetCard, card_path.read_bytes())
        check_classes(card.classes, card.groups)
    except ValueError as failure:
        raise DatasetError(f"{card_path}: {failure}; prepare the data set again.") from failure
    try:
        films = tuple(parse_manifest(content.decode("utf-8")))
    except (ValueError, csv.Error) as failure:
        raise DatasetError(f"{manifest}: {failure}; prepare the data set again.") from failure
    return Dataset(
        root=root,
        classes=card.classes,
        groups=card.groups,
        films=films,
        fingerprint=hashlib.sha256(content).hexdigest(),
        limits=Limits(max_pixels=card.config.max_pixels),
    )


def _parse_row(names: list[str], row: list[str]) -> Record:
    if len(row) != len(names):
        raise ValueError(f"a row has {len(row)} values; expected {len(names)}")
    values: dict[str, Any] = dict(zip(names, row, strict=True))
    for number in ("width", "height", "bytes"):
        values[number] = int(values[number])
    return Record(**values)
