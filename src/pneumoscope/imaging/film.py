"""From an image file to a radiograph to the model input. No other module does this.

Order of processing: byte limit and signature, header, pixel limit, decoding to 8-bit luma, orientation,
check of the remaining grey levels; then resizing by the contract's rule.
"""

import hashlib
import io
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError
from pneumoscope.imaging import raster
from pneumoscope.imaging.dicom import read as dicom
from pneumoscope.imaging.radiograph import DEFAULT_LIMITS, Limits, Luma, Radiograph

ACCEPTED = "JPEG, PNG (1 to 16 bit), TIFF, WebP, BMP, GIF and DICOM"
SUFFIXES = frozenset(
    {".dcm", ".dicom", ".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"}
)
UNSUPPORTED_SUFFIXES = frozenset(
    {".avif", ".heic", ".heif", ".j2k", ".jls", ".jp2", ".jxl", ".jxr", ".mha", ".nii", ".pgm", ".psd", ".svg"}
)
#: Part of every cache's key. Raise it when the same bytes would give another model input.
DECODER_VERSION = 3

# Formats that are named when they are refused: offset, signature, name. The first match counts, so the brands of
# AVIF and HEIC stand before the `ftyp` that they share with MP4.
_REFUSED_FORMATS = (
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "compressed by gzip"),
    (0, b"II+\x00", "a BigTIFF"),
    (0, b"MM\x00+", "a BigTIFF"),
    (0, b"II\xbc", "a JPEG XR"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream"),
    (0, b"\xff\xd8\xff\xf7", "a JPEG-LS"),
    (0, b"\xff\xd8\xff\xe8", "a JPEG-LS"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"NRRD0", "an NRRD volume"),
    (0, b"ObjectType", "a MetaImage"),
    (0, b"\x5c\x01\x00\x00", "a NIfTI volume"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"%!PS", "PostScript"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"\x00\x00\x01\x00", "an icon"),
    (0, b"P5", "a PGM"),
    (0, b"P6", "a PPM"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"<?xml", "an XML document"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftypavis", "an AVIF"),
    *((4, b"ftyp" + brand, "a HEIC") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
    (4, b"ftyp", "a video or picture in an MP4 container"),
)


def read_file(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Read a regular file, at most one byte past the byte limit.

    Raises:
        ImageError: it is not a regular file, or over the limit.
        OSError: it cannot be opened or read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError("not a regular file.")
    with path.open("rb") as stream:
        data = stream.read(limits.max_bytes + 1)
    if len(data) > limits.max_bytes:
        raise ImageError(f"the file has more than {limits.max_bytes:,} bytes, the most that is accepted.")
    return data


def read_radiograph(data: bytes, *, rule: InputRule | None = None, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """Decode an image file to an upright radiograph: 8-bit luma and the facts of its header.

    Colours become ITU-R BT.601 luma (a JPEG's own Y channel). Transparent pixels are composited over
    black. Greys of more than 8 bits are scaled linearly so that the image's own minimum and maximum
    become 0 and 255, whatever part of the 16-bit range they fill; nothing is clipped. A TIFF whose
    photometric interpretation is WhiteIsZero is inverted. EXIF or TIFF orientation is applied.
    A DICOM's greys are transformed by its own attributes instead, and its Patient Orientation is applied: see
    `dicom.greys` and `dicom.patient`.

    Args:
        data: a whole file of a format in `ACCEPTED`.
        rule: the contract's rule by which the caller will resize the radiograph. A JPEG may then be decoded at the
            smallest DCT scale whose sides are still at least the rule's size times its margin.
        limits: sizes beyond which the file is refused before it is decoded.

    Raises:
        ImageError: it is not an accepted image, or is truncated, damaged, animated, (nearly) blank, over a limit, or a
            DICOM whose header shows that it is not a frontal chest radiograph.
    """
    _require_accepted(data, limits)
    # DICOM is tested first: its preamble may make the file a valid TIFF as well (PS3.10 section 7.1).
    return dicom.read(data, limits) if dicom.is_dicom(data) else raster.read(data, rule, limits)


def read_luma(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Luma:
    """The pixels of `read_radiograph`: `uint8 [height, width]`, 0 is black.

    Raises:
        ImageError: see `read_radiograph`.
    """
    return read_radiograph(data, limits=limits).luma


def resize(luma: Luma, height: int, width: int) -> Luma:
    """Resize a luma image (`uint8 [H, W]`) to `uint8 [height, width]`, antialiased bilinear."""
    if luma.dtype != np.uint8 or luma.ndim != 2:
        raise ValueError(f"expected uint8 [H, W], got {luma.dtype} {list(luma.shape)}")
    return np.asarray(Image.fromarray(luma).resize((width, height), Image.Resampling.BILINEAR))


def fit(luma: Luma, longest: int) -> Luma:
    """Shrink a luma image (`uint8 [H, W]`) to a longest side of at most `longest` pixels; the aspect is kept."""
    height, width = luma.shape
    factor = longest / max(height, width)
    return luma if factor >= 1 else resize(luma, max(1, round(height * factor)), max(1, round(width * factor)))


def enlarge(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Interpolate a coarse map (`float32 [h, w]`) to `float32 [height, width]`, bilinear, to overlay it on a film."""
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def to_input(luma: Luma, rule: InputRule) -> Luma:
    """Resize a luma image (`uint8 [H, W]`) by the contract's rule to the model input, `uint8 [1, S, S]`."""
    return resize(luma, rule.size, rule.size)[np.newaxis]


def read_for_input(data: bytes, rule: InputRule, *, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """Decode an image file at the smallest scale that the contract's rule allows; call `to_input` on the result.

    Raises:
        ImageError: see `read_radiograph`.
    """
    return read_radiograph(data, rule=rule, limits=limits)


def load_input(data: bytes, rule: InputRule, *, limits: Limits = DEFAULT_LIMITS) -> Luma:
    """Decode an image file to the model input, `uint8 [1, S, S]`, by the contract's rule.

    Raises:
        ImageError: see `read_radiograph`.
    """
    return to_input(read_for_input(data, rule, limits=limits).luma, rule)


def shrink(data: bytes, rule: InputRule) -> bytes:
    """The model input of an image file, as a PNG file.

    The rule leaves an image of the model input's size as it is, so the model gives the same outputs for the PNG as for
    the original. Facts of a DICOM's header, such as the age, are not in the PNG, nor are colours and transparency, by
    which the gate also judges a picture.

    Raises:
        ImageError: see `read_radiograph`.
    """
    return encode(load_input(data, rule)[0], "PNG")


def encode(luma: Luma, file_format: str, **options: Any) -> bytes:
    """Encode a luma image (`uint8 [H, W]`) as a file of one of Pillow's formats, with Pillow's options for it."""
    stream = io.BytesIO()
    Image.fromarray(luma).save(stream, file_format, **options)
    return stream.getvalue()


def luma_sha256(luma: Luma) -> str:
    """SHA-256 over a luma image's shape and pixels: equal for pixel-identical films."""
    digest = hashlib.sha256(f"{luma.shape[0]}x{luma.shape[1]}:".encode())
    digest.update(luma.tobytes())
    return digest.hexdigest()


def _require_accepted(data: bytes, limits: Limits) -> None:
    if not data:
        raise ImageError("the file is empty.")
    if len(data) > limits.max_bytes:
        raise ImageError(f"the file has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted.")
    if dicom.is_dicom(data):
        return
    names = (name for at, signature, name in _REFUSED_FORMATS if data.startswith(signature, at))
    if (name := next(names, None)) or not raster.is_raster(data):
        what = f"it is {name}" if name else f"it begins with {data[:8]!r}"
        raise ImageError(f"not an accepted image ({what}); accepted are {ACCEPTED}.")
