"""Subgroups of films: by size and brightness, by how they are stored, and by the manifest's other columns."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from pneumoscope.dataset import Record
from pneumoscope.dataset.manifest import SOURCE_SEPARATOR
from pneumoscope.report.document import Subgroup
from pneumoscope.report.figures import key_figures
from pneumoscope.report.scoring import SplitResults, select_films

#: With fewer films or patients, intervals are too wide to be of use.
LEAST_FILMS, LEAST_PATIENTS = 20, 5
_MOST_VALUES = 12
#: Columns of the manifest that identify a film, or that the report covers elsewhere.
_EXCLUDED_COLUMNS = {"path", "label", "split", "patient", "file_sha256", "luma_sha256", "phash"}
_PARTS = 3


def subgroups(results: SplitResults) -> tuple[Subgroup, ...]:
    """Figures of every part with enough films and patients, if a property has two to `_MOST_VALUES` such parts."""
    found = []
    for quantity, names, values in _properties(results):
        parts = [(name, values == name) for name in names]
        enough = [(name, rows) for name, rows in parts if _is_enough(results, rows)]
        if 2 <= len(enough) <= _MOST_VALUES:
            found += [_subgroup(results, quantity, name, rows) for name, rows in enough]
    return tuple(found)


def _properties(results: SplitResults) -> Iterator[tuple[str, list[str], NDArray[np.str_]]]:
    """Every property: its name, its values in the order of the report, and the value of each film, `str [N]`."""
    films = results.films
    yield "short side, px", *_thirds([min(film.width, film.height) for film in films], digits=0)
    yield "mean brightness of the input, 0 to 1", *_thirds(results.brightness.tolist(), digits=2)
    yield "encoding", *_named([f"{PurePosixPath(film.path).suffix.lower()[1:]}, {film.mode}" for film in films])
    yield "bytes per pixel", *_thirds([film.bytes / (film.width * film.height) for film in films], digits=3)
    for column in fields(Record):
        if column.name in _EXCLUDED_COLUMNS:
            continue
        values = [getattr(film, column.name) for film in films]
        if column.name == "source":
            values = [_archive(value) for value in values]
        numbers = all(isinstance(value, int) for value in values)
        yield f"manifest: {column.name}", *(_thirds(values, digits=0) if numbers else _named(values))


def _named(values: Sequence[str]) -> tuple[list[str], NDArray[np.str_]]:
    return sorted(set(values)), np.array(values, str)


def _archive(source: str) -> str:
    """The archives or folders that a film came from, without the names of their members."""
    return SOURCE_SEPARATOR.join(part.partition(":")[0] for part in source.split(SOURCE_SEPARATOR))


def _thirds(values: Sequence[float], *, digits: int) -> tuple[list[str], NDArray[np.str_]]:
    """The names of the thirds of the films, by range, and the name for each film; one name if all values are equal."""
    numbers = np.array(values, np.float64)
    # "lower" takes values that occur as edges, so films of equal value are in the same part.
    edges = np.unique(np.nanquantile(numbers, np.arange(1, _PARTS) / _PARTS, method="lower"))
    edges = edges[edges < np.nanmax(numbers)]
    names = [f"up to {edge:,.{digits}f}" for edge in edges[:1]]
    names += [f"over {low:,.{digits}f} to {high:,.{digits}f}" for low, high in pairwise(edges)]
    names += [f"over {edge:,.{digits}f}" for edge in edges[-1:]]
    names = names or ["all"]
    return names, np.array(names)[np.searchsorted(edges, numbers)]


def _is_enough(results: SplitResults, rows: NDArray[np.bool_]) -> bool:
    patients = {results.patients[each] for each in np.flatnonzero(rows).tolist()}
    return int(rows.sum()) >= LEAST_FILMS and len(patients) >= LEAST_PATIENTS


def _subgroup(results: SplitResults, quantity: str, value: str, rows: NDArray[np.bool_]) -> Subgroup:
    part = select_films(results, rows)
    return Subgroup(
        quantity=quantity,
        value=value,
        films=len(part.truth),
        patients=len(set(part.patients)),
        figures=key_figures(part),
    )
