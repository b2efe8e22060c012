"""Which file a row of a table names."""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from pneumoscope.dataset.labels import Labelling, TableFilm
from pneumoscope.errors import UsageError
from pneumoscope.imaging import SUFFIXES, UNREAD_SUFFIXES

_SUFFIXES = SUFFIXES | UNREAD_SUFFIXES

Key: TypeAlias = tuple[str, ...]


def match_files(labelling: Labelling, sources: Sequence[Sequence[str]]) -> list[list[TableFilm | None]]:
    """The table's film of each file of each source; None where no row names it.

    A row names a file by its name without suffix, and by as many of the last folders as make all images different.

    Raises:
        UsageError: no row names any file, or one row several files.
    """
    images = [film.image for film in labelling.films]
    keys, depth, suffixes = _distinct_keys(images)
    rows = dict(zip(keys, labelling.films, strict=True))
    found: defaultdict[Key, list[tuple[int, int, Key]]] = defaultdict(list)
    for number, names in enumerate(sources):
        for at, name in enumerate(names):
            parts = _parts(name, suffixes=suffixes)
            if (key := parts[-depth:]) in rows:
                found[key].append((number, at, parts))
    if not found:
        example = next((name for names in sources for name in names), None)
        file = f", and the files are called like {example!r}" if example else ""
        raise UsageError(f"no file is named in the label files: they name images like {images[0]!r}{file}.")
    matched: list[list[TableFilm | None]] = [[None] * len(names) for names in sources]
    double = []
    for key, places in found.items():
        film = rows[key]
        whole = _parts(film.image, suffixes=suffixes)
        lengths = [_common(parts, whole) for _, _, parts in places]
        best = [each for each, length in zip(places, lengths, strict=True) if length == max(lengths)]
        double += [best] if len(best) > 1 else []
        number, at, _ = best[0]
        matched[number][at] = film
    if double:
        one, other = (sources[number][at] for number, at, _ in double[0][:2])
        raise UsageError(
            f"{len(double):,} images of the label files may be any of several files, such as {one!r} and {other!r}; "
            "leave out those that are not meant by --exclude."
        )
    return matched


@lru_cache(maxsize=200_000)
def _folded_part(part: str) -> str:
    return unicodedata.normalize("NFC", part).casefold()


def _parts(path: str, *, suffixes: bool) -> Key:
    """A path's folders and its file's name, with or without its suffix, as they are compared."""
    *folders, file = path.split("/")
    stem, dot, suffix = file.rpartition(".")
    if dot and not suffixes and f".{suffix.lower()}" in _SUFFIXES:
        file = stem
    return (*map(_folded_part, folders), unicodedata.normalize("NFC", file).casefold())


def _distinct_keys(images: Sequence[str]) -> tuple[list[Key], int, bool]:
    """Keys that are different for all images, of the fewest last parts of their paths: how many, and with suffixes?

    Raises:
        UsageError: there are none.
    """
    for suffixes in (False, True):
        parts = [_parts(image, suffixes=suffixes) for image in images]
        for depth in range(1, max(map(len, parts)) + 1):
            keys = [each[-depth:] for each in parts]
            if len(set(keys)) == len(keys):
                return keys, depth, suffixes
    raise UsageError("the label files name different images by names that differ in case only; rename the images.")


def _common(one: Key, other: Key) -> int:
    """How many of the last parts of two paths are equal."""
    count = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        count += 1
    return count
