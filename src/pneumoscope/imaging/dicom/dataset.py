"""From the bytes of a DICOM file (PS3.10 section 7) to a data set of the few attributes that are needed.

pydicom is imported here only, and only when DICOM bytes arrive. Names, identifiers and whatever else is
not in `_KEYWORDS` is skipped unread.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from pneumoscope.errors import ImageError
from pneumoscope.imaging.bounded import BoundedBytes
from pneumoscope.imaging.dicom.codestream import SEQUENCE_END
from pneumoscope.imaging.radiograph import DAMAGE

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_KEYWORDS = (
    *("SOPClassUID", "Modality", "PresentationIntentType", "BodyPartExamined", "ViewPosition", "ViewCodeSequence"),
    *("SeriesDescription", "ProtocolName", "StudyDescription"),
    *("PatientID", "PatientAge", "PatientBirthDate", "PatientOrientation"),
    *("StudyDate", "AcquisitionDate"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "VOILUTSequence", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "PresentationLUTShape", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)
#: How many of a file's first bytes `is_dicom` looks at.
DICOM_HEAD = 132
#: The name of a medium's index (PS3.10 section 8.6), which holds no film.
DICOM_INDEX = "DICOMDIR"
_PREFIX_AT, _PREFIX = 128, b"DICM"
_TRANSFER_SYNTAX = b"\x02\x00\x10\x00UI"  # (0002,0010), explicit VR little endian as the whole group
_META_GROUP = b"\x02\x00"
_BARE_ELEMENTS = 3
_ORDERS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
_LONG_LENGTHS = (b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"OD", b"OL", b"UC", b"UR")  # PS3.5 section 7.1.2
_IMPLICIT, _EXPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_DEFLATED = _EXPLICIT + ".99"
_UNENCAPSULATED = frozenset({_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, _DEFLATED})
_PIXEL_DATA, _FIRST_OF_FILE = 0x7FE00010, 0x00020000


def is_dicom(data: bytes) -> bool:
    """Whether the bytes are a DICOM file, 128 bytes of preamble and DICM (PS3.10 section 7.1), or a bare data set."""
    return data[_PREFIX_AT:DICOM_HEAD] == _PREFIX or _bare_syntax(data) is not None


def _bare_syntax(data: bytes) -> str | None:
    """The transfer syntax of a data set without a file's preamble, by how its first elements are written (PS3.5 7.1).

    They are of the groups 0002 or 0008, their tags rise, and they lie where the lengths before them say.
    """
    for syntax, order in ((_IMPLICIT, "<"), (_EXPLICIT, "<"), (_BIG_ENDIAN, ">")):
        position, before, count = 0, (0, 0), 0
        while position + 8 <= min(len(data), DICOM_HEAD) and count < _BARE_ELEMENTS:
            tag = struct.unpack_from(f"{order}HH", data, position)
            if tag[0] not in (0x0002, 0x0008) or tag <= before:
                break
            if syntax == _IMPLICIT:
                header, length = 8, struct.unpack_from("<I", data, position + 4)[0]
            elif not data[position + 4 : position + 6].isupper():
                break
            else:
                long = data[position + 4 : position + 6] in _LONG_LENGTHS
                header = 12 if long else 8
                length = int.from_bytes(
                    data[position + header - (4 if long else 2) : position + header], _ORDERS[order]
                )
            before, position, count = tag, position + header + length, count + 1
        if count == _BARE_ELEMENTS or (count and position > DICOM_HEAD and count > 1):
            return syntax
    return None


def read_dataset(data: bytes, max_bytes: int) -> tuple["Dataset", str]:
    """The attributes of `_KEYWORDS` and the UID of the transfer syntax they were stored in.

    Raises:
        ImageError: pydicom is not installed, or the file is damaged or inflates to over `max_bytes`.
    """
    try:
        from pydicom.filereader import read_partial
        from pydicom.tag import Tag
    except ImportError as missing:
        raise ImageError("reading DICOM needs pydicom; run `pip install 'pneumoscope[dicom]'`.") from missing
    if data[_PREFIX_AT:DICOM_HEAD] != _PREFIX:
        data = _with_preamble(data)
    syntax, start = _meta_information(data)
    if syntax == _DEFLATED:
        data = _as_file(_inflated(data[start:], max_bytes), _EXPLICIT)
    if syntax not in _UNENCAPSULATED:
        data += SEQUENCE_END  # in case it is missing; behind one that is there it is not read
    with undamaged("read this DICOM"):
        return read_partial(BoundedBytes(data), _follows_the_image, specific_tags=list(map(Tag, _KEYWORDS))), syntax


def _follows_the_image(tag: int, _vr: str | None, _length: int) -> bool:
    """Whether the image lies behind: what follows is not needed, or no element, such as megabytes of zeros."""
    return tag > _PIXEL_DATA or tag < _FIRST_OF_FILE


@cache
def damage() -> tuple[type[Exception], ...]:
    """What pydicom and the codecs raise on damaged input, for an `except` where pydicom is there."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*DAMAGE, AttributeError, AssertionError, RuntimeError, InvalidDicomError, BytesLengthException)


