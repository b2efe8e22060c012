"""From stored grey values to 8-bit luma: the grey transformations of PS3.3 in their order.

Modality LUT (C.11.1), VOI LUT or window (C.11.2), presentation LUT shape (C.11.6, C.8.11.3.1.2). Each is a function
of one stored value, so they are computed once for each of the at most 65,536 values, and the pixels are looked up.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pneumoscope.errors import ImageError, UnsuitableError
from pneumoscope.imaging import levels
from pneumoscope.imaging.dicom.dataset import decode_errors, first, number, numbers, text
from pneumoscope.imaging.dicom.pixels import BIG_ENDIAN, Layout
from pneumoscope.imaging.radiograph import Luma, Reason, full_range

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Values = NDArray[np.float64]
_SHAPES = frozenset({"IDENTITY", "INVERSE"})
_ANY_WIDTH = frozenset({"SIGMOID", "LINEAR_EXACT"})
_CHECK_LUNGS = "this was applied, but check that the lungs are dark."
_LUTS = {"ModalityLUTSequence": "Modality", "VOILUTSequence": "VOI"}


@dataclass(frozen=True, kw_only=True)
class _Lut:
    """A Modality or VOI LUT: `entries[i]` is the output, of `bits` bits, for the input `start + i`."""

    start: int
    bits: int
    entries: Values
    name: str

    @property
    def notes(self) -> list[str]:
        """A note if the LUT inverts black and white."""
        falls = self.entries[0] > self.entries[-1]
        return [f"the DICOM's {self.name} LUT inverts black and white; {_CHECK_LUNGS}"] if falls else []

    def __call__(self, values: Values) -> Values:
        """Look values up; inputs outside the LUT map to its first or last entry (C.11.1.1.1, C.11.2.1.1)."""
        position = np.clip(np.floor(values) - self.start, 0, len(self.entries) - 1)
        return np.asarray(self.entries[position.astype(np.intp)])


@dataclass(frozen=True)
class _Rendering:
    """One of a file's transformations from values to greys.

    `name` is for messages. `shares` are the values' positions in its output range, 0 to 1, or None if there is no VOI
    LUT and no window. `notes` are to be reported if it is used.
    """

    name: str
    shares: Values | None
    notes: list[str]


def to_luma(codes: NDArray[Any], dataset: "Dataset", layout: Layout) -> tuple[Luma, tuple[Reason, ...]]:
    """Transform stored values (`uint16 [H, W]`, two's complement if signed) to luma (`uint8 [H, W]`), with notes.

    Of the file's own transformations, the first that leaves enough grey levels is used: see `_renderings`.

    Raises:
        UnsuitableError: every pixel is padding or has the same value, or no transformation leaves enough grey levels.
        ImageError: a Modality or VOI LUT is damaged; without it the film might come out as a negative.
    """
    stored = _code_values(layout)
    padding = _padding(stored, dataset, layout)
    counts = np.bincount(codes.ravel(), minlength=len(stored))
    if np.count_nonzero(counts) == 1 or not counts[~padding].any():
        what = "is padding" if padding[codes[0, 0]] else "has the same value"
        raise UnsuitableError(f"the image is blank: every pixel of the DICOM {what}.", code="blank")
    counts[padding] = 0  # padding does not belong to the film, so it does not count as black or white
    values, notes = _modality(stored, dataset, layout)
    inverted, more = _polarity(dataset, layout)
    results = []
    for rendering in _renderings(values, dataset, layout):
        if rendering.shares is None:
            table = _as_stored(values, counts > 0, layout, inverted=inverted)
        else:
            table = np.rint((1 - rendering.shares if inverted else rendering.shares) * 255).astype(np.uint8)
        loss = levels.loss(np.bincount(table, counts, 256).tolist(), rendering.name)
        results.append((table, rendering, loss))
        if loss is None:
            break
    # The first without a loss; else the first whose loss is not hard; else the first.
    table, rendering, loss = min(results, key=lambda result: 0 if result[2] is None else 1 + result[2].hard)
    if rendering is not results[0][1] and (first_loss := results[0][2]) is not None:
        notes.append(f"{first_loss.description}, so {rendering.name} was used.")
    # Padding is black, also in an inverted film.
    table[padding] = 0
    luma = table[codes]
    # Apart from the loss above: a film that is mostly padding leaves too little to judge, whatever its own greys.
    padded = levels.loss(levels.histogram(luma), "the DICOM's padding") if padding.any() else None
    if padded and (loss is None or padded.hard > loss.hard):
        loss = padded
    notes += [*more, *rendering.notes]
    return luma, (*(Reason("note", note) for note in notes), *levels.check_loss(loss))


def _code_values(layout: Layout) -> NDArray[np.int64]:
    """The number that each stored code represents, PS3.3 section C.7.6.3.1 (Pixel Representation)."""
    codes = np.arange(1 << layout.stored, dtype=np.int64)
    half = len(codes) // 2
    return np.where(codes >= half, codes - len(codes), codes) if layout.signed else codes


def _padding(stored: NDArray[np.int64], dataset: "Dataset", layout: Layout) -> NDArray[np.bool_]:
    """Which values are padding: Pixel Padding Value (0028,0120), or the range from it to the limit (C.7.5.1.1.2).

    Both attributes are interpreted as pixels are, signed or not, whatever their own VR. A value that no pixel can have
    is ignored.
    """

    def padding_value(keyword: str) -> int | None:
        value = number(dataset, keyword)
        if value is None or not value.is_integer():
            return None
        # The bits above the stored ones must be 0, or repeat the sign of a negative value.
        above, code = divmod(int(value) % (1 << layout.allocated), 1 << layout.stored)
        negative = (
            layout.signed and code >> (layout.stored - 1) and above + 1 == 1 << (layout.allocated - layout.stored)
        )
        return int(stored[code]) if above == 0 or negative else None

    value = padding_value("PixelPaddingValue")
    if value is None:
        return np.zeros(len(stored), bool)
    limit = padding_value("PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def _modality(stored: NDArray[np.int64], dataset: "Dataset", layout: Layout) -> tuple[Values, list[str]]:
    """Apply the Modality LUT, or Rescale Slope and Intercept (C.11.1)."""
    values = stored.astype(np.float64)
    lut = _lut(dataset, "ModalityLUTSequence", values, layout)
    if lut:
        return lut(values), lut.notes
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if slope == 0 or not math.isfinite(slope * 2.0**17) or not math.isfinite(intercept):
        return values, ["the DICOM's rescale slope or intercept is unusable and was ignored."]
    return values * slope + intercept, []


def _polarity(dataset: "Dataset", layout: Layout) -> tuple[bool, list[str]]:
    """Whether low values are white (C.7.6.3.1.2, C.11.6), and notes on contradictions: manufacturers differ.

    For digital X-ray, MONOCHROME1 belongs with INVERSE and MONOCHROME2 with IDENTITY (C.8.11.3.1.2).
    """
    negative, shape = layout.photometric == "MONOCHROME1", text(dataset, "PresentationLUTShape")
    notes = []
    if shape in _SHAPES and negative != (shape == "INVERSE"):
        notes.append(
            f"the DICOM is {layout.photometric} with the Presentation LUT Shape {shape}; low values are shown as "
            "white, but check that the lungs are dark."
        )
    if (number(dataset, "RescaleSlope") or 0) < 0:
        notes.append(f"the DICOM's rescale slope is negative; {_CHECK_LUNGS}")
    return negative or shape == "INVERSE", notes


def _renderings(values: Values, dataset: "Dataset", layout: Layout) -> Iterator[_Rendering]:
    """The file's VOI LUT and windows (C.11.2) in the order in which they are tried, or one rendering without them.

    The standard leaves the choice among them to the viewer (C.11.2.1.2). A LUT whose entries use fewer bits than it
    states is also tried as a LUT of the number of bits that they use.
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
        yield _Rendering("the DICOM's VOI LUT", np.clip(lut(values) / (2**lut.bits - 1), 0, 1), lut.notes)
        used = int(lut.entries.max()).bit_length()
        if 0 < used < lut.bits:
            yield _Rendering(f"the DICOM's VOI LUT read as {used}-bit", lut(values) / (2**used - 1), lut.notes)
    for at, (centre, width) in enumerate(windows):
        shares, more = _windowed(values, centre, width, text(dataset, "VOILUTFunction") or "LINEAR")
        yield _Rendering(
            "the DICOM's window" if at == 0 else f"the DICOM's window number {at + 1}", shares, [*notes, *more]
        )
    if not (lut or windows):
        notes = ["the DICOM's window is unusable and was ignored."] if unusable else []
        yield _Rendering("the DICOM's Modality LUT" if first(dataset, "ModalityLUTSequence") else "", None, notes)


def _windows(dataset: "Dataset") -> tuple[list[tuple[float, float]], bool]:
    """Centre and width of each usable window, and whether the file has only unusable ones.

    A width must be above 0 for SIGMOID and LINEAR_EXACT, and at least 1 for LINEAR (C.11.2.1.2, C.11.2.1.3). Any other
    term is read as LINEAR.
    """
    least = 0 if text(dataset, "VOILUTFunction") in _ANY_WIDTH else 1
    centres, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    usable = [
        (centre, width)
        for centre, width in zip(centres, widths, strict=False)
        if math.isfinite(centre) and 0 < width < math.inf and width >= least
    ]
    return usable, not usable and bool(centres or widths)


def _windowed(values: Values, centre: float, width: float, function: str) -> tuple[Values, list[str]]:
    """Apply a window function of C.11.2.1.2 or C.11.2.1.3: shares of the output range, 0 to 1, and notes."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (values - centre) / width)), []
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1), []
    notes = (
        [] if function == "LINEAR" else ["the DICOM's window function is not a standard term; it is read as LINEAR."]
    )
    # Width 1 would divide by 0 below; C.11.2.1.2.1 defines it as a step.
    if width == 1:
        return (values > centre - 0.5).astype(np.float64), notes
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1), notes


def _as_stored(values: Values, present: NDArray[np.bool_], layout: Layout, *, inverted: bool) -> Luma:
    """Luma of each value without a window.

    Values of up to 8 bits are scaled from all values they can have, deeper ones from the range that the film uses.
    """
    used = np.ones_like(present) if layout.stored <= 8 else present
    table = np.zeros(len(values), np.uint8)
    table[used] = full_range(values[used], inverted=inverted)
    return table


def _lut(dataset: "Dataset", keyword: str, inputs: Values, layout: Layout) -> _Lut | None:
    """The first item of a LUT sequence that is not empty (C.11.1.1, C.11.2.1.1); None if there is none.

    Raises:
        ImageError: the item is damaged.
    """
    try:
        items = [item for item in dataset.get(keyword) or () if item.get("LUTDescriptor") or item.get("LUTData")]
        if not items:
            return None
        item = items[0]
        count, start, bits = (int(value) for value in item["LUTDescriptor"].value)
        entries = _entries(item["LUTData"].value, count or 65536, bits, big=layout.syntax == BIG_ENDIAN)
    except decode_errors() as failure:
        raise ImageError(f"the DICOM's {_LUTS[keyword]} LUT is damaged; export the film again.") from failure
    if not 1 <= bits <= 16 or len(entries) < max(1, (count or 65536) - 1):  # files with one entry too few are not rare
        raise ImageError(f"the DICOM's {_LUTS[keyword]} LUT is damaged; export the film again.")
    if start >= 1 << 15 and inputs.min() < 0:
        start -= 1 << 16  # it is signed, but was stored as unsigned
    return _Lut(start=start, bits=bits, entries=entries, name=_LUTS[keyword])


def _entries(data: Any, count: int, bits: int, *, big: bool) -> Values:
    """LUT Data as numbers: from bytes, one or two per entry, or from the numbers that pydicom has read."""
    if isinstance(data, bytes):
        narrow = bits <= 8 and len(data) < 2 * count
        return np.frombuffer(data, np.uint8 if narrow else ">u2" if big else "<u2", count).astype(np.float64)
    values = np.asarray(data).ravel()
    if bits <= 8 and len(values) < count - 1 <= 2 * len(values):  # two entries in each word
        values = values.astype("<u2").view(np.uint8)
    return values[:count].astype(np.float64)
