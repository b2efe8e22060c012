"""The films that a bundle was trained on (`films.npz`), and whether a split contains any of them.

============  ======================================================================================
`pixels`      first 8 bytes of each train film's `luma_sha256`, `uint8 [N, 8]`
`likeness`    the train films' perceptual hashes (`phash` of the manifest), `uint8 [N, 32]`
============  ======================================================================================

The file has hashes only: films, names and patients cannot be recovered from them.
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
    """Films of a split that were trained on, by path: with equal pixels, and near duplicates."""

    same: tuple[str, ...]
    near: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.same or self.near)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedFilms:
    """Hashes of the films that a model was trained on; see the module's docstring."""

    pixels: NDArray[np.uint8]
    likeness: NDArray[np.uint8]

    @classmethod
    def of(cls, films: Iterable[Record]) -> Self:
        """The hashes of films of a manifest."""
        pairs = [(bytes.fromhex(film.luma_sha256)[:_PIXELS], bytes.fromhex(film.phash)) for film in films]
        return cls(
            pixels=np.frombuffer(b"".join(pair[0] for pair in pairs), np.uint8).reshape(-1, _PIXELS),
            likeness=np.frombuffer(b"".join(pair[1] for pair in pairs), np.uint8).reshape(-1, _LIKENESS),
        )

    def overlap(self, films: Sequence[Record], *, near: bool = True) -> Overlap:
        """Which films of a split were trained on.

        Args:
            films: of the split.
            near: also find films with other pixels whose perceptual hashes differ in at most `NEAR_DISTANCE` bits, such
                as the full-size original of a film that was trained on at a smaller size.
        """
        if not len(self.pixels) or not films:
            return Overlap(same=(), near=())
        tested, known = TrainedFilms.of(films), set(map(bytes, self.pixels))
        same = np.array([bytes(row) in known for row in tested.pixels])
        alike = np.zeros(len(films), bool)
        if near:
            words = self.likeness.view(np.uint64)  # four words of 64 bits per hash, to count differing bits quickly
            for start in range(0, len(films), _AT_ONCE):
                part = tested.likeness[start : start + _AT_ONCE].view(np.uint64)
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
    """The train films of a bundle; None if its contract does not list the file, as in bundles of older versions.

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
    """Refuse to evaluate films if the model was trained on some of them.

    Args:
        overlap: the films that it was trained on.
        total: number of films to evaluate.
        what: the films in words, such as `split 'test' of DATASET`.
        name: of the model.

    Raises:
        UsageError: the overlap is not empty; the message has counts and two examples.
    """
    if not overlap:
        return
    found = (*overlap.same, *overlap.near)
    examples = " and ".join(found[:_EXAMPLES])
    raise UsageError(
        f"{name} was trained on {len(found)} of the {total} films of {what} ({len(overlap.same)} with equal pixels, "
        f"{len(overlap.near)} nearly the same), such as {examples}; figures on these would not show how "
        "well the model works. Evaluate on films that it has not seen."
    )
