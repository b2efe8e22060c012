"""Films that are unlike the others: stored differently, rotated, inverted, mostly blank, tiny or huge."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pneumoscope.audit.document import Oddity
from pneumoscope.audit.reading import ExaminedFilm
from pneumoscope.metrics import Floats

_TINY, _HUGE = 200, 5000  # pixels, of the shorter and the longer side
_ASPECT = 2.2
_BLANK, _BLANK_KIND = 0.7, "mostly blank"  # share of the film in one band of brightness
_PLAIN_BITS = (1, 8)
_USUAL = 0.9  # what at least this share of films has (a colour mode, a depth above 8 bits) is usual; all else is odd
_LEAST_FILMS = 30  # with fewer, the mean film means little
# Correlations with the mean film, measured on 1,744 films of the official train part. None of them fits better upside
# down by more than 0.06, or after a quarter turn at all. Rotated films fit better by a median of 0.18 (upside down) and
# 1.06 (quarter turn). Negatives correlate below -0.3.
_FITS, _INVERTED = 0.3, -0.3
_TURNED_BY = {1: 0.25, 2: 0.12, 3: 0.25}
_TURNS = {1: "rotated by a quarter turn to the left", 2: "upside down", 3: "rotated by a quarter turn to the right"}


def oddities(films: Sequence[ExaminedFilm]) -> list[Oddity]:
    """The oddities of all films: by the header, by the pixels, and by comparison with the mean film."""
    found = [odd for film in films for odd in _by_file(film)] + list(_other_modes(films)) + list(_other_depths(films))
    if len(films) >= _LEAST_FILMS:
        thumbs = np.stack([film.measures.thumb for film in films])
        blank = {odd.film for odd in found if odd.kind == _BLANK_KIND}
        for film, what in zip(films, _against_mean(thumbs), strict=True):
            if what is not None and film.claim.name not in blank:
                found.append(Oddity(film=film.claim.name, kind=what[0], what=what[1]))
    return found


def _by_file(film: ExaminedFilm) -> Iterator[Oddity]:
    facts, name = film.facts, film.claim.name
    if facts.orientation != 1:
        yield Oddity(
            film=name, kind="turned by its tag", what=f"EXIF orientation {facts.orientation}; it is read upright"
        )
    if min(facts.width, facts.height) < _TINY:
        yield Oddity(film=name, kind="tiny", what=f"{facts.width}×{facts.height} pixels")
    if max(facts.width, facts.height) > _HUGE:
        yield Oddity(film=name, kind="huge", what=f"{facts.width}×{facts.height} pixels")
    if not 1 / _ASPECT < facts.width / facts.height < _ASPECT:
        yield Oddity(film=name, kind="aspect", what=f"{facts.width}×{facts.height} pixels")
    share = _flattest_share(film.measures.thumb)
    if share > _BLANK:
        yield Oddity(film=name, kind=_BLANK_KIND, what=f"{100 * share:.0f} % of the film is within 8 grey levels")


def _other_modes(films: Sequence[ExaminedFilm]) -> Iterator[Oddity]:
    """Films of another colour mode than nearly all others; depths besides 1 and 8 bits are left to `_other_depths`."""
    modes = Counter(film.facts.mode for film in films)
    usual, count = modes.most_common(1)[0] if modes else ("", 0)
    for film in films if count >= _USUAL * len(films) else ():
        if film.facts.mode != usual and film.facts.bits in _PLAIN_BITS:
            yield Oddity(
                film=film.claim.name, kind="colour mode", what=f"{film.facts.mode}; nearly all others are {usual}"
            )


def _other_depths(films: Sequence[ExaminedFilm]) -> Iterator[Oddity]:
    """Films of another depth than 1 or 8 bits, unless nearly all are such films."""
    deep = [film for film in films if film.facts.bits not in _PLAIN_BITS]
    for film in deep if len(deep) < _USUAL * len(films) else ():
        yield Oddity(film=film.claim.name, kind="bit depth", what=f"{film.facts.bits} bits per sample")


def _flattest_share(thumb: NDArray[np.uint8]) -> float:
    """The largest share of a thumbnail's pixels within a band of 8 grey levels."""
    histogram = np.bincount(thumb.ravel(), minlength=256)
    return float(np.convolve(histogram, np.ones(8, np.int64), "valid").max() / thumb.size)


def _against_mean(thumbs: NDArray[np.uint8]) -> Iterator[tuple[str, str] | None]:
    """For each film (`uint8 [N, 16, 16]`): kind and description, if it fits the mean film only rotated or inverted.

    The "mean film" here is the median of the standardised thumbnails, so that odd films hardly change it.
    """
    flat = _standardised(thumbs)
    typical = np.median(flat, axis=0)
    typical = (typical - typical.mean()) / (np.linalg.norm(typical - typical.mean()) or 1.0)
    upright = flat @ typical
    side = thumbs.shape[1]
    turned = np.stack([flat @ np.rot90(typical.reshape(side, side), turn).ravel() for turn in range(4)], axis=1)
    best = turned[:, 1:].argmax(axis=1) + 1
    for at, fit in enumerate(upright):
        turn = int(best[at])
        if turned[at, turn] > _FITS and turned[at, turn] - fit > _TURNED_BY[turn]:
            yield "turned", f"looks {_TURNS[turn]}"
        elif fit < _INVERTED:
            yield "inverted", "looks like a negative: dark where the others are bright"
        else:
            yield None


def _standardised(thumbs: NDArray[np.uint8]) -> Floats:
    """Rows of zero mean and unit length."""
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    return flat
