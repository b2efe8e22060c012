"""From the bytes of an image file to the model's input: the only place that does this.

Order of processing: size and signature checks, header, pixel limit, decode to 8-bit luma,
orientation, blank check; then, by the contract's rule, resize. DICOM joins as one more entry of
`_FORMATS`.
"""

import hashlib
import math
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.ImageFile import ImageFile

from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError

Luma: TypeAlias = NDArray[np.uint8]

ACCEPTED = "JPEG, PNG (8 or 16 bit) and TIFF"
SUFFIXES = frozenset({".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".tif", ".tiff"})
UNREAD_SUFFIXES = frozenset({".bmp", ".dcm", ".dicom", ".gif", ".heic", ".jp2", ".pgm", ".webp"})
#: Part of every cache's key: raise it when the same bytes would give another input.
DECODER_VERSION = 1

# The plugins are called directly: Image.open would consult a process-wide pixel limit.
_FORMATS: tuple[tuple[bytes, Callable[[BytesIO], ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
)
_KNOWN_BUT_REFUSED = (
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (8, b"WEBP", "a WebP"),
    (128, b"DICM", "a DICOM file, which this version does not read yet"),
)
# What Pillow's decoders raise on damaged input.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    MemoryError,
)
# PNG specification, third edition: channels by colour type (11.2.1), and the seven interlacing passes (8.1).
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_TIFF_BITS, _TIFF_PHOTOMETRIC, _ORIENTATION, _EXIF_IFD = 258, 262, 274, 34665
_WHITE_IS_ZERO = 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused before anything is decoded."""

    max_bytes: int = 100_000_000
    max_pixels: int = 100_000_000
    min_side: int = 16


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What an image's header says.

    `width` and `height` are as stored, before orientation; `orientation` is the EXIF or TIFF tag, 1 to
    8, 1 is upright. `bits` are of one sample. `quantiser` is the mean of a JPEG's luma quantisation
    table (ITU-T T.81 section B.2.4.1), None for other formats.
    """

    format: str
    mode: str
    width: int
    height: int
    bits: int
    orientation: int
    exif: bool
    icc: bool
    progressive: bool
    quantiser: float | None


def read_file(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a regular file, without reading past the byte limit.

    Raises:
        ImageError: not a regular file, or over the limit.
        OSError: it cannot be opened or read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError("not a regular file.")
    with path.open("rb") as stream:
        data = stream.read(limits.max_bytes + 1)
    if len(data) > limits.max_bytes:
        raise ImageError(f"the file has more than {limits.max_bytes:,} bytes, the most that is accepted.")
    return data


def describe(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> ImageFacts:
    """Read an image's header.

    Raises:
        ImageError: not an accepted image, or over a limit.
    """
    with _open(data, limits) as image:
        quantisers = image.quantization.get(0) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
        return ImageFacts(
            format=image.format or "",
            mode=image.mode,
            width=image.width,
            height=image.height,
            bits=_bits(image, data),
            orientation=_orientation(image),
            exif=_has_exif(image),
            icc="icc_profile" in image.info,
            progressive="progressive" in image.info,
            quantiser=sum(quantisers) / len(quantisers) if quantisers else None,
        )


def read_luma(data: bytes, *, target: int | None = None, margin: float = 1.0, limits: Limits = DEFAULT_LIMITS) -> Luma:
    """Decode to an upright 8-bit luma image.

    Colours become ITU-R BT.601 luma (a JPEG's own Y channel). Transparent pixels are laid over
    black. Greys of more than 8 bits are scaled linearly so that the image's own minimum and maximum
    become 0 and 255, whatever part of the 16-bit range they fill; nothing is clipped. A TIFF whose
    photometric interpretation is WhiteIsZero is inverted. EXIF or TIFF orientation is applied.

    Args:
        data: a whole JPEG, PNG or TIFF file.
        target: a side in pixels that the caller will shrink to. A JPEG may then be decoded at the
            smallest DCT scale whose sides are still at least `target * margin`.
        margin: see `target`.
        limits: what to refuse before decoding.

    Returns:
        `uint8 [height, width]`, 0 is black.

    Raises:
        ImageError: not an accepted image, truncated, animated, blank, or over a limit.
    """
    image = _open(data, limits)
    with image:
        try:
            if isinstance(image, JpegImagePlugin.JpegImageFile):
                least = math.ceil(target * margin) if target else None
                image.draft("L", (least, least) if least else image.size)
            image.load()
            if isinstance(image, PngImagePlugin.PngImageFile):
                _require_all_rows(data)
            luma = _orient(_luma(image), _orientation(image))
        except _DAMAGE as failure:
            raise ImageError(f"cannot decode this {image.format}: {_words(failure)}; the file is damaged.") from failure
    if luma.min() == luma.max():
        raise ImageError("the image is blank: every pixel has the same value.")
    return luma


def to_input(luma: Luma, rule: InputRule) -> Luma:
    """Resize a luma image (`uint8 [H, W]`) by the contract's rule to `uint8 [1, S, S]`."""
    if luma.dtype != np.uint8 or luma.ndim != 2:
        raise ValueError(f"expected uint8 [H, W], got {luma.dtype} {list(luma.shape)}")
    resized = Image.fromarray(luma).resize((rule.size, rule.size), Image.Resampling.BILINEAR)
    return np.asarray(resized)[np.newaxis]


def load_input(data: bytes, rule: InputRule, *, limits: Limits = DEFAULT_LIMITS) -> Luma:
    """Bytes of an image file to the model's input, `uint8 [1, S, S]`, by the contract's rule.

    Raises:
        ImageError: see `read_luma`.
    """
    return to_input(read_luma(data, target=rule.size, margin=rule.decode_margin, limits=limits), rule)


def luma_sha256(luma: Luma) -> str:
    """SHA-256 over a luma image's shape and pixels: equal for pixel-identical films."""
    digest = hashlib.sha256(f"{luma.shape[0]}x{luma.shape[1]}:".encode())
    digest.update(luma.tobytes())
    return digest.hexdigest()


def _open(data: bytes, limits: Limits) -> ImageFile:
    if not data:
        raise ImageError("the file is empty.")
    if len(data) > limits.max_bytes:
        raise ImageError(f"the file has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted.")
    plugin = next((plugin for signature, plugin in _FORMATS if data.startswith(signature)), None)
    if plugin is None:
        raise ImageError(f"not an accepted image ({_looks_like(data)}); accepted are {ACCEPTED}.")
    try:
        image = plugin(BytesIO(data))
        _check_header(image, data, limits)
    except _DAMAGE as failure:
        raise ImageError(f"cannot read the image's header: {_words(failure)}; the file is damaged.") from failure
    return image


def _check_header(image: ImageFile, data: bytes, limits: Limits) -> None:
    width, height = image.size
    if min(width, height) < limits.min_side:
        raise ImageError(f"the image is {width}×{height} pixels; each side must have at least {limits.min_side}.")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"the image is {width}×{height} = {width * height:,} pixels; at most {limits.max_pixels:,} are accepted."
        )
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"the {image.format} holds several frames or pages; give one image a file.")
    if _is_deep_colour(image, data):
        raise ImageError("16-bit colour is not accepted; save it as 16-bit grey or as 8 bit.")


def _bits(image: ImageFile, data: bytes) -> int:
    if isinstance(image, PngImagePlugin.PngImageFile):
        return data[24]  # IHDR, PNG specification 11.2.2
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_TIFF_BITS, (1,))))
    return 8


