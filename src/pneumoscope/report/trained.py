"""Which films a bundle was trained on, and whether a split holds any of them: `films.npz`.

============  ======================================================================================
`pixels`      first 8 bytes of each train film's `luma_sha256`, `uint8 [N, 8]`
`likeness`    the train films' perceptual hashes (`phash` of the manifest), `uint8 [N, 32]`
============  ======================================================================================

Hashes only: no film, name or patient can be had from them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pneumoscope.arrays import Kind, read_arrays, write_arrays
from pneumoscope.contract import Contract
from pneumoscope.dataset import Record
from pneumoscope.dataset.likeness import NEAR_DISTANCE
from pneumoscope.errors import BundleError, UsageError

FILMS_FILE = "films.npz"
_PIXELS, _LIKENESS = 8, 32  # bytes
_KINDS: dict[str, Kind] = {"pixels": (np.uint8, ("N", _PIXELS)), "likeness": (np.uint8, ("N", _LIKENESS))}
_AT_ONCE = 256  # films compared with all train films at a time: a few megabytes
_EXAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Films of a split that were trained on, by their paths: of equal pixels, and nearly the same."""

    same: tuple[str, ...]
    near: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.same or self.near)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedFilms:
    """Hashes of the films that a model was trained on; see the module's text."""

    pixels: NDArray[np.uint8]
    likeness: NDArray[np.uint8]

    @classmethod
    def of(cls, films: Iterable[Record]) -> Self:
        """Those of films of a manifest."""
        pairs = [(bytes.fromhex(film.luma_sha256)[:_PIXELS], bytes.fromhex(film.phash)) for film in films]
        return cls(
            pixels=np.frombuffer(b"".join(pair[0] for pair in pairs), np.uint8).reshape(-1, _PIXELS),
            likeness=np.frombuffer(b"".join(pair[1] for pair in pairs), np.uint8).reshape(-1, _LIKENESS),
        )

    def overlap(self, films: Sequence[Record], *, near: bool = True) -> Overlap:
        """Which of these films are among them.

        Args:
            films: of a split.
            near: count films of other pixels whose perceptual hashes differ in at most `NEAR_DISTANCE` bits, such as
                the full-size original of a film that was trained on at a smaller size.
        """
        if not len(self.pixels) or not films:
            return Overlap(same=(), near=())
        asked, known = TrainedFilms.of(films), set(map(bytes, self.pixels))
        same = np.array([bytes(row) in known for row in asked.pixels])
        alike = np.zeros(len(films), bool)
        if near:
            words = self.likeness.view(np.uint64)
            for start in range(0, len(films), _AT_ONCE):
                part = asked.likeness[start : start + _AT_ONCE].view(np.uint64)
                differing = np.zeros((len(part), len(words)), np.uint16)
                for word in range(words.shape[1]):
                    differing += np.bitwise_count(part[:, word, np.newaxis] ^ words[np.newaxis, :, word])
                alike[start : start + len(part)] = (differing <= NEAR_DISTANCE).any(axis=1)
        return Overlap(
            same=tuple(films[each].path for each in np.flatnonzero(same).tolist()),
            near=tuple(films[each].path for each in np.flatnonzero(alike & ~same).tolist()),
        )


def save_trained(films: TrainedFilms, folder: Path) -> None:
    """Write `films.npz` into a bundle's folder."""
    write_arrays(folder / FILMS_FILE, vars(films))


def load_trained(bundle: Path, contract: Contract) -> TrainedFilms | None:
    """The train films of a bundle; None if its contract names no such file, as of bundles made before there was one.

    Raises:
        BundleError: the file is damaged.
    """
    if FILMS_FILE not in contract.files:
        return None
    try:
        found = read_arrays(bundle / FILMS_FILE, _KINDS)
    except ValueError as failure:
        raise BundleError(f"{bundle / FILMS_FILE} is damaged: {failure}; export the bundle again.") from failure
    return TrainedFilms(**found)


def refuse_trained(overlap: Overlap, total: int, what: str, name: str) -> None:
    """Refuse films of which some were trained on.

    Args:
        overlap: these.
        total: how many films there are.
        what: the films in words, such as `split 'test' of DATASET`.
        name: of the model.

    Raises:
        UsageError: there are any; the message has counts and two examples.
    """
    if not overlap:
        return
    found = (*overlap.same, *overlap.near)
    examples = " and ".join(found[:_EXAMPLES])
    raise UsageError(
        f"{name} was trained on {len(found)} of the {total} films of {what} ({len(overlap.same)} with equal pixels, "
        f"{len(overlap.near)} nearly the same), such as {examples}; figures of them would say nothing. "
        "Evaluate on films that it has not seen."
    )
