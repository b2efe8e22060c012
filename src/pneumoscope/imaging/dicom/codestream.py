"""Headers of compressed frames, checked before any codec reads them.

The codecs are native code that trusts its input. A frame header that contradicts the DICOM attributes made GDCM write
past its buffer, an APPn segment that it does not know made it terminate the process, and a stream without an end marker
kept CharLS busy for seconds. The last two are caught here; `pixels` compares the header with the attributes.

A truncated header may raise `struct.error` or `IndexError` in place of the `ValueError` that a function documents.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

#: `END` is called EOI in JPEG and JPEG-LS, EOC in JPEG 2000.
_SOI, END = b"\xff\xd8", b"\xff\xd9"
_SOS = 0xDA
#: Markers of the frame headers that are accepted (ITU-T T.81 table B.1, T.87 section C.1.1).
BASELINE, EXTENDED, LOSSLESS, JPEG_LS = 0xC0, 0xC1, 0xC3, 0xF7
#: Second byte of JPEG 2000's start-of-codestream marker, SOC (ITU-T T.800 table A.2).
JPEG_2000 = 0x4F
# In this range C4 is DHT, C8 is reserved (JPG) and CC is DAC (T.81 table B.1).
_SOF_MARKERS = frozenset({*range(0xC0, 0xD0), JPEG_LS}) - {0xC4, 0xC8, 0xCC}
# Patterns of a marker other than a restart (RSTn, 0xD0 to 0xD7) within a scan's data: in JPEG, and in JPEG-LS.
_MARKER, _LS_MARKER = (re.compile(rb"\xff+[" + low + rb"-\xcf\xd8-\xfe]") for low in (rb"\x01", rb"\x80"))
# Segments that may precede the first scan besides frame headers: tables, restart interval, JPEG-LS parameters.
_TABLES = frozenset({0xC4, 0xDB, 0xDD, 0xF8})
_APP_AND_COM = frozenset({*range(0xE0, 0xF0), 0xFE})
_ITEM, _ITEM_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0"
#: Sequence Delimitation Item, which ends a sequence or encapsulated pixel data (PS3.5 section 7.5).
SEQUENCE_END = b"\xfe\xff\xdd\xe0" + bytes(4)
_J2K_START = b"\xff\x4f\xff\x51"  # SOC and SIZ, ITU-T T.800 section A.5.1
_JP2_START = b"\x00\x00\x00\x0cjP  "
_MAX_TILES = 4096  # a decoder may allocate tables for every tile before it reads one; radiographs have few tiles
_MAX_LEVELS = 32  # of wavelet decomposition (COD, ITU-T T.800 section A.6.1)
_MAX_SEGMENTS = 100_000  # a segment can be as short as four bytes, so a file could contain millions
# Markers of JPEG 2000, ITU-T T.800 table A.2.
_COD, _COC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93


@dataclass(frozen=True, kw_only=True)
class FrameHeader:
    """A frame's size in pixels, its bits per sample, its components' identifiers and its frame marker."""

    marker: int
    rows: int
    columns: int
    precision: int
    components: tuple[int, ...]
    signed: bool = False


def fragments(data: bytes) -> tuple[int, list[bytes]]:
    """Split encapsulated pixel data (PS3.5 section A.4).

    Returns:
        The number of frames that its basic offset table lists (0 if none), and the fragments.

    Item Delimitation Items, which do not belong there but occur, are skipped. Anything else that is not an item ends
    the sequence.

    Raises:
        ValueError: the last fragment is cut off.
    """
    items, position = list[bytes](), 0
    while data[position : position + 4] in (_ITEM, _ITEM_END) and position + 8 <= len(data):
        is_item = data.startswith(_ITEM, position)
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8
        if is_item:
            if length > len(data) - position:
                raise ValueError("the compressed image is truncated")
            items.append(data[position : position + length])
            position += length
    # The first item is the basic offset table, unless it begins a frame: data without the table are accepted.
    if items and not (starts_frame(items[0]) or starts_rle_frame(items[0])):
        return len(items[0]) // 4, items[1:]
    return 0, items


def starts_frame(fragment: bytes) -> bool:
    """Whether a fragment is the first one of a JPEG, JPEG-LS or JPEG 2000 frame, JPEG 2000 also as a JP2 file."""
    return fragment.startswith((_SOI, _J2K_START, _JP2_START))


def starts_rle_frame(fragment: bytes) -> bool:
    """Whether a fragment is the first one of an RLE frame: it begins with a header of 64 bytes (PS3.5 section G.5)."""
    return len(fragment) >= 64 and struct.unpack_from("<2I", fragment) in {(count, 64) for count in range(1, 16)}


def trim_jpeg(frame: bytes) -> bytes:
    """Truncate a JPEG or JPEG-LS after its last scan and close it with an end-of-image marker.

    Segments after the last scan and bytes after the end are dropped: codecs differ in what they accept there. In the
    data of a scan, 0xFF begins a marker unless a stuffed byte follows: 0 in JPEG (T.81 section B.1.1.5), any byte
    below 0x80 in JPEG-LS (T.87 section C.2.1).

    Raises:
        ValueError: the marker segments before the first scan are malformed or unusual, or there is no end-of-image
            marker.
    """
    *headers, (_, _, position) = _segments(frame)
    is_ls = any(marker == JPEG_LS for marker, _, _ in headers)
    pattern, scan_end = _LS_MARKER if is_ls else _MARKER, len(frame)
    while match := pattern.search(frame, position):
        marker, position = match[0][-1], match.end()
        scan_end = min(scan_end, match.start())
        if marker == END[1]:
            return frame[:scan_end] + END
        if position + 2 > len(frame):
            break
        position += int.from_bytes(frame[position : position + 2], "big")
        if marker == _SOS:  # another scan begins: where its data end is not known yet
            scan_end = len(frame)
    raise ValueError("the compressed image has no end-of-image marker")


def jpeg_header(frame: bytes) -> FrameHeader:
    """Read the one frame header of a JPEG or JPEG-LS before its first scan (ITU-T T.81 section B.2.2).

    Raises:
        ValueError: the marker segments before the first scan are malformed or unusual, or do not contain exactly one
            frame header.
    """
    headers = [_frame_header(marker, body) for marker, body, _ in _segments(frame) if marker in _SOF_MARKERS]
    if len(headers) != 1:
        raise ValueError(f"the compressed image has {len(headers)} frame headers")
    return headers[0]


def strip_app_segments(frame: bytes) -> bytes:
    """A JPEG without its APPn and COM segments: GDCM terminates the process on those that it does not know."""
    segments = list(_segments(frame))
    kept = [(marker, body) for marker, body, _ in segments if marker not in _APP_AND_COM]
    header = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in kept)
    return _SOI + header + frame[segments[-1][2] :]


def _segments(frame: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Each marker up to that of the first scan, the content of its segment, and the position where the segment ends."""
    if not frame.startswith(_SOI):
        raise ValueError("the compressed image has no start-of-image marker")
    marker, position = 0, len(_SOI)
    while marker != _SOS:
        while frame[position : position + 2] == b"\xff\xff":  # fill bytes, section B.1.1.2
            position += 1
        lead, marker, length = struct.unpack_from(">BBH", frame, position)
        start, position = position + 4, position + 2 + length
        known = marker in _SOF_MARKERS | _TABLES | _APP_AND_COM | {_SOS}
        if lead != 0xFF or not known or length < 2 or position > len(frame):
            raise ValueError("the compressed image's header is truncated or out of order")
        yield marker, frame[start:position], position


