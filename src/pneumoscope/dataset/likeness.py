"""Near-duplicates: re-encoded, resized or lightly retouched copies of one film."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoscope.contract import InputRule
from pneumoscope.imaging import Luma, to_input

#: Films are nearly identical if their perceptual hashes differ in at most this many of 256 bits. No two of the 5,206
#: different films of the official train part are nearer than 36; a film stored at JPEG quality 30, at half size or
#: with a gamma of 1.2 stays within 12 (benchmarks/likeness.py).
NEAR_DISTANCE = 16
_SIDE, _OVERSAMPLING = 16, 4
_MAX_PARTNERS = 32  # pairs reported per film and band: enough to connect any group of films
_RULE = InputRule.squash(_SIDE * _OVERSAMPLING)


class NearPair(NamedTuple):
    """Two films by their indices, `first` < `second`, and the number of bits in which their hashes differ."""

    distance: int
    first: int
    second: int


def perceptual_hash(luma: Luma) -> str:
    """The DCT hash (pHash, Zauner 2010; ImageHash's `phash`) of a film, 256 bits as 64 hex digits.

    The film (`uint8 [H, W]`) is squashed to 64×64 first, so films of different sizes can be compared. Few bits of the
    hash change when a film is re-encoded or resized.
    """
    import imagehash  # imported here: it needs SciPy, which evaluation and prediction do without

    small = Image.fromarray(to_input(luma, _RULE)[0])
    bits = imagehash.phash(small, hash_size=_SIDE, highfreq_factor=_OVERSAMPLING).hash
    return np.packbits(bits).tobytes().hex()


def near_pairs(hashes: list[str], *, distance: int = NEAR_DISTANCE) -> list[NearPair]:
    """All pairs of perceptual hashes that differ in at most `distance` bits, nearest first.

    Two such hashes agree in at least one of `distance + 1` disjoint sets of bits, so only films that share all bits
    of such a set are compared (multi-index hashing, Norouzi et al. 2012). Time grows with the number of films, not
    with its square. Give every distinct film once. If very many films are all alike, each is paired only with the next
    few.
    """
    if len(hashes) < 2:
        return []
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), -1)
    bits = np.unpackbits(packed, axis=1)
    found = set[NearPair]()
    for band in range(distance + 1):
        for rows in _rows_of_equal_bits(bits[:, band :: distance + 1]):
            found.update(_pairs_within(packed, rows, distance))
    return sorted(found)


def _rows_of_equal_bits(bits: NDArray[np.uint8]) -> Iterator[NDArray[np.int64]]:
    """Groups of two or more rows whose bits are all equal."""
    keys = np.ascontiguousarray(np.packbits(bits, axis=1))
    order = np.lexsort(keys.T)
    changes = np.flatnonzero(np.any(keys[order][1:] != keys[order][:-1], axis=1)) + 1
    for rows in np.split(order, changes):
        if len(rows) > 1:
            yield np.sort(rows)


def _pairs_within(packed: NDArray[np.uint8], rows: NDArray[np.int64], distance: int) -> Iterator[NearPair]:
    """The pairs among these rows of `packed` that differ in at most `distance` bits."""
    for place, row in enumerate(rows[:-1]):
        others = rows[place + 1 :]
        differing = np.bitwise_count(packed[others] ^ packed[row]).sum(axis=1, dtype=np.int64)
        for other in np.flatnonzero(differing <= distance)[:_MAX_PARTNERS]:
            yield NearPair(distance=int(differing[other]), first=int(row), second=int(others[other]))
