"""Films named on the command line: found, read, and drawn."""

import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pneumoscope import heatmap
from pneumoscope.archive import is_junk, printable
from pneumoscope.cli.show import complain
from pneumoscope.engine import Encoded, Prediction
from pneumoscope.errors import ImageError
from pneumoscope.files import whole_file
from pneumoscope.imaging import SUFFIXES, UNREAD_SUFFIXES, Limits, read_file, read_luma

if TYPE_CHECKING:
    from pneumoscope.explain import Explainer


def list_films(paths: list[Path], limits: Limits) -> Iterator[Encoded]:
    """The films to read, one by one."""
    for path in _walk(paths):
        yield Encoded(name=printable(str(path)), read=partial(read_file, path, limits=limits))


def count_films(paths: list[Path]) -> int:
    """How many films `list_films` will give."""
    return sum(1 for _ in _walk(paths))


def write_heatmaps(
    predictions: Iterable[Prediction], films: Iterable[Encoded], folder: Path, limits: Limits
) -> Iterator[Prediction]:
    """Write a picture for every prediction that has a map, and pass it on. `films` are theirs, in order."""
    names = _Names()
    for prediction, film in zip(predictions, films, strict=False):
        if prediction.status != "rejected":
            luma = read_luma(film.read(), target=heatmap.LONGEST_SIDE, limits=limits)
            drawn = heatmap.of_prediction(prediction, luma)
            if drawn is not None:
                _write(folder / names.next(film.name), heatmap.draw(drawn))
        yield prediction


def explain_films(
    explainer: "Explainer", paths: list[Path], out: Path, label: str | None, limits: Limits
) -> tuple[int, int]:
    """Explain films one by one: a picture and a JSON line each. Returns how many were done and refused."""
    names, done, refused = _Names(), 0, 0
    for film in list_films(paths, limits):
        try:
            data = film.read()
            found = explainer.explain(data, name=film.name, label=label)
            luma = read_luma(data, target=heatmap.LONGEST_SIDE, limits=limits)
        except (ImageError, OSError) as failure:
            complain(f"{film.name}: {failure}")
            refused += 1
            continue
        drawn = heatmap.of_explanation(found.label, found.activation, found.probabilities, luma)
        picture = out / names.next(film.name)
        _write(picture, heatmap.draw(drawn))
        print(json.dumps(found.as_json() | {"picture": str(picture)}, allow_nan=False), flush=True)
        done += 1
    return done, refused


class _Names:
    """Names of pictures, each once in a folder."""

    def __init__(self) -> None:
        self.used: dict[str, int] = {}

    def next(self, film: str) -> str:
        """`STEM.png`, or `STEM~2.png` when that was given before."""
        stem = Path(film).stem
        count = self.used[stem.lower()] = self.used.get(stem.lower(), 0) + 1
        return f"{stem}.png" if count == 1 else f"{stem}~{count}.png"


def _write(path: Path, data: bytes) -> None:
    with whole_file(path) as partial_file:
        partial_file.write_bytes(data)


def _walk(paths: list[Path]) -> Iterator[Path]:
    """Files as given; of folders, the files that are named like images, accepted or not, in name order.

    A folder that cannot be read is passed on itself, to be reported as any film that cannot.
    """
    suffixes = SUFFIXES | UNREAD_SUFFIXES
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        closed: list[OSError] = []
        for folder, folders, files in os.walk(path, onerror=closed.append):
            folders.sort()
            named = (file for file in sorted(files) if Path(file).suffix.lower() in suffixes and not is_junk(file))
            yield from (Path(folder, file) for file in named)
        yield from (Path(str(failure.filename)) for failure in closed)
