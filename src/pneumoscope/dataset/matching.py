"""Matching of a table's rows to the files that they name."""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from pneumoscope.dataset.labels import Labelling, TableFilm
from pneumoscope.errors import UsageError
from pneumoscope.imaging import SUFFIXES, UNSUPPORTED_SUFFIXES

_SUFFIXES = SUFFIXES | UNSUPPORTED_SUFFIXES

Key: TypeAlias = tuple[str, ...]


def match_files(labelling: Labelling, sources: Sequence[Sequence[str]]) -> list[list[TableFilm | None]]:
    """The table's film for each file of each source, or None if no row names the file.

    A row names a file by the file's name, and by as many of the last folders as are needed to distinguish all images of
    the table. Suffixes of images are ignored, unless only they distinguish two images.

    Raises:
        UsageError: the rows name none of the files, one row fits several files equally well, or different images have
            names that differ in case only.
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
        file = f", and files have names like {example!r}" if example else ""
        raise UsageError(
            f"the label files name none of the files of the sources: they name images like {images[0]!r}{file}."
        )
    matched: list[list[TableFilm | None]] = [[None] * len(names) for names in sources]
    double = []
    for key, places in found.items():
        film = rows[key]
        whole = _parts(film.image, suffixes=suffixes)
        # If several files have the key, the one that shares the most folders with the row is meant.
        lengths = [_common(parts, whole) for _, _, parts in places]
        best = [each for each, length in zip(places, lengths, strict=True) if length == max(lengths)]
        double += [best] if len(best) > 1 else []
        number, at, _ = best[0]
        matched[number][at] = film
    if double:
        one, other = (sources[number][at] for number, at, _ in double[0][:2])
        raise UsageError(
            f"{len(double):,} images of the label files fit several files each, such as {one!r} and {other!r}; "
            "leave out the wrong ones with --exclude."
        )
    return matched


@lru_cache(maxsize=200_000)
def _folded_part(part: str) -> str:
    return unicodedata.normalize("NFC", part).casefold()


def _parts(path: str, *, suffixes: bool) -> Key:
    """A path's folders and file name as they are compared; the suffix of an image is kept only if `suffixes`."""
    *folders, file = path.split("/")
    stem, dot, suffix = file.rpartition(".")
    if dot and not suffixes and f".{suffix.lower()}" in _SUFFIXES:
        file = stem
    return (*map(_folded_part, folders), unicodedata.normalize("NFC", file).casefold())


def _distinct_keys(images: Sequence[str]) -> tuple[list[Key], int, bool]:
    """Keys that distinguish all images, of as few last parts of their paths as possible.

    Returns:
        The key of each image, the number of parts, and whether suffixes are kept.

    Raises:
        UsageError: images differ in case only.
    """
    for suffixes in (False, True):
        parts = [_parts(image, suffixes=suffixes) for image in images]
        for depth in range(1, max(map(len, parts)) + 1):
            keys = [each[-depth:] for each in parts]
            if len(set(keys)) == len(keys):
                return keys, depth, suffixes
    raise UsageError("the label files name different images by names that differ in case only; rename the images.")


def _common(one: Key, other: Key) -> int:
    """The number of equal parts at the end of two paths."""
    count = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        count += 1
    return count