def _has_exif(image: ImageFile) -> bool:
    """Whether there is an EXIF block; a TIFF's own tags are none."""
    try:
        tags = image.getexif()
    except _DAMAGE:
        return "exif" in image.info
    return _EXIF_IFD in tags if isinstance(image, TiffImagePlugin.TiffImageFile) else len(tags) > 0


def _is_deep_colour(image: ImageFile, data: bytes) -> bool:
    if isinstance(image, PngImagePlugin.PngImageFile):
        return _bits(image, data) == 16 and data[25] != 0  # the colour type: not grey
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return len(image.tag_v2.get(_TIFF_BITS, (1,))) > 1 and _bits(image, data) > 8
    return False


def _require_all_rows(data: bytes) -> None:
    """Raise OSError if a PNG's pixel stream ends early; Pillow would leave the rest black."""
    width, height, depth, colour_type, interlaced = struct.unpack(">IIBB2xB", data[16:29])
    bits = depth * _PNG_CHANNELS[colour_type]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    declared = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
    inflate, found, position = zlib.decompressobj(), 0, 8
    while position + 8 <= len(data) and not inflate.eof:
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        piece = data[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        while piece:
            found += len(inflate.decompress(piece, 1 << 20))
            piece = inflate.unconsumed_tail
        position += length + 12
    found += len(inflate.flush())
    if found < declared:
        raise OSError(f"the pixel data ends after {found:,} of {declared:,} bytes")


def _luma(image: ImageFile) -> Luma:
    if image.mode.startswith(("I", "F")):
        inverted = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == (
            _WHITE_IS_ZERO
        )
        return _full_range(np.asarray(image), inverted=inverted)
    if image.mode == "L":
        return np.asarray(image)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("L"))
    return np.asarray(image.convert("RGB").convert("L"))


def _full_range(values: NDArray[Any], *, inverted: bool) -> Luma:
    """Scale linearly so that the extremes become 0 and 255 (constant images become 0)."""
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("the image holds values that are not finite numbers.")

    def scale(some: NDArray[Any]) -> Luma:
        share = (some.astype(np.float64) - low) / (high - low or 1.0)
        return np.rint((1 - share if inverted else share) * 255).astype(np.uint8)

    if values.dtype == np.uint16:  # a table is quicker, and spares eight bytes a pixel
        return np.asarray(scale(np.arange(65536).clip(low, high))[values])
    return np.concatenate([scale(rows) for rows in np.array_split(values, max(1, len(values) // 64))])


def _orientation(image: ImageFile) -> int:
    """EXIF orientation, 1 to 8; 1 when there is none or the EXIF block is unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if value in range(1, 9) else 1


def _orient(luma: Luma, orientation: int) -> Luma:
    """Undo an EXIF orientation (EXIF 2.32, tag 0x0112)."""
    if orientation >= 5:
        luma = luma.T
    if orientation in (2, 3, 6, 7):
        luma = luma[:, ::-1]
    if orientation in (3, 4, 7, 8):
        luma = luma[::-1]
    return np.ascontiguousarray(luma)


def _looks_like(data: bytes) -> str:
    for offset, signature, name in _KNOWN_BUT_REFUSED:
        if data[offset : offset + len(signature)] == signature:
            return f"it is {name}"
    return f"it begins with {data[:8]!r}"


def _words(failure: BaseException) -> str:
    return str(failure) or type(failure).__name__
