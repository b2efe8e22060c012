"""From stored grey values to 8-bit luma: the grey transformations of PS3.3 in their order.

Modality LUT (C.11.1), VOI LUT or window (C.11.2), presentation LUT shape (C.11.6, C.8.11.3.1.2). All of them
are functions of one stored value, so they are worked out once for each of the at most 65,536 values, and
the pixels are looked up.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pneumoscope.errors import ImageError, UnsuitableError
from pneumoscope.imaging.dicom.dataset import damage, first, number, text
from pneumoscope.imaging.dicom.pixels import BIG_ENDIAN, Layout
from pneumoscope.imaging.radiograph import Luma, full_range

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Values = NDArray[np.float64]
_LUTS = {"ModalityLUTSequence": "Modality", "VOILUTSequence": "VOI"}


@dataclass(frozen=True, kw_only=True)
class _Lut:
    """A Modality or VOI LUT: `entries[i]` is the output for the input `start + i`, of `bits` bits."""

    start: int
    bits: int
    entries: Values

    def __call__(self, values: Values) -> Values:
        """Look up; inputs outside get the first or last entry (C.11.1.1.1, C.11.2.1.1)."""
        position = np.clip(np.floor(values) - self.start, 0, len(self.entries) - 1)
        return np.asarray(self.entries[position.astype(np.intp)])


def to_luma(codes: NDArray[Any], dataset: "Dataset", layout: Layout) -> tuple[Luma, list[str]]:
    """Stored values (`uint16 [H, W]`, two's complement where signed) as luma (`uint8 [H, W]`), and notes.

    Raises:
        UnsuitableError: every pixel is padding.
        ImageError: a Modality or VOI LUT is damaged: without it the film may come out as a negative.
    """
    stored = _meanings(layout)
    padding = _padding(stored, dataset, layout)
    present = (np.bincount(codes.ravel(), minlength=len(stored)) > 0) & ~padding
    if not present.any():
        raise UnsuitableError("the image is blank: every pixel of the DICOM is padding.", code="blank")
    values, notes = _modality(stored, dataset, layout)
    inverted = layout.photometric == "MONOCHROME1" or text(dataset, "PresentationLUTShape") == "INVERSE"
    shares, more = _of_interest(values, dataset, layout)
    if shares is not None:
        table = np.rint((1 - shares if inverted else shares) * 255).astype(np.uint8)
    else:
        table = _as_stored(values, present, layout, inverted=inverted)
    table[padding] = 0
    return table[codes], notes + more


def _meanings(layout: Layout) -> NDArray[np.int64]:
    """The number that each stored code stands for, PS3.3 section C.7.6.3.1 (Pixel Representation)."""
    codes = np.arange(1 << layout.stored, dtype=np.int64)
    half = len(codes) // 2
    return np.where(codes >= half, codes - len(codes), codes) if layout.signed else codes


def _padding(stored: NDArray[np.int64], dataset: "Dataset", layout: Layout) -> NDArray[np.bool_]:
    """Which values are padding: Pixel Padding Value (0028,0120), or from it to the range limit (C.7.5.1.1.2).

    Both are read as a pixel is, with or without its sign; a value that no pixel can have is left out.
    """

    def as_stored(keyword: str) -> int | None:
        said = number(dataset, keyword)
        if said is None or not said.is_integer():
            return None
        above, code = divmod(int(said) % (1 << layout.allocated), 1 << layout.stored)
        negative = (
            layout.signed and code >> (layout.stored - 1) and above + 1 == 1 << (layout.allocated - layout.stored)
        )
        return int(stored[code]) if above == 0 or negative else None

    value = as_stored("PixelPaddingValue")
    if value is None:
        return np.zeros(len(stored), bool)
    limit = as_stored("PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def _modality(stored: NDArray[np.int64], dataset: "Dataset", layout: Layout) -> tuple[Values, list[str]]:
    """Modality LUT, or Rescale Slope and Intercept (C.11.1)."""
    values = stored.astype(np.float64)
    lut = _lut(dataset, "ModalityLUTSequence", values, layout)
    if lut:
        return lut(values), []
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if slope == 0 or not math.isfinite(slope * 2.0**17) or not math.isfinite(intercept):
        return values, ["the DICOM's rescale slope or intercept is unusable and was left out."]
    return values * slope + intercept, []


def _of_interest(values: Values, dataset: "Dataset", layout: Layout) -> tuple[Values | None, list[str]]:
    """VOI LUT or window (C.11.2) as shares of its output range, 0 to 1; None where there is none."""
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    notes = []
    try:
        lut = _lut(dataset, "VOILUTSequence", values, layout)
    except ImageError:
        if centre is None or width is None:
            raise
        lut, notes = None, ["the DICOM's VOI LUT is damaged; its window was used."]
    if lut:
        return np.clip(lut(values) / (2**lut.bits - 1), 0, 1), []
    if centre is None and width is None:
        return None, []
    function = text(dataset, "VOILUTFunction") or "LINEAR"
    least = 1 if function == "LINEAR" else 0
    if centre is None or width is None or not math.isfinite(centre) or not (0 < width < math.inf) or width < least:
        return None, [*notes, "the DICOM's window is unusable and was left out."]
    shares, more = _windowed(values, centre, width, function)
    return shares, notes + more


def _windowed(values: Values, centre: float, width: float, function: str) -> tuple[Values, list[str]]:
    """The window functions of C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (values - centre) / width)), []
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1), []
    notes = (
        [] if function == "LINEAR" else ["the DICOM's window function is none of the standard; it is read as LINEAR."]
    )
    if width == 1:
        return (values > centre - 0.5).astype(np.float64), notes
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1), notes


