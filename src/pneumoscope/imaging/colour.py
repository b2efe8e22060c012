"""How much of a picture is coloured or transparent: radiographs are grey, or have one tint throughout.

Luma does not show colour, so the colours are read separately: of an RGB JPEG at its smallest DCT scale, of other files
from 64×64 samples.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from pneumoscope.imaging import jpeg

_SIDE = 64  # samples per side, of files other than RGB JPEGs
_HALF = 128  # of an opacity of 255
_WITH_ALPHA = frozenset({"LA", "P", "PA", "RGB", "RGBA"})  # Pillow misreads the transparent grey of other modes
_COLOURED = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})  # Pillow's modes
# Chroma, in grey levels. A grey film coded in colour has under 3; a blue base or a sepia print has up to 30, evenly.
_VISIBLE, _STRONG = 5.0, 40.0
# Rows of the ITU-R BT.601 conversion: Cb and Cr, then Y. A tint may vary with Y.
_CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_LUMA = np.array([0.299, 0.587, 0.114])


def coloured_share(rgb: NDArray[np.uint8]) -> float:
    """Share of the pixels of `uint8 [H, W, 3]` whose colour differs from the picture's tint, 0 to 1.

    The tint is a least-squares line of the picture's chroma over its luma: a blue-based film, a sepia scan and a grey
    picture have no other colour. Pixels whose colour is too strong for a tint are counted as well.

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
    """`coloured_share` of a file: of an RGB JPEG at its smallest scale, else of samples. Transparent pixels are black.

    Args:
        image: opened by Pillow, and loaded unless it is a JPEG.
        data: the whole file.
        mode: Pillow's mode of the image as it is stored.

    Returns:
        The share, 0 to 1, or None for a JPEG that cannot be decoded at a smaller scale.
    """
    if mode not in _COLOURED:
        return 0.0
    if image.format == "JPEG" and mode == "RGB":
        small = jpeg.colours(data)
        return None if small is None else coloured_share(small)
    if not image.has_transparency_data:
        return coloured_share(np.asarray(_sample(image).convert("RGB")))
    values = np.asarray(_sample(image).convert("RGBA")).astype(np.uint16)
    return coloured_share((values[..., :3] * values[..., 3:] // 255).astype(np.uint8))


def transparent_share(image: ImageFile) -> float:
    """Share of a loaded file's pixels, 0 to 1, that are more transparent than opaque, by 64×64 samples."""
    if not image.has_transparency_data or image.mode not in _WITH_ALPHA:
        return 0.0
    return float((np.asarray(_sample(image).convert("RGBA"))[..., 3] < _HALF).mean())


def has_shape(image: ImageFile) -> bool:
    """Whether a loaded file's pixels differ in transparency, so that they draw a shape."""
    if not image.has_transparency_data or image.mode not in _WITH_ALPHA:
        return False
    least, most = image.convert("RGBA").getchannel("A").getextrema()
    return least != most


def _sample(image: ImageFile) -> Image.Image:
    return image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
