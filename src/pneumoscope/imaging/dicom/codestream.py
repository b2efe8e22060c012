"""What a compressed frame says of itself before any codec sees it.

The codecs are native code that believes a frame's header. A header that contradicts the DICOM, or a
stream that has no end, made one of them write past its memory and another run for seconds, so both
are refused here first.
"""

import struct
from dataclasses import dataclass

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOS, _FILL = 0xDA, 0xFF
#: Frame headers (ITU-T T.81 table B.1, T.87 section C.1.1) by what they are followed by.
BASELINE, EXTENDED, LOSSLESS, JPEG_LS = 0xC0, 0xC1, 0xC3, 0xF7
_FRAMES = frozenset({*range(0xC0, 0xD0), JPEG_LS}) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a segment, and those that end an image
_DNL, _HIERARCHICAL, _EXPAND = 0xDC, 0xDE, 0xDF
_UNFIT = _ALONE | {_DNL, _HIERARCHICAL, _EXPAND}
_J2K_START = b"\xff\x4f\xff\x51"  # SOC and SIZ, ITU-T T.800 section A.5.1
_JP2_START = b"\x00\x00\x00\x0cjP  "
_MOST_TILES = 4096


@dataclass(frozen=True, kw_only=True)
class FrameHeader:
    """A frame's size in pixels, bits of a sample, its components' identifiers and its JPEG frame marker."""

    marker: int
    rows: int
    columns: int
    precision: int
    components: tuple[int, ...]


def jpeg_header(frame: bytes) -> FrameHeader:
    """Of JPEG and JPEG-LS: the one frame header before the first scan (ITU-T T.81 section B.2.2).

    Raises:
        ValueError: not a sequence of marker segments with one frame header, or no end of image.
    """
    if not frame.startswith(_SOI) or not frame.rstrip(b"\x00\xff").endswith(_EOI[1:]):
        raise ValueError("the compressed image has no beginning or no end")
    found, position = None, 2
    while True:
        marker, segment, position = _segment(frame, position)
        if marker in _FRAMES:
            if found is not None:
                raise ValueError("the compressed image has several frame headers")
            found = _frame_header(marker, segment)
        if marker == _SOS:
            break
    if found is None:
        raise ValueError("the compressed image has no frame header")
    return found


def _segment(frame: bytes, position: int) -> tuple[int, bytes, int]:
    """The marker at a position, its segment after the length, and where the next marker begins."""
    if frame[position : position + 1] != b"\xff":
        raise ValueError("the compressed image's header is no sequence of markers")
    while frame[position + 1 : position + 2] == b"\xff":
        position += 1
    marker, length = struct.unpack_from(">BH", frame, position + 1)
    end = position + 2 + length
    if marker in _UNFIT or length < 2 or end > len(frame):
        raise ValueError("the compressed image's header is cut or in disorder")
    return marker, frame[position + 4 : end], end


def _frame_header(marker: int, segment: bytes) -> FrameHeader:
    precision, rows, columns, count = struct.unpack_from(">BHHB", segment)
    if len(segment) != 6 + 3 * count:
        raise ValueError("the compressed image's frame header has another length than it says")
    return FrameHeader(marker=marker, rows=rows, columns=columns, precision=precision, components=tuple(segment[6::3]))


def without_jp2(frame: bytes) -> bytes:
    """The codestream alone, of those who put a JP2 file where PS3.5 section A.4.4 wants a codestream."""
    return frame[max(0, frame.find(_J2K_START)) :] if frame.startswith(_JP2_START) else frame


def jpeg2000_header(frame: bytes) -> FrameHeader:
    """Of JPEG 2000: its SIZ marker segment (ITU-T T.800 section A.5.1).

    Raises:
        ValueError: no codestream, subsampled components, components of unlike depth, or absurd tiles.
    """
    if not frame.startswith(_J2K_START):
        raise ValueError("the compressed image is no JPEG 2000 codestream")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, count = struct.unpack_from(">8IH", frame, 8)
    components = struct.unpack_from(f">{3 * count}B", frame, 42)
    if set(components[1::3]) | set(components[2::3]) != {1} or len(set(components[::3])) != 1:
        raise ValueError("the compressed image's components differ in size or depth")
    if not tile_width or not tile_height:
        raise ValueError("the compressed image's tiles are empty")
    if -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height) > _MOST_TILES:
        raise ValueError(f"the compressed image has more than {_MOST_TILES} tiles")
    return FrameHeader(
        marker=_J2K_START[1],
        rows=height - top,
        columns=width - left,
        precision=(components[0] & 0x7F) + 1,
        components=tuple(range(count)),
    )