@contextmanager
def undamaged(work: str) -> Iterator[None]:
    """Raise ImageError, which names the work, where the block finds the file damaged."""
    try:
        yield
    except damage() as failure:
        raise ImageError(f"cannot {work} ({type(failure).__name__}); the file is damaged.") from failure


def text(dataset: "Dataset", keyword: str) -> str:
    """An attribute's first value in capitals, without spaces around it; empty when missing."""
    return str(first(dataset, keyword) or "").strip().upper()


def number(dataset: "Dataset", keyword: str) -> float | None:
    """An attribute's first value as a number, None when missing or no number."""
    try:
        return float(first(dataset, keyword))
    except (TypeError, ValueError):
        return None


def numbers(dataset: "Dataset", keyword: str) -> list[float]:
    """An attribute's values as numbers, up to the first that is none; of a value there may be one or several."""
    try:
        value = dataset.get(keyword)
        return [
            float(each) for each in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value])
        ]
    except damage():
        return []


def first(dataset: "Dataset", keyword: str) -> Any:
    """An attribute's first value as pydicom gives it, None when missing, empty or unreadable."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, str | bytes):
            return value
        return value[0] if hasattr(value, "__getitem__") else value
    except damage():
        return None


def _meta_information(data: bytes) -> tuple[str, int]:
    """The transfer syntax of the file meta information, and where it ends (PS3.10 section 7.1)."""
    syntax, position = "", DICOM_HEAD
    while data[position : position + 2] == _META_GROUP:
        header = data[position : position + 12]
        if len(header) < 8:
            break
        long = header[4:6] in _LONG_LENGTHS
        length = int.from_bytes(header[8:12] if long else header[6:8], "little")
        value_at = position + (12 if long else 8)
        if header.startswith(_TRANSFER_SYNTAX):
            syntax = data[value_at : value_at + length].rstrip(b"\x00 ").decode("ascii", "replace")
        position = value_at + length
    if not syntax:
        raise ImageError("the DICOM's file meta information names no transfer syntax; the file is damaged.")
    return syntax, position


def _with_preamble(data: bytes) -> bytes:
    """A bare data set as a file; its own meta information is kept where it has any."""
    if data.startswith(_META_GROUP):
        return bytes(_PREFIX_AT) + _PREFIX + data
    return _as_file(data, _bare_syntax(data) or _IMPLICIT)


def _inflated(deflated: bytes, max_bytes: int) -> bytes:
    """A deflated data set (PS3.5 section A.5), inflated."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflate.decompress(deflated, max_bytes)
    except zlib.error as failure:
        raise ImageError("cannot inflate this DICOM; the file is damaged.") from failure
    if inflate.unconsumed_tail:
        raise ImageError(f"the DICOM inflates to more than {max_bytes:,} bytes, the most that is accepted.")
    return plain


def _as_file(dataset: bytes, syntax: str) -> bytes:
    """A data set behind a preamble and meta information that names its transfer syntax."""
    uid = syntax.encode() + b"\x00" * (len(syntax) % 2)
    return bytes(_PREFIX_AT) + _PREFIX + _TRANSFER_SYNTAX + struct.pack("<H", len(uid)) + uid + dataset


class _Quiet:
    """How many threads want pydicom quiet; the first sets it up, the last undoes it."""

    lock, depth = Lock(), 0
    undo = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings and log, which quote values of the file, from everybody."""
    with _Quiet.lock:
        if _Quiet.depth == 0:
            logger = logging.getLogger("pydicom")
            _Quiet.undo.callback(setattr, logger, "propagate", logger.propagate)
            logger.propagate = False
            _Quiet.undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _Quiet.depth += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0:
                _Quiet.undo.close()