def _frame_header(marker: int, segment: bytes) -> FrameHeader:
    precision, rows, columns, count = struct.unpack_from(">BHHB", segment)
    if len(segment) != 6 + 3 * count:
        raise ValueError(
            "the compressed image's frame header has a length that does not match its number of components"
        )
    return FrameHeader(marker=marker, rows=rows, columns=columns, precision=precision, components=tuple(segment[6::3]))


def trim_jpeg2000(frame: bytes) -> bytes:
    """The codestream without a JP2 file's boxes, cut after its last tile-part and closed with an end marker.

    A codestream whose last tile-part does not state its length (ITU-T T.800 section A.4.2) is returned as it is.
    """
    if frame.startswith(_JP2_START):
        frame = frame[max(0, frame.find(_J2K_START)) :]
    position, tile_parts = 2, 0
    while position + 12 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker == _SOT:
            size = struct.unpack_from(">I", frame, position + 6)[0]
            position, tile_parts = position + (size or len(frame)), tile_parts + 1
        elif tile_parts:
            break
        else:
            position += 2 + length
    return frame[:position] + END if tile_parts and position <= len(frame) else frame


def jpeg2000_header(frame: bytes) -> FrameHeader:
    """Read the SIZ marker segment of a JPEG 2000 codestream (ITU-T T.800 section A.5.1).

    Raises:
        ValueError: it is not a codestream; its components are subsampled or differ in depth; it has empty tiles or more
            than 4096; or its precincts or code-blocks are so small that a decoder would fill the memory with their
            tables.
    """
    if not frame.startswith(_J2K_START):
        raise ValueError("the compressed image is not a JPEG 2000 codestream")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, count = struct.unpack_from(">8IH", frame, 8)
    components = struct.unpack_from(f">{3 * count}B", frame, 42)
    if set(components[1::3]) | set(components[2::3]) != {1} or len(set(components[::3])) != 1:
        raise ValueError("the compressed image's components differ in size or depth")
    if not tile_width or not tile_height:
        raise ValueError("the compressed image's tiles are empty")
    tiles = -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height)  # rounded up
    if tiles > _MAX_TILES:
        raise ValueError(f"the compressed image has more than {_MAX_TILES} tiles")
    rows, columns = height - top, width - left
    # Code-blocks are mostly 64 pixels wide, rarely 16. The limit admits 8 x 8 (one per 48 pixels over all levels), but
    # not 4 x 4 (one per 12), unless the image is so small that their tables are, too.
    limit = rows * columns // 30 + 10_000
    if any(_count_pieces(columns, rows, style) > limit for style in _coding_styles(frame)):
        raise ValueError("the compressed image is cut into absurdly small pieces")
    return FrameHeader(
        marker=JPEG_2000,
        rows=rows,
        columns=columns,
        precision=(components[0] & 0x7F) + 1,
        components=tuple(range(count)),
        signed=bool(components[0] & 0x80),
    )


