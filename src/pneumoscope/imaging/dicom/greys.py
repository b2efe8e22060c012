"""From stored grey values to 8-bit luma: the grey transformations of PS3.3 in their order.

Modality LUT (C.11.1), VOI LUT or window (C.11.2), presentation LUT shape (C.11.6, C.8.11.3.1.2). All of them
are functions of one stored value, so they are worked out once for each of the at most 65,536 values, and
the pixels are looked up.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pneumoscope.errors import ImageError, UnsuitableError
from pneumoscope.imaging import levels
from pneumoscope.imaging.dicom.dataset import damage, first, number, numbers, text
from pneumoscope.imaging.dicom.pixels import BIG_ENDIAN, Layout
from pneumoscope.imaging.radiograph import Luma, Reason, full_range

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Values = NDArray[np.float64]
_SHAPES = frozenset({"IDENTITY", "INVERSE"})
_LOOK = "that was followed, but look whether its lungs are dark."
_LUTS = {"ModalityLUTSequence": "Modality", "VOILUTSequence": "VOI"}


@dataclass(frozen=True, kw_only=True)
class _Lut:
    """A Modality or VOI LUT: `entries[i]` is the output for the input `start + i`, of `bits` bits."""

    start: int
    bits: int
    entries: Values
    name: str

    @property
    def notes(self) -> list[str]:
        """That it turns black and white around, if it does."""
        falls = self.entries[0] > self.entries[-1]
        return [f"the DICOM's {self.name} LUT falls; {_LOOK}"] if falls else []

    def __call__(self, values: Values) -> Values:
        """Look up; inputs outside get the first or last entry (C.11.1.1.1, C.11.2.1.1)."""
        position = np.clip(np.floor(values) - self.start, 0, len(self.entries) - 1)
        return np.asarray(self.entries[position.astype(np.intp)])


@dataclass(frozen=True)
class _Way:
    """One way from values to greys: what it is called, shares of its output range or None, and what to tell of it."""

    name: str
    shares: Values | None
    notes: list[str]


def to_luma(codes: NDArray[Any], dataset: "Dataset", layout: Layout) -> tuple[Luma, tuple[Reason, ...]]:
    """Stored values (`uint16 [H, W]`, two's complement where signed) as luma (`uint8 [H, W]`), and notes.

    The first transformation of the file's own that leaves enough of the greys is taken: see `_ways`.

    Raises:
        UnsuitableError: every pixel is padding or has the same value, or the transformations leave too little of them.
        ImageError: a Modality or VOI LUT is damaged: without it the film may come out as a negative.
    """
    stored = _meanings(layout)
    padding = _padding(stored, dataset, layout)
    counts = np.bincount(codes.ravel(), minlength=len(stored))
    if np.count_nonzero(counts) == 1 or not counts[~padding].any():
        what = "is padding" if padding[codes[0, 0]] else "has the same value"
        raise UnsuitableError(f"the image is blank: every pixel of the DICOM {what}.", code="blank")
    counts[padding] = 0
    values, notes = _modality(stored, dataset, layout)
    inverted, more = _polarity(dataset, layout)
    results = []
    for way in _ways(values, dataset, layout):
        if way.shares is None:
            table = _as_stored(values, counts > 0, layout, inverted=inverted)
        else:
            table = np.rint((1 - way.shares if inverted else way.shares) * 255).astype(np.uint8)
        lost = levels.loss(np.bincount(table, counts, 256).tolist(), way.name)
        results.append((table, way, lost))
        if lost is None:
            break
    table, way, lost = min(results, key=lambda result: 0 if result[2] is None else 1 + result[2].hard)
    if way is not results[0][1] and (first := results[0][2]) is not None:
        notes.append(f"{first.words}, so {way.name} was used.")
    table[padding] = 0
    luma = table[codes]
    padded = levels.loss(levels.histogram(luma), "the DICOM's padding") if padding.any() else None
    if padded and (lost is None or padded.hard > lost.hard):
        lost = padded
    notes += [*more, *way.notes]
    return luma, (*(Reason("note", note) for note in notes), *levels.told(lost))


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
        return lut(values), lut.notes
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if slope == 0 or not math.isfinite(slope * 2.0**17) or not math.isfinite(intercept):
        return values, ["the DICOM's rescale slope or intercept is unusable and was left out."]
    return values * slope + intercept, []


def _polarity(dataset: "Dataset", layout: Layout) -> tuple[bool, list[str]]:
    """Whether low values are white (C.7.6.3.1.2, C.11.6), and what is unusual about it: makers differ."""
    negative, shape = layout.photometric == "MONOCHROME1", text(dataset, "PresentationLUTShape")
    notes = []
    if shape in _SHAPES and negative != (shape == "INVERSE"):
        notes.append(f"the DICOM is {layout.photometric} with the Presentation LUT Shape {shape}; {_LOOK}")
    if (number(dataset, "RescaleSlope") or 0) < 0:
        notes.append(f"the DICOM's rescale slope is negative; {_LOOK}")
    return negative or shape == "INVERSE", notes


def _ways(values: Values, dataset: "Dataset", layout: Layout) -> Iterator[_Way]:
    """The VOI LUT and the windows (C.11.2) of the file, in the order in which they are tried; or none of either.

    Each may be used (C.11.2.1.2); a table that has fewer bits than it says is also read as of those that it has.
    """
    notes: list[str] = []
    windows, unusable = _windows(dataset)
    try:
        lut = _lut(dataset, "VOILUTSequence", values, layout)
    except ImageError:
        if not windows:
            raise
        lut, notes = None, ["the DICOM's VOI LUT is damaged; its window was used."]
    if lut:
        yield _Way("the DICOM's VOI LUT", np.clip(lut(values) / (2**lut.bits - 1), 0, 1), lut.notes)
        used = int(lut.entries.max()).bit_length()
        if 0 < used < lut.bits:
            yield _Way(f"the DICOM's VOI LUT as one of {used} bits", lut(values) / (2**used - 1), lut.notes)
    for at, (centre, width) in enumerate(windows):
        shares, more = _windowed(values, centre, width, text(dataset, "VOILUTFunction") or "LINEAR")
        yield _Way("the DICOM's window" if at == 0 else f"the DICOM's window number {at + 1}", shares, [*notes, *more])
    if not (lut or windows):
        told = ["the DICOM's window is unusable and was left out."] if unusable else []
        yield _Way("the DICOM's Modality LUT" if first(dataset, "ModalityLUTSequence") else "", None, told)


def _windows(dataset: "Dataset") -> tuple[list[tuple[float, float]], bool]:
    """Centre and width of each window that can be used, and whether there are others only."""
    least = 1 if (text(dataset, "VOILUTFunction") or "LINEAR") == "LINEAR" else 0
    centres, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    usable = [
        (centre, width)
        for centre, width in zip(centres, widths, strict=False)
        if math.isfinite(centre) and 0 < width < math.inf and width >= least
    ]
    return usable, not usable and bool(centres or widths)


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
    """The first item of a LUT sequence that is filled (C.11.1.1, C.11.2.1.1), None when there is none."""
    try:
        items = [item for item in dataset.get(keyword) or () if item.get("LUTDescriptor") or item.get("LUTData")]
        if not items:
            return None
        item = items[0]
        count, start, bits = (int(value) for value in item["LUTDescriptor"].value)
        entries = _entries(item["LUTData"].value, count or 65536, bits, big=layout.syntax == BIG_ENDIAN)
    except damage() as failure:
        raise ImageError(f"the DICOM's {_LUTS[keyword]} LUT is damaged; export the film again.") from failure
    if not 1 <= bits <= 16 or len(entries) < max(1, (count or 65536) - 1):  # one short is not rare
        raise ImageError(f"the DICOM's {_LUTS[keyword]} LUT is damaged; export the film again.")
    if start >= 1 << 15 and inputs.min() < 0:
        start -= 1 << 16  # stored without its sign
    return _Lut(start=start, bits=bits, entries=entries, name=_LUTS[keyword])


def _entries(data: Any, count: int, bits: int, *, big: bool) -> Values:
    """LUT Data as numbers: from bytes of one or two a value, or as pydicom has read them."""
    if isinstance(data, bytes):
        narrow = bits <= 8 and len(data) < 2 * count
        return np.frombuffer(data, np.uint8 if narrow else ">u2" if big else "<u2", count).astype(np.float64)
    values = np.asarray(data).ravel()
    if bits <= 8 and len(values) < count - 1 <= 2 * len(values):  # two in each word
        values = values.astype("<u2").view(np.uint8)
    return values[:count].astype(np.float64)
