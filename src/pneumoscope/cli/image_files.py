"""Image files given on the command line: finding, reading and explaining them."""

import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pneumoscope import heatmap
from pneumoscope.archive import printable
from pneumoscope.cli.show import print_problem
from pneumoscope.engine import ImageFile, Prediction
from pneumoscope.engine.film_files import PICTURE_SUFFIX, is_film_file
from pneumoscope.errors import ImageError, UsageError
from pneumoscope.files import whole_file
from pneumoscope.heatmap import HeatmapContent
from pneumoscope.imaging import ACCEPTED, Limits, read_file

if TYPE_CHECKING:
    from pneumoscope.explain import Explainer

_LONGEST_NAME = 255  # bytes, on most file systems


class Pictures:
    """A folder of heat maps: `DIR/SUB/FILM.jpeg.map.png` for an image file `SUB/FILM.jpeg` below a given folder.

    Earlier heat maps are replaced. Image files cannot be replaced: the suffix is reserved, and the folder must be
    outside the folders that are read.
    """

    def __init__(self, folder: Path, inputs: list[Path]) -> None:
        """Check the folder; it is made with the first picture.

        Raises:
            UsageError: it is one of the `inputs` or inside one, or cannot be made or written to.
        """
        if not _is_writable(folder):
            raise UsageError(f"pictures cannot go to {folder}: it cannot be made or written to; choose another.")
        self.folder = folder
        self.failed = 0
        self._roots = [path.resolve() for path in inputs]
        self._taken: set[Path] = set()  # two inputs may have the same name below their folders
        for root in self._roots:
            if root.is_dir() and folder.resolve().is_relative_to(root):
                raise UsageError(
                    f"pictures cannot go to {folder}: it is in {root}, whose films are read; choose another."
                )

    def write(self, film: Path, drawn: HeatmapContent) -> Path:
        """Draw and write one picture; return its path."""
        path = self._name(film.resolve())
        with whole_file(path) as partial_file:
            partial_file.write_bytes(heatmap.draw(drawn))
        return path

    def _name(self, film: Path) -> Path:
        root = next((root for root in self._roots if root.is_dir() and film.is_relative_to(root)), film.parent)
        place = self.folder / film.relative_to(root)
        path, count = place.with_name(place.name + PICTURE_SUFFIX), 1
        while path in self._taken:
            count += 1
            path = place.with_name(f"{place.name}~{count}{PICTURE_SUFFIX}")
        self._taken.add(path)
        return path


def _is_writable(folder: Path) -> bool:
    """Whether a folder, or the nearest existing one above it, can be written to."""
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        return (
            len(os.fsencode(folder.name)) <= _LONGEST_NAME
            and nearest.is_dir()
            and os.access(nearest, os.W_OK | os.X_OK)
        )
    except (OSError, ValueError):
        return False


def find_image_files(paths: list[Path]) -> list[str]:
    """The paths of the image files to read, also in folders. Of several folders, those without any are reported.

    Paths are returned as text: there may be a million of them, and a `Path` takes several times the memory.

    Raises:
        UsageError: there is no image file.
    """
    found = list[str]()
    for path in paths:
        inside = list(map(str, _walk(path)))
        if not inside and len(paths) > 1:
            print_problem(f"no image file in {path}.", level="note")
        found += inside
    if not found:
        raise UsageError(f"no image file in {', '.join(map(str, paths))}; accepted are {ACCEPTED}.")
    return found


def lazy_image_file(path: str, limits: Limits) -> ImageFile:
    """An image file whose bytes are read when they are needed."""
    return ImageFile(name=printable(path), read=partial(read_file, Path(path), limits=limits))


def draw_heatmaps(predictions: Iterable[Prediction], paths: Iterable[str], pictures: Pictures) -> Iterator[Prediction]:
    """Yield the predictions, writing a heat map for each that has one. `paths` are their image files, in order."""
    for prediction, path in zip(predictions, paths, strict=True):
        yield prediction
        try:
            if (drawn := heatmap.content_of_prediction(prediction)) is not None:
                pictures.write(Path(path), drawn)
        except OSError as failure:  # the prediction counts more than its picture
            pictures.failed += 1
            print_problem(f"no picture of {prediction.image}: {failure}")


def explain_films(explainer: "Explainer", paths: list[Path], pictures: Pictures, label: str | None) -> int:
    """Explain films one by one: a picture and a JSON line each. Return how many have none, for any reason."""
    refused = 0
    for path in find_image_files(paths):
        film = lazy_image_file(path, explainer.limits)
        try:
            found = explainer.explain(film.read(), name=film.name, label=label)
            drawn = heatmap.content_of_explanation(found.label, found.activation, found.probabilities, found.luma)
            picture = pictures.write(Path(path), drawn)
        except (ImageError, OSError) as failure:
            print_problem(f"{film.name}: {failure}")
            refused += 1
            continue
        print(json.dumps(found.as_json() | {"picture": printable(str(picture))}, allow_nan=False), flush=True)
    return refused


def _walk(path: Path) -> Iterator[Path]:
    """A given file; or, in name order, a folder's files that have an image's suffix (accepted or not) or are DICOMs.

    A folder that cannot be read is yielded itself, so that it is reported like an unreadable file.
    """
    if not path.is_dir():
        yield path
        return
    unreadable: list[OSError] = []
    # os.walk and not Path.rglob, which passes over folders that it cannot read.
    for folder, folders, files in os.walk(path, onerror=unreadable.append):
        folders.sort()  # in place: this is the order in which os.walk goes on
        yield from (Path(folder, file) for file in sorted(files) if is_film_file(Path(folder, file)))
    yield from (Path(str(failure.filename)) for failure in unreadable)