def _as_stored(values: Values, present: NDArray[np.bool_], layout: Layout, *, inverted: bool) -> Luma:
    """Without a window: up to 8 bits by what they can hold, more by the range that the pixels fill."""
    used = np.ones_like(present) if layout.stored <= 8 else present
    table = np.zeros(len(values), np.uint8)
    table[used] = full_range(values[used], inverted=inverted)
    return table


def _lut(dataset: "Dataset", keyword: str, inputs: Values, layout: Layout) -> _Lut | None:
    """The first item of a LUT sequence (C.11.1.1, C.11.2.1.1), None when there is none."""
    item = first(dataset, keyword)
    try:
        if item is None or not ("LUTDescriptor" in item or "LUTData" in item):
            return None
        count, start, bits = (int(value) for value in item["LUTDescriptor"].value)
        entries = _entries(item["LUTData"].value, count or 65536, bits, big=layout.syntax == BIG_ENDIAN)
    except damage() as failure:
        raise ImageError(f"the DICOM's {_LUTS[keyword]} LUT is damaged; export the film again.") from failure
    if not 1 <= bits <= 16 or len(entries) < max(1, (count or 65536) - 1):  # one short is not rare
        raise ImageError(f"the DICOM's {_LUTS[keyword]} LUT is damaged; export the film again.")
    if start >= 1 << 15 and inputs.min() < 0:
        start -= 1 << 16  # stored without its sign
    return _Lut(start=start, bits=bits, entries=entries)


def _entries(data: Any, count: int, bits: int, *, big: bool) -> Values:
    """LUT Data as numbers: from bytes of one or two a value, or as pydicom has read them."""
    if isinstance(data, bytes):
        narrow = bits <= 8 and len(data) < 2 * count
        return np.frombuffer(data, np.uint8 if narrow else ">u2" if big else "<u2", count).astype(np.float64)
    values = np.asarray(data).ravel()
    if bits <= 8 and len(values) < count - 1 <= 2 * len(values):  # two in each word
        values = values.astype("<u2").view(np.uint8)
    return values[:count].astype(np.float64)