def _coding_styles(frame: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Levels, code-block exponents and precinct sizes of each COD and COC in main and tile-part headers (A.6.1)."""
    position, tile_end, segments = 2, len(frame), 0
    while position + 4 <= len(frame):
        if (segments := segments + 1) > _MAX_SEGMENTS:
            raise ValueError("the compressed image's headers have no end")
        marker, length = struct.unpack_from(">HH", frame, position)
        body = frame[position + 4 : position + 2 + length]
        if marker == _SOT:
            size = struct.unpack_from(">I", body, 2)[0]
            tile_end = position + size if size else len(frame)
        elif marker == _COD:
            yield _coding_style(body[0], body[5:])
        elif marker == _COC:
            index_bytes = 2 if struct.unpack_from(">H", frame, 40)[0] > 256 else 1  # A.6.2
            yield _coding_style(body[index_bytes], body[index_bytes + 1 :])
        if marker == _SOD and tile_end <= position:
            raise ValueError("the compressed image's tile-parts are out of order")
        position = tile_end if marker == _SOD else position + 2 + length


def _coding_style(style: int, parameters: bytes) -> tuple[int, int, int, bytes]:
    levels, width_exponent, height_exponent = parameters[0], (parameters[1] & 15) + 2, (parameters[2] & 15) + 2
    # Unstated precincts are 2**15 x 2**15, as 0xFF would state (T.800 section A.6.1).
    precincts = parameters[5 : 6 + levels] if style & 1 else b"\xff" * (levels + 1)
    return levels, width_exponent, height_exponent, precincts


def _count_pieces(columns: int, rows: int, style: tuple[int, int, int, bytes]) -> int:
    """About how many precincts and code-blocks an image is cut into if it is one tile (ITU-T T.800 sections B.6, B.7).

    Code-blocks are counted as if each resolution level were one subband. An estimate is enough: images that are
    meant for use are far below the limit.
    """
    levels, width_exponent, height_exponent, precincts = style
    if levels > _MAX_LEVELS or len(precincts) != levels + 1:
        raise ValueError("the compressed image's coding style is truncated or absurd")
    total = 0
    for level, sizes in enumerate(precincts):
        width, height = (-(-side >> (levels - level)) for side in (columns, rows))  # rounded up, as all below
        across, down = sizes & 15, sizes >> 4
        total += -(-width >> across) * -(-height >> down)
        total += -(-width >> min(width_exponent, across)) * -(-height >> min(height_exponent, down))
    return total
