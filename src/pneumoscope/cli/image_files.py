"""Films named on the command line: found, read, and drawn."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pneumoscope import heatmap
from pneumoscope.archive import is_junk, printable
from pneumoscope.cli.show import complain
from pneumoscope.engine import ImageFile, Prediction
from pneumoscope.errors import ImageError, UsageError
from pneumoscope.files import whole_file
from pneumoscope.heatmap import Explained
from pneumoscope.imaging import (
    ACCEPTED,
    DICOM_HEAD,
    DICOM_INDEX,
    SUFFIXES,
    UNREAD_SUFFIXES,
    Limits,
    is_dicom,
    read_file,
)

if TYPE_CHECKING:
    from pneumoscope.explain import Explainer

PICTURE_SUFFIX = ".map.png"
_LONGEST_NAME = 255


class Pictures:
    """A folder of overlays: `DIR/SUB/FILM.jpeg.map.png` for a film `SUB/FILM.jpeg` below a folder that was named.

    Earlier pictures are replaced; films cannot be, for none is named so, and the folder lies outside theirs.
    """

    def __init__(self, folder: Path, inputs: list[Path]) -> None:
        """Choose a folder; nothing is made yet.

        Raises:
            UsageError: it is, or lies in, a folder of films, or cannot be made or written to.
        """
        if not _is_writable(folder):
            raise UsageError(f"pictures cannot go to {folder}: it cannot be made or written to; choose another.")
        self.folder = folder
        self.failed = 0
        self._roots = [path.resolve() for path in inputs]
        self._given: set[Path] = set()
        for root in self._roots:
            if root.is_dir() and folder.resolve().is_relative_to(root):
                raise UsageError(
                    f"pictures cannot go to {folder}: it lies in {root}, whose films are read; choose another."
                )

    def write(self, film: Path, drawn: Explained) -> Path:
        """Draw and write one picture; where it lies."""
        path = self._name(film.resolve())
        with whole_file(path) as partial_file:
            partial_file.write_bytes(heatmap.draw(drawn))
        return path

    def _name(self, film: Path) -> Path:
        root = next((root for root in self._roots if root.is_dir() and film.is_relative_to(root)), film.parent)
        wished = self.folder / film.relative_to(root)
        path, count = wished.with_name(wished.name + PICTURE_SUFFIX), 1
        while path in self._given:
            count += 1
            path = wished.with_name(f"{wished.name}~{count}{PICTURE_SUFFIX}")
        self._given.add(path)
        return path


def _is_writable(folder: Path) -> bool:
    """Whether a folder, or the nearest one above it that is there, can be written to."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        return len(os.fsencode(folder.name)) <= _LONGEST_NAME and there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except (OSError, ValueError):
        return False


def find_films(paths: list[Path]) -> list[str]:
    """The paths of films to read, folders walked once. A folder without any, among others, is reported.

    They are texts, for a million of them may wait, and a `Path` is several times as large.
    """
    found = list[str]()
    for given in paths:
        inside = list(map(str, _walk(given)))
        if not inside and len(paths) > 1:
            complain(f"no image file in {given}.", word="note")
        found += inside
    if not found:
        raise UsageError(f"no image file in {', '.join(map(str, paths))}; accepted are {ACCEPTED}.")
    return found


def encoded(path: str, limits: Limits) -> ImageFile:
    """A film to be read when its turn has come."""
    return ImageFile(name=printable(path), read=partial(read_file, Path(path), limits=limits))


def draw_heatmaps(predictions: Iterable[Prediction], paths: Iterable[str], pictures: Pictures) -> Iterator[Prediction]:
    """Pass predictions on, and write a picture for each that has a map. `paths` are theirs, in order."""
    for prediction, path in zip(predictions, paths, strict=True):
        yield prediction
        try:
            if (drawn := heatmap.of_prediction(prediction)) is not None:
                pictures.write(Path(path), drawn)
        except OSError as failure:
            pictures.failed += 1
            complain(f"no picture of {prediction.image}: {failure}")


def explain_films(explainer: "Explainer", paths: list[Path], pictures: Pictures, label: str | None) -> int:
    """Explain films one by one: a picture and a JSON line each. Returns how many were refused."""
    refused = 0
    for path in find_films(paths):
        film = encoded(path, explainer.limits)
        try:
            found = explainer.explain(film.read(), name=film.name, label=label)
            drawn = heatmap.of_explanation(found.label, found.activation, found.probabilities, found.luma)
            picture = pictures.write(Path(path), drawn)
        except (ImageError, OSError) as failure:
            complain(f"{film.name}: {failure}")
            refused += 1
            continue
        print(json.dumps(found.as_json() | {"picture": printable(str(picture))}, allow_nan=False), flush=True)
    return refused


def _walk(path: Path) -> Iterator[Path]:
    """A file as given; of a folder, in name order, the files that are named like images, accepted or not, and DICOMs.

    A folder that cannot be read is passed on itself, to be reported as any film that cannot.
    """
    if not path.is_dir():
        yield path
        return
    closed: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=closed.append):
        folders.sort()
        yield from (Path(folder, file) for file in sorted(files) if _is_film(Path(folder, file)))
    yield from (Path(str(failure.filename)) for failure in closed)


def _is_film(path: Path) -> bool:
    """By its suffix; files from a hospital's archive often have none, or the end of a number, and are DICOMs inside."""
    if is_junk(path.name) or path.name.endswith(PICTURE_SUFFIX) or path.name.upper() == DICOM_INDEX:
        return False
    if path.suffix.lower() in SUFFIXES | UNREAD_SUFFIXES:
        return True
    with suppress(OSError):
        if path.is_file():  # reading a pipe would wait
            with path.open("rb") as stream:
                return is_dicom(stream.read(DICOM_HEAD))
    return False
