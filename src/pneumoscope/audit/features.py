"""What can be measured of a film without any detail of its lungs: the inputs of the shortcut baselines.

All pixel measures are of the film squashed to 224×224 by the contract's own rule, as a network sees it.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import InputRule
from pneumoscope.imaging import ImageFacts, Luma

Vector: TypeAlias = NDArray[np.float32]

SIDE = 224
RULE = InputRule.squash(SIDE)
THUMB = 16
_STRIP, _CORNER = 16, 32
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

# ITU-T T.81, table K.1: the luma quantisation table that the quality scale of the Independent JPEG Group
# multiplies.
_LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One film's vectors. `thumb` is `uint8 [16, 16]`, the others `float32`."""

    metadata: Vector
    intensity: Vector
    border: Vector
    thumb: Luma

    def of(self, features: str) -> Vector:
        """The vector of one of `FEATURES`."""
        return self.thumb.ravel().astype(np.float32) if features == "thumbnail" else getattr(self, features)


#: Feature sets by name, and what they are in words.
FEATURES = {
    "metadata": "file metadata alone (size, format, JPEG tables, tags)",
    "intensity": "global brightness and sharpness",
    "border": "border strips and corners",
    "thumbnail": "a thumbnail of 16×16 pixels",
}


def measure(facts: ImageFacts, size: int, small: Luma) -> Measures:
    """Measure a film.

    Args:
        facts: its header.
        size: of its file, in bytes.
        small: the film as `uint8 [224, 224]`.
    """
    return Measures(
        metadata=_metadata(facts, size),
        intensity=_intensity(small),
        border=_border(small),
        thumb=np.rint(_blocks(small, SIDE // THUMB)).astype(np.uint8),
    )


def brightness(small: Luma) -> float:
    """Mean of all pixels, 0 to 255."""
    return float(small.mean())


def sharpness(small: Luma) -> float:
    """Standard deviation of the discrete Laplacian, in grey levels."""
    return float(_laplacian(small.astype(np.float32)).std())


def jpeg_quality(quantiser: float) -> int:
    """The IJG quality, 1 to 100, whose luma table has the nearest mean.

    >>> jpeg_quality(29.0)
    75
    """
    qualities = np.arange(1, 101)
    scales = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    tables = np.clip((_LUMA_TABLE.ravel() * scales[:, None] + 50) // 100, 1, 255)
    return int(qualities[np.abs(tables.mean(axis=1) - quantiser).argmin()])


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
            -1.0 if facts.quantiser is None else facts.quantiser,
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
    signed = small.astype(np.int16)
    across, down = np.abs(np.diff(signed, axis=1)), np.abs(np.diff(signed, axis=0))
    fine = values - _enlarge(_blocks(small, 2), 2)
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
    """Percentiles of small whole numbers, from how often each occurs."""
    return np.asarray(np.searchsorted(np.cumsum(counts), np.array(percentiles) / 100 * counts.sum()), np.int64)


def _border(small: Luma) -> Vector:
    strips = [small[:_STRIP], small[-_STRIP:], small[:, :_STRIP].T, small[:, -_STRIP:].T]
    parts = []
    for strip in strips:
        cells = strip.reshape(_STRIP, SIDE // _STRIP, _STRIP).astype(np.float32)
        parts += [cells.mean(axis=(0, 2)), cells.std(axis=(0, 2))]
    for rows in (slice(_CORNER), slice(-_CORNER, None)):
        for columns in (slice(_CORNER), slice(-_CORNER, None)):
            parts.append(_blocks(small[rows, columns], _CORNER // 4).ravel())
    return np.concatenate(parts).astype(np.float32)


def _blocks(image: Luma, side: int) -> NDArray[np.float32]:
    """Means of square blocks."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return np.asarray(image.reshape(rows, side, columns, side).mean(axis=(1, 3)), np.float32)


def _enlarge(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return np.asarray(image.repeat(side, axis=0).repeat(side, axis=1), np.float32)


def _laplacian(values: NDArray[np.float32]) -> NDArray[np.float32]:
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return np.asarray(around - 4 * values[1:-1, 1:-1], np.float32)
