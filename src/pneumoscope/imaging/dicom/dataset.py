"""Parsing of a DICOM file (PS3.10 section 7) to a data set of the few attributes that are needed.

pydicom is imported when the first DICOM arrives, not before. Attributes that are not in `_KEYWORDS`, such as the
patient's name, are skipped without being read.
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
from pneumoscope.imaging.radiograph import DECODE_ERRORS

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
#: How many of a file's first bytes `is_dicom` needs.
DICOM_HEAD = 132
#: File name of a medium's directory (PS3.10 section 8.6), which is a DICOM file without a film.
DICOM_INDEX = "DICOMDIR"
_PREFIX_AT, _PREFIX = 128, b"DICM"
_TRANSFER_SYNTAX = b"\x02\x00\x10\x00UI"  # (0002,0010), explicit VR little endian as the whole group
_META_GROUP = b"\x02\x00"
_BARE_ELEMENTS = 3  # with so many elements in order, a file without a preamble is taken for a data set
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
    """The transfer syntax of a data set without a preamble, by its first elements; None if it is not a data set.

    The first elements of a data set (PS3.5 section 7.1) belong to the groups 0002 or 0008. Their tags increase, and
    each begins where the one before it ends, by that one's length.
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
        # A long second element may end beyond the bytes at hand, so that there is no third one to check.
        if count == _BARE_ELEMENTS or (count > 1 and position > DICOM_HEAD):
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
    # pydicom needs a whole file; bare and deflated data sets are made into one first.
    if data[_PREFIX_AT:DICOM_HEAD] != _PREFIX:
        data = _with_preamble(data)
    syntax, start = _meta_information(data)
    if syntax == _DEFLATED:
        data = _as_file(_inflated(data[start:], max_bytes), _EXPLICIT)
    if syntax not in _UNENCAPSULATED:
        data += SEQUENCE_END  # in case it is missing; a second one is not read
    with translate_errors("read this DICOM"):
        return read_partial(BoundedBytes(data), _is_past_image, specific_tags=list(map(Tag, _KEYWORDS))), syntax


def _is_past_image(tag: int, _vr: str | None, _length: int) -> bool:
    """Whether the parser may stop at this tag: the pixel data have been read, or no elements are left.

    Some files end with megabytes of zeros, which parse as the tag (0000,0000).
    """
    return tag > _PIXEL_DATA or tag < _FIRST_OF_FILE


@cache
def decode_errors() -> tuple[type[Exception], ...]:
    """Exceptions that pydicom and the codecs raise on damaged input. Call it only where pydicom is installed."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*DECODE_ERRORS, AttributeError, AssertionError, RuntimeError, InvalidDicomError, BytesLengthException)


@contextmanager
def translate_errors(work: str) -> Iterator[None]:
    """Translate exceptions that damaged input causes in the block to an `ImageError` that names the `work`."""
    try:
        yield
    except decode_errors() as failure:
        raise ImageError(f"cannot {work} ({type(failure).__name__}); the file is damaged.") from failure


def text(dataset: "Dataset", keyword: str) -> str:
    """An attribute's first value in capitals, stripped of spaces; empty if it is missing."""
    return str(first(dataset, keyword) or "").strip().upper()


def number(dataset: "Dataset", keyword: str) -> float | None:
    """An attribute's first value as a number; None if it is missing or not a number."""
    try:
        return float(first(dataset, keyword))
    except (TypeError, ValueError):
        return None


def numbers(dataset: "Dataset", keyword: str) -> list[float]:
    """An attribute's values as numbers; empty if it is missing or any of them is not a number."""
    try:
        value = dataset.get(keyword)
        return [
            float(each) for each in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value])
        ]
    except decode_errors():
        return []


def first(dataset: "Dataset", keyword: str) -> Any:
    """An attribute's first value as pydicom returns it; None if it is missing, unreadable, or empty and not text."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, str | bytes):
            return value
        return value[0] if hasattr(value, "__getitem__") else value
    except decode_errors():
        return None


def _meta_information(data: bytes) -> tuple[str, int]:
    """The transfer syntax in the file meta information, and the position where that ends (PS3.10 section 7.1).

    Read by our own code: deflated data sets must be inflated with a limit, before pydicom sees them.
    """
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
        raise ImageError("the DICOM's file meta information has no transfer syntax; the file is damaged.")
    return syntax, position


def _with_preamble(data: bytes) -> bytes:
    """A data set without a preamble as a file; file meta information is added if it has none."""
    if data.startswith(_META_GROUP):
        return bytes(_PREFIX_AT) + _PREFIX + data
    return _as_file(data, _bare_syntax(data) or _IMPLICIT)


def _inflated(deflated: bytes, max_bytes: int) -> bytes:
    """Inflate a deflated data set (PS3.5 section A.5)."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflate.decompress(deflated, max_bytes)
    except zlib.error as failure:
        raise ImageError("cannot inflate this DICOM; the file is damaged.") from failure
    if inflate.unconsumed_tail:
        raise ImageError(f"the DICOM inflates to more than {max_bytes:,} bytes, the most that is accepted.")
    return plain


def _as_file(dataset: bytes, syntax: str) -> bytes:
    """A data set as a file: a preamble, file meta information with its transfer syntax, the data set."""
    uid = syntax.encode() + b"\x00" * (len(syntax) % 2)
    return bytes(_PREFIX_AT) + _PREFIX + _TRANSFER_SYNTAX + struct.pack("<H", len(uid)) + uid + dataset


# Warning filters and loggers are global to the process, so all threads share one state.
class _Quiet:
    """Number of threads inside `quiet`: the first silences pydicom, the last restores it."""

    lock, depth = Lock(), 0
    undo = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress pydicom's warnings and log records: they quote values of the file, which may identify a patient."""
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
