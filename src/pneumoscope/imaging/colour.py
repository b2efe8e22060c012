"""How much of a picture is coloured: radiographs are grey, or have one tint throughout.

The luma does not show it, so the colours are looked at apart, as few as a JPEG's smallest DCT scale has.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from pneumoscope.imaging import jpeg

_SIDE = 64  # of the samples taken of what is not a JPEG
_COLOURED = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})  # Pillow's modes
# Levels of chroma. Coding a grey film in colour leaves under 3; a blue base or an old sepia print has up to 30, evenly.
_VISIBLE, _STRONG = 5.0, 40.0
# Cb and Cr of ITU-R BT.601, and Y, by which a tint may vary.
_CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_LUMA = np.array([0.299, 0.587, 0.114])


def coloured_share(rgb: NDArray[np.uint8]) -> float:
    """Share of the pixels of `uint8 [H, W, 3]` whose colour is not the picture's tint, 0 to 1.

    The tint is the line that fits the picture's chroma over its luma: a blue-based film, a sepia scan and a grey
    picture have no colour but that. Colours too strong for a tint count as well.

    >>> coloured_share(np.full((4, 4, 3), (90, 80, 60), np.uint8))
    0.0
    """
    pixels = rgb.reshape(-1, 3).astype(np.float64)
    luma, chroma = pixels @ _LUMA, pixels @ _CHROMA.T
    centred, others = luma - luma.mean(), chroma - chroma.mean(axis=0)
    slope = centred @ others / max(float(centred @ centred), 1.0)
    apart = np.hypot(*(others - np.outer(centred, slope)).T)
    return float(((apart > _VISIBLE) | (np.hypot(*chroma.T) > _STRONG)).mean())


def share_of(image: ImageFile, data: bytes, mode: str) -> float | None:
    """`coloured_share` of a file by samples of its pixels; of a JPEG, at its smallest scale. Transparent is black.

    Args:
        image: opened by Pillow, and loaded unless it is a JPEG.
        data: the whole file.
        mode: Pillow's of the image as it is stored.

    Returns:
        The share, or None of a JPEG whose colours cannot be had at a smaller scale.
    """
    if mode not in _COLOURED:
        return 0.0
    if image.format == "JPEG" and mode == "RGB":
        small = jpeg.colours(data)
        return None if small is None else coloured_share(small)
    sampled = image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    if not image.has_transparency_data:
        return coloured_share(np.asarray(sampled.convert("RGB")))
    values = np.asarray(sampled.convert("RGBA")).astype(np.uint16)
    return coloured_share((values[..., :3] * values[..., 3:] // 255).astype(np.uint8))
