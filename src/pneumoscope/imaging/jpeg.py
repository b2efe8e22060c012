"""A JPEG's luma by libjpeg-turbo, whose warnings Pillow keeps to itself: it fills what is damaged with grey."""

import math
import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from pneumoscope.contract import InputRule
from pneumoscope.errors import DamagedImageError
from pneumoscope.imaging.radiograph import Luma

# Of libjpeg's warnings (jerror.h) those about entropy-coded data. The others are of headers that encoders write oddly.
_DAMAGE = re.compile(r"Corrupt JPEG data: (?!\d+ extraneous bytes before marker 0xd9)")
_CUT = "Premature end of JPEG file"
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_LONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment (T.81 table B.1)
_FRAMES, _SCALABLE = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}, frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_START_OF_SCAN = 0xDA


def luma(data: bytes, image: JpegImageFile, rule: InputRule | None = None) -> Luma | None:
    """The luma of a JPEG at the smallest of the scales 1, 1/2, 1/4 and 1/8 that the rule allows.

    Args:
        data: the whole file; what follows or pads the image does not count.
        image: the same, opened by Pillow and not loaded; it is drafted to that scale.
        rule: whose size times margin both sides must keep; None for the full size.

    Returns:
        `uint8 [height, width]`, or None where there is no luma to be had this way: four colours, or colours sampled as
        TurboJPEG does not know; or a file without an end, which Pillow tells whole from cut.

    Raises:
        DamagedImageError: damaged within, or cut and closed again.
    """
    image.draft("L", (math.ceil(rule.size * rule.decode_margin),) * 2 if rule else image.size)
    if image.mode != "L":
        listen(data, colours="CMYK")
        return None
    return listen(data, size=image.size)


def listen(
    data: bytes, *, size: tuple[int, int] = (1, 1), colours: str = "GRAY", lossless: bool = False
) -> Luma | None:
    """Decode at the smallest scale that has at least this width and height; None as `luma` says.

    A `lossless` JPEG has but one scale: its whole size must be asked for, as simplejpeg makes no larger room for it.

    Raises:
        DamagedImageError: libjpeg warns that the image is damaged within.
    """
    if not (lossless or _is_scalable(data)):
        return None
    width, height = size

    def decode(*, strict: bool) -> Luma:
        least = {"min_width": width, "min_height": height}
        return np.ascontiguousarray(simplejpeg.decode_jpeg(data, colours, strict=strict, **least)[:, :, 0])

    try:
        return decode(strict=True)
    except ValueError as warning:
        said = str(warning)
    if _DAMAGE.match(said):
        raise DamagedImageError(f"the JPEG is damaged within ({said.partition(': ')[2]}); fetch or export it again.")
    try:
        return None if said == _CUT else decode(strict=False)
    except ValueError:
        return None


def colours(data: bytes) -> NDArray[np.uint8] | None:
    """A JPEG's colours at its smallest scale, `uint8 [height, width, 3]` RGB; None if it cannot be had."""
    if not _is_scalable(data):
        return None
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", min_width=1, min_height=1, strict=False))
    except ValueError:
        return None


def _is_scalable(data: bytes) -> bool:
    """Whether a JPEG is of a DCT, by every frame header before its first scan, found as libjpeg finds them."""
    position = 2
    while found := _MARKER.search(data, position):
        marker, position = found[0][-1], found.end()
        if marker in _FRAMES - _SCALABLE:
            return False
        if marker == _START_OF_SCAN:
            return True
        if marker not in _LONE:
            position += int.from_bytes(data[position : position + 2], "big")
    return False
