"""A JPEG's luma, decoded by libjpeg-turbo with its warnings.

libjpeg fills damaged parts with grey and warns about them. Pillow drops these warnings, so that a damaged film would
be read as a whole one; simplejpeg raises them.
"""

import math
import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from pneumoscope.contract import InputRule
from pneumoscope.errors import DamagedImageError
from pneumoscope.imaging.radiograph import Luma

# libjpeg's warnings (jerror.h) about entropy-coded data, except extra bytes before the end marker (0xD9). The others
# are about unusual headers, which are harmless.
_DAMAGE = re.compile(r"Corrupt JPEG data: (?!\d+ extraneous bytes before marker 0xd9)")
_TRUNCATED = "Premature end of JPEG file"
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment (ITU-T T.81 table B.1)
# Start-of-frame markers of all processes, and of the DCT-based ones that are not differential (ITU-T T.81 table
# B.1); 0xC4, 0xC8 and 0xCC mark other segments.
_FRAMES, _SCALABLE = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}, frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_START_OF_SCAN = 0xDA


def luma(data: bytes, image: JpegImageFile, rule: InputRule | None = None) -> Luma | None:
    """The luma of a JPEG at the smallest of the scales 1, 1/2, 1/4 and 1/8 that the rule allows.

    Args:
        data: the whole file; padding and bytes after the image are ignored.
        image: the same file, opened by Pillow and not loaded; it is drafted to that scale.
        rule: both sides keep at least its size times its margin; None for the full size.

    Returns:
        `uint8 [height, width]`, or None if Pillow must decode the file: it has four colour components, a process other
        than the DCT-based ones, a chroma subsampling that TurboJPEG does not support, or no end-of-image marker (Pillow
        finds out whether it is truncated).

    Raises:
        DamagedImageError: the image is damaged within, or was truncated and closed with an end marker.
    """
    image.draft("L", (math.ceil(rule.size * rule.decode_margin),) * 2 if rule else image.size)
    if image.mode != "L":
        decode_checked(data, colour_space="CMYK")
        return None
    return decode_checked(data, size=image.size)


def decode_checked(
    data: bytes, *, size: tuple[int, int] = (1, 1), colour_space: str = "GRAY", lossless: bool = False
) -> Luma | None:
    """Decode a JPEG and raise libjpeg's warnings of damage.

    Args:
        data: the whole file.
        size: least width and height in pixels; the smallest scale that has them is decoded. A `lossless` JPEG has one
            scale only: give its full size, because simplejpeg allocates no more than it is asked for.
        colour_space: the colour space to decode to, by simplejpeg's name.
        lossless: the file is a lossless JPEG (SOF3).

    Returns:
        The first channel, `uint8 [height, width]`, or None; see `luma`.

    Raises:
        DamagedImageError: libjpeg warns that the image is damaged within.
    """
    if not (lossless or _is_scalable(data)):
        return None
    width, height = size

    def decode(*, strict: bool) -> Luma:
        least = {"min_width": width, "min_height": height}
        return np.ascontiguousarray(simplejpeg.decode_jpeg(data, colour_space, strict=strict, **least)[:, :, 0])

    try:
        return decode(strict=True)
    except ValueError as warning:
        message = str(warning)
    if _DAMAGE.match(message):
        raise DamagedImageError(
            f"the JPEG is damaged within ({message.partition(': ')[2]}); download or export it again."
        )
    # Any other warning is about an unusual header: decode again without turning warnings into errors.
    try:
        return None if message == _TRUNCATED else decode(strict=False)
    except ValueError:
        return None


def colours(data: bytes) -> NDArray[np.uint8] | None:
    """A JPEG's colours at its smallest scale, `uint8 [height, width, 3]` RGB; None if they cannot be decoded so.

    Only scalable JPEGs are decoded: libjpeg terminates the process on a lossless one that is to be scaled.
    """
    if not _is_scalable(data):
        return None
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", min_width=1, min_height=1, strict=False))
    except ValueError:
        return None


def _is_scalable(data: bytes) -> bool:
    """Whether every frame header before the first scan is of a DCT-based process.

    After each segment the next marker is searched for, as libjpeg does, and not expected at once: libjpeg alone would
    otherwise see a frame header behind stray bytes.
    """
    position = 2
    while found := _MARKER.search(data, position):
        marker, position = found[0][-1], found.end()
        if marker in _FRAMES - _SCALABLE:
            return False
        if marker == _START_OF_SCAN:
            return True
        if marker not in _STANDALONE:
            position += int.from_bytes(data[position : position + 2], "big")
    return False
