"""Textures, by which photographs, drawings and text differ; a network trained on radiographs hardly sees them.

A photograph has grain and shades everywhere. A drawing has few grey levels, and areas that are even or smoothly shaded.
A page of text has much even background, and edges along rows and columns. See Athitsos, Swain and Frankel 1997,
"Distinguishing photographs and graphics on the World Wide Web".
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pneumoscope.imaging import Luma
from pneumoscope.metrics import Floats

_COMMONEST = (1, 2, 4, 8, 16, 32, 64)  # numbers of grey levels
_NEAR = 2  # grey levels by which a background pixel may differ from the commonest level
_BLOCKS = (4, 8)  # sides of square blocks, in pixels; an incomplete block at the right or bottom is ignored
_CONTRASTS = (0, 1, 2, 4, 8, 16, 32, 64, 128)  # of a block: its highest level minus its lowest
_GRAIN = (0, 1, 2, 3, 5, 8, 16, 32)  # of a pixel: how far it is from the line through its two neighbours, doubled
_EDGE, _ALONG = 24, 2  # a step across an edge is larger; a step along an upright or level edge is at most this
_LEAST = 0.01  # added to each share: its logarithm is finite, and a few pixels do not decide


def textures(luma: Luma) -> Floats:
    """Logarithms of the shares that describe a picture's textures: `uint8 [S, S]` → `float32 [TEXTURES]`.

    The shares, in this order:

    - the pixels that have none of the commonest 1, 2, 4, … levels, and the levels that occur;
    - for each size of block, the blocks that are background, and of the other blocks those of little contrast;
    - of the pixels that are not background, those of little grain;
    - of the edges, the upright ones and the level ones, and the share of places that are edges.

    >>> even = np.full((32, 32), 7, np.uint8)
    >>> np.abs(np.exp(textures(even)) - 0.01).round(3)[[0, 8, 18]]
    array([0., 1., 1.], dtype=float32)
    """
    counts, values = np.bincount(luma.ravel(), minlength=256), luma.astype(np.int16)
    ground = np.abs(values - counts.argmax()) <= _NEAR
    shares = [*_levels(counts), *_evenness(values, ground), *_smoothness(values, ground), *_edges(values)]
    found: Floats = np.log(np.array(shares, np.float32) + np.float32(_LEAST))
    return found


def _levels(counts: NDArray[np.int64]) -> Iterator[float]:
    shares = np.sort(counts)[::-1].cumsum() / counts.sum()
    yield from (1 - shares[number - 1] for number in _COMMONEST)
    yield float((counts > 0).mean())


def _evenness(values: NDArray[np.int16], ground: NDArray[np.bool_]) -> Iterator[float]:
    for side in _BLOCKS:
        count = len(values) // side
        shape, kept = (count, side, count, side), slice(count * side)
        blocks = values[kept, kept].reshape(shape)
        is_ground = ground[kept, kept].reshape(shape).all(axis=(1, 3))
        contrasts = (blocks.max(axis=(1, 3)) - blocks.min(axis=(1, 3)))[~is_ground]
        yield float(is_ground.mean())
        yield from (_share(contrasts <= limit) for limit in _CONTRASTS)


def _smoothness(values: NDArray[np.int16], ground: NDArray[np.bool_]) -> Iterator[float]:
    inner = 2 * values[1:-1, 1:-1]
    across, down = (values[1:-1, :-2] + values[1:-1, 2:] - inner, values[:-2, 1:-1] + values[2:, 1:-1] - inner)
    grain = np.maximum(np.abs(across), np.abs(down))[~ground[1:-1, 1:-1]]
    yield from (_share(grain <= limit) for limit in _GRAIN)


def _edges(values: NDArray[np.int16]) -> Iterator[float]:
    across, down = np.abs(np.diff(values, axis=1))[1:], np.abs(np.diff(values, axis=0))[:, 1:]
    edges = np.maximum(across, down) > _EDGE
    yield _share(down[edges] <= _ALONG)
    yield _share(across[edges] <= _ALONG)
    yield float(edges.mean())


def _share(chosen: NDArray[np.bool_]) -> float:
    """The share of True, 0 to 1; 0 if there is nothing."""
    return float(chosen.mean()) if chosen.size else 0.0
