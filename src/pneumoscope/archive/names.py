"""Decoding of the names in archives, whatever program wrote them."""

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from pneumoscope.errors import UsageError

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075
# Box-drawing characters of code page 437: what names in other encodings become if they are read as this code page.
_BOX_DRAWING = re.compile("[\u2500-\u259f]")
# Codecs that the error message tries on the first name.
_LIKELY = ("gbk", "big5", "shift_jis", "euc_kr", "cp866", "cp437")


def zip_names(infos: Sequence[zipfile.ZipInfo]) -> list[str | bytes]:
    """The names of a ZIP archive's members; as bytes if the archive does not state their encoding.

    If UTF-8 names contain box-drawing characters, a program has read them as code page 437 and written the archive
    again. Then every name that this code page can encode is converted back to its original bytes.
    """
    names = [_zip_name(info) for info in infos]
    if any(isinstance(name, str) and not name.isascii() and _BOX_DRAWING.search(name) for name in names):
        return [name if isinstance(name, bytes) or name.isascii() else _as_code_page(name) or name for name in names]
    return names


def _zip_name(info: zipfile.ZipInfo) -> str | bytes:
    """A member's name, or its bytes if their encoding is not stated.

    APPNOTE.TXT 4.4.4 (bit 11: UTF-8) and 4.6.9 (Info-ZIP's Unicode path, valid if its CRC-32 is that of the name).
    """
    name = info.orig_filename
    # ASCII names are the same in UTF-8 and in the code pages.
    if name.isascii() and not info.extra:
        return name
    flagged = bool(info.flag_bits & _UTF8_FLAG)
    raw = name.encode("utf-8" if flagged else "cp437", "surrogatepass")
    for kind, content in _extra_fields(info.extra):
        if kind == _UNICODE_PATH and content[:1] == b"\x01" and content[1:5] == struct.pack("<I", zlib.crc32(raw)):
            return _decoded(content[5:], "utf-8") or name
    return name if flagged or name.isascii() else raw


def decode_names(names: Sequence[str | bytes], encoding: str | None, *, archive: str) -> list[str]:
    """Decode all names of an archive.

    Args:
        names: text if the encoding is stated, else bytes.
        encoding: codec of the bytes, any of Python's text codecs; None for UTF-8.
        archive: its name, for messages.

    Raises:
        UsageError: some bytes are not in this encoding. If it was None, the message shows one of the names as read by
            codecs that are often used.
    """
    unknown = [name for name in names if isinstance(name, bytes)]
    codec = encoding or "utf-8"
    odd = [name for name in unknown if _decoded(name, codec) is None]
    if not odd:
        return [name if isinstance(name, str) else name.decode(codec) for name in names]
    if encoding is not None:
        raise UsageError(
            f"--name-encoding {encoding}: {len(odd):,} of the names in {archive} are not in this encoding; "
            "give another codec."
        )
    readings = {each: _decoded(odd[0], each) for each in _LIKELY}
    shown = "; ".join(f"{each}: {name}" for each, name in readings.items() if name and name.isprintable())
    raise UsageError(
        f"{archive} does not state how its names are encoded, and {len(odd):,} of them are not UTF-8; pass "
        "--name-encoding with the codec that shows the first of them correctly, which may be any text codec of Python "
        f"({shown})."
    )


def _decoded(name: bytes, codec: str) -> str | None:
    try:
        return name.decode(codec)
    except UnicodeDecodeError:
        return None


def _as_code_page(name: str) -> bytes | None:
    try:
        return name.encode("cp437")
    except UnicodeEncodeError:
        return None


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        yield kind, extra[4 : 4 + size]
        extra = extra[4 + size :]
