"""The radiograph that an image file is decoded to, and the checks that are common to all formats."""

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoscope.errors import ImageError, UnsuitableError

Luma: TypeAlias = NDArray[np.uint8]

#: Exceptions that Pillow, pydicom and the codecs raise on damaged input. They are translated to `ImageError`.
DECODE_ERRORS: tuple[type[Exception], ...] = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, SyntaxError, TypeError, ValueError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A file is refused before it is decoded if it has more bytes or pixels, or a shorter side of fewer pixels."""

    max_bytes: int = 100_000_000
    max_pixels: int = 100_000_000
    min_side: int = 16


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Facts of an image file's header.

    `width` and `height` are in pixels as stored, before orientation; `orientation` is the EXIF or TIFF tag, 1 to
    8, where 1 is upright. `bits` is the depth of one sample. `quantiser` is the mean of a JPEG's luma quantisation
    table (ITU-T T.81 section B.2.4.1), None for other formats. `patient` is a pseudonym made of a DICOM's
    Patient ID: equal for equal identifiers, without showing them; None if there is no identifier. The
    defaults are for formats that lack these tags.
    """

    format: str
    mode: str
    width: int
    height: int
    bits: int
    orientation: int = 1
    exif: bool = False
    icc: bool = False
    progressive: bool = False
    quantiser: float | None = None
    patient: str | None = None


class Reason(NamedTuple):
    """A remark on a film: a code for programs, and a sentence for people, which ends with a full stop."""

    code: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Radiograph:
    """A decoded image file with the facts of its header.

    `luma` is `uint8 [height, width]`, upright, where 0 is black. `notes` are remarks to report with the decision; they
    contain nothing that identifies a patient. `age_years` is None if the file does not state an age. `coloured` is the
    share of pixels, 0 to 1, whose colour differs from the picture's tint, None if it was not measured. `transparent` is
    the share of pixels that are more transparent than opaque.
    """

    luma: Luma
    facts: ImageFacts
    notes: tuple[Reason, ...] = ()
    age_years: float | None = None
    coloured: float | None = None
    transparent: float = 0.0


def check_sides(width: int, height: int, limits: Limits) -> None:
    """Raise ImageError for an image that is too small to be judged or too large to be decoded."""
    if min(width, height) < limits.min_side:
        raise UnsuitableError(
            f"the image is {width}×{height} pixels; each side must have at least {limits.min_side}.", code="too-small"
        )
    if width * height > limits.max_pixels:
        raise ImageError(
            f"the image is {width}×{height} = {width * height:,} pixels; at most {limits.max_pixels:,} are accepted."
        )


def full_range(values: NDArray[Any], *, inverted: bool) -> Luma:
    """Scale linearly so that the extremes become 0 and 255; a constant image becomes 0, or 255 if inverted.

    Raises:
        ImageError: a value is not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("the image contains values that are not finite numbers.")

    def scale(some: NDArray[Any]) -> Luma:
        share = (some.astype(np.float64) - low) / (high - low or 1.0)
        return np.rint((1 - share if inverted else share) * 255).astype(np.uint8)

    if values.dtype == np.uint16:  # a lookup table is faster, and saves eight bytes per pixel
        return np.asarray(scale(np.arange(65536).clip(low, high))[values])
    # In strips of fewer than 128 rows, as each is held in float64 while it is scaled.
    return np.concatenate([scale(rows) for rows in np.array_split(values, max(1, len(values) // 64))])


def orient(luma: Luma, orientation: int) -> Luma:
    """Undo an EXIF orientation (EXIF 2.32, tag 0x0112)."""
    if orientation >= 5:
        luma = luma.T
    if orientation in (2, 3, 6, 7):
        luma = luma[:, ::-1]
    if orientation in (3, 4, 7, 8):
        luma = luma[::-1]
    return np.ascontiguousarray(luma)
