"""Features of a film without any detail of its lungs: the inputs of the shortcut baselines.

All pixel features are measured on the film squashed to 224×224 by the contract's rule, as a network sees it.
"""

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from pneumoscope.contract import InputRule
from pneumoscope.imaging import ImageFacts, Luma, encode

Vector: TypeAlias = NDArray[np.float32]

SIDE = 224
RULE = InputRule.squash(SIDE)
THUMB = 16
_STRIP, _CORNER = 16, 32
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One film's features: `thumb` as `uint8 [16, 16]`, the other sets as `float32` vectors.

    `brightness` is the mean of all pixels, 0 to 255; `sharpness` is the standard deviation of the discrete Laplacian,
    in grey levels.
    """

    metadata: Vector
    intensity: Vector
    border: Vector
    thumb: Luma
    brightness: float
    sharpness: float

    def vector(self, features: str) -> Vector:
        """The vector of one feature set, a key of `FEATURES`."""
        return self.thumb.ravel().astype(np.float32) if features == "thumbnail" else getattr(self, features)


#: The feature sets, with a description of each.
FEATURES = {
    "metadata": "file metadata (size, format, JPEG tables, tags)",
    "intensity": "global brightness and sharpness",
    "border": "border strips and corners",
    "thumbnail": "a thumbnail of 16×16 pixels",
}


def measure(facts: ImageFacts, size: int, small: Luma) -> Measures:
    """Measure a film.

    Args:
        facts: the facts of its header.
        size: size of its file in bytes.
        small: the film as `uint8 [224, 224]`.
    """
    return Measures(
        metadata=_metadata(facts, size),
        intensity=_intensity(small),
        border=_border(small),
        thumb=np.rint(_blocks(small, SIDE // THUMB)).astype(np.uint8),
        brightness=float(small.mean()),
        sharpness=float(_laplacian(small.astype(np.float32)).std()),
    )


def jpeg_quality(quantiser: float) -> int:
    """The JPEG quality (1 to 100, libjpeg's scale) whose luma quantisation table has the mean nearest to `quantiser`.

    >>> jpeg_quality(29.0)
    75
    """
    return int(np.abs(_table_means() - quantiser).argmin()) + 1


@cache
def _table_means() -> NDArray[np.float64]:
    """Means of libjpeg's luma quantisation tables at quality 1 to 100, read from a tiny file of each quality."""
    tiny = np.zeros((1, 1), np.uint8)
    files = [JpegImageFile(BytesIO(encode(tiny, "JPEG", quality=quality))) for quality in range(1, 101)]
    return np.array([np.mean(file.quantization[0]) for file in files])


def _metadata(facts: ImageFacts, size: int) -> Vector:
    pixels = facts.width * facts.height
    modes = [facts.mode == mode for mode in ("L", "RGB", "P", "RGBA", "CMYK")]
    formats = [facts.format == name for name in ("JPEG", "PNG", "TIFF")]
    return np.array(
        [
            facts.width,
            facts.height,
            facts.width / facts.height,
            pixels,
            size,
            size / pixels,
            -1.0 if facts.quantiser is None else facts.quantiser,  # -1: a format without quantisation
            facts.bits,
            facts.orientation,
            facts.exif,
            facts.icc,
            facts.progressive,
            *modes,
            *formats,
        ],
        np.float32,
    )


def _intensity(small: Luma) -> Vector:
    values = small.astype(np.float32)
    # Differences of uint8 would wrap around.
    signed = small.astype(np.int16)
    across, down = np.abs(np.diff(signed, axis=1)), np.abs(np.diff(signed, axis=0))
    fine = values - _blocks(small, 2).repeat(2, axis=0).repeat(2, axis=1)
    levels = np.bincount(small.ravel(), minlength=256)
    return np.array(
        [
            values.mean(),
            values.std(),
            *_percentiles(levels, _PERCENTILES),
            levels[0] / small.size,
            levels[255] / small.size,
            _laplacian(values).std(),
            across.mean(),
            down.mean(),
            *_percentiles(np.bincount(across.ravel(), minlength=256), (95,)),
            fine.std(),
            np.abs(fine).mean(),
            *levels.reshape(16, 16).sum(axis=1) / small.size,
        ],
        np.float32,
    )


def _percentiles(counts: NDArray[np.int64], percentiles: tuple[int, ...]) -> NDArray[np.int64]:
    """Percentiles of small integers; `counts` is their histogram."""
    return np.asarray(np.searchsorted(np.cumsum(counts), np.array(percentiles) / 100 * counts.sum()), np.int64)


def _border(small: Luma) -> Vector:
    """Means and deviations of cells along the four edges, and thumbnails of the four corners."""
    strips = [small[:_STRIP], small[-_STRIP:], small[:, :_STRIP].T, small[:, -_STRIP:].T]
    parts = []
    for strip in strips:
        cells = strip.reshape(_STRIP, SIDE // _STRIP, _STRIP).astype(np.float32)
        parts += [cells.mean(axis=(0, 2)), cells.std(axis=(0, 2))]
    for corner in product((slice(_CORNER), slice(-_CORNER, None)), repeat=2):
        parts.append(_blocks(small[corner], _CORNER // 4).ravel())
    return np.concatenate(parts).astype(np.float32)


def _blocks(image: Luma, side: int) -> NDArray[np.float32]:
    """Means of square blocks of `side` pixels."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return np.asarray(image.reshape(rows, side, columns, side).mean(axis=(1, 3)), np.float32)


def _laplacian(values: NDArray[np.float32]) -> NDArray[np.float32]:
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return np.asarray(around - 4 * values[1:-1, 1:-1], np.float32)
