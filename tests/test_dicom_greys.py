"""From the stored values of a DICOM to luma: sign, LUTs, windows, inversion and padding."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

import dicoms
from dicoms import EXPLICIT, dicom, written
from pneumoscope.errors import ImageError
from pneumoscope.imaging import Limits, Reason, is_dicom, read_luma, read_radiograph
from pneumoscope.imaging.dicom import dataset as source
from pneumoscope.imaging.dicom import greys, pixels
from samples import ramp

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
GREY = ramp()
DEEP = GREY.astype(np.uint16) * 16 + 5


def lut(descriptor: list[int], data: list[int] | bytes, vr: str = "US") -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else vr, data)
    return Sequence([item])


def rounded(shares: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.rint(np.clip(shares, 0, 1) * 255))


def test_bits_that_are_not_stored_bits_are_ignored() -> None:
    """PS3.5 section 8.1.1: other bits may contain overlays or anything, and the stored bits may lie higher."""
    noise = np.random.default_rng(0).integers(0, 16, DEEP.shape).astype(np.uint16)
    expected = read_luma(dicom(DEEP, BitsStored=12))
    np.testing.assert_array_equal(read_luma(dicom(DEEP | (noise << 12), BitsStored=12)), expected)
    np.testing.assert_array_equal(read_luma(dicom((DEEP << 4) | noise, BitsStored=12, HighBit=15)), expected)


@pytest.mark.parametrize("syntax", [EXPLICIT, dicoms.BIG_ENDIAN, dicoms.RLE, dicoms.JPEG_LS, dicoms.JPEG_2000])
def test_signed_values(syntax: str) -> None:
    signed = (DEEP.astype(np.int32) * 8 - 15000).astype(np.int16)
    expected = np.rint((signed - signed.min()) / (int(signed.max()) - int(signed.min())) * 255)
    np.testing.assert_array_equal(read_luma(dicom(signed, syntax)), expected)
    shallow = (GREY.astype(np.int16) - 128).astype(np.int8)
    np.testing.assert_array_equal(read_luma(dicom(shallow)), GREY)


def test_signed_twelve_bit_values_without_sign_extension() -> None:
    signed = DEEP.astype(np.int16) - 2048
    expected = read_luma(dicom(signed, BitsStored=12))
    np.testing.assert_array_equal(expected, read_luma(dicom(DEEP, BitsStored=12)))
    unset = (signed & 0xFFF).astype(np.int16)
    np.testing.assert_array_equal(read_luma(dicom(unset, BitsStored=12)), expected)


@pytest.mark.parametrize(
    "attributes",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ],
)
def test_inverted_exactly_once(attributes: dict[str, Any]) -> None:
    np.testing.assert_array_equal(read_luma(dicom(GREY, **attributes)), 255 - GREY)
    windowed: dict[str, Any] = {"BitsStored": 12, "WindowCenter": 1500, "WindowWidth": 1000}
    plain, inverted = read_luma(dicom(DEEP, **windowed)), read_luma(dicom(DEEP, **windowed, **attributes))
    assert np.abs(plain.astype(int) + inverted - 255).max() <= 1  # a half is rounded up or down
    np.testing.assert_array_equal(read_luma(dicom(GREY, PresentationLUTShape="IDENTITY")), GREY)


def test_windows_follow_their_formulas() -> None:
    """PS3.3 sections C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, after the rescale of C.11.1.1.2."""
    slope, intercept, centre, width = 2.0, -1000.0, 2500.0, 1800.0
    x = DEEP * slope + intercept
    expected = {
        None: (x - (centre - 0.5)) / (width - 1) + 0.5,
        "LINEAR": (x - (centre - 0.5)) / (width - 1) + 0.5,
        "LINEAR_EXACT": (x - centre) / width + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - centre) / width)),
    }
    for function, shares in expected.items():
        data = dicom(
            DEEP,
            BitsStored=12,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
            WindowCenter=[centre, 40],
            WindowWidth=[width, 80],
            VOILUTFunction=function,
        )
        np.testing.assert_array_equal(read_luma(data), rounded(shares))


@pytest.mark.usefixtures("any_greys")
def test_the_narrowest_window_is_a_threshold() -> None:
    luma = read_luma(dicom(GREY, WindowCenter=100, WindowWidth=1))
    np.testing.assert_array_equal(luma, np.where(GREY > 99.5, 255, 0))


@pytest.mark.parametrize("width", [0, -20, 0.5])
def test_a_degenerate_window_is_ignored_with_a_note(width: float) -> None:
    film = read_radiograph(dicom(GREY, WindowCenter=100, WindowWidth=width))
    np.testing.assert_array_equal(film.luma, GREY)
    assert film.notes == (Reason("note", "the DICOM's window is unusable and was ignored."),)


def test_an_unknown_window_function_and_an_unusable_rescale_are_noted() -> None:
    film = read_radiograph(dicom(GREY, WindowCenter=128, WindowWidth=256, VOILUTFunction="CUBIC", RescaleSlope=0))
    assert len(film.notes) == 2
    np.testing.assert_array_equal(film.luma, rounded((GREY - 127.5) / 255 + 0.5))


def test_an_unknown_window_function_cannot_make_a_negative() -> None:
    """It is read as LINEAR, whose divisor, the width minus 1, is negative for windows narrower than 1."""
    film = read_radiograph(dicom(GREY, WindowCenter=128, WindowWidth=0.5, VOILUTFunction="CUBIC"))
    np.testing.assert_array_equal(film.luma, GREY)
    assert film.notes == (Reason("note", "the DICOM's window is unusable and was ignored."),)


def test_a_negative_slope_inverts_eight_bits_too() -> None:
    np.testing.assert_array_equal(read_luma(dicom(GREY, RescaleSlope=-1, RescaleIntercept=255)), 255 - GREY)


@pytest.mark.usefixtures("any_greys")
@pytest.mark.parametrize("as_bytes", [False, True])
def test_lookup_tables(as_bytes: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """C.11.1.1.1 and C.11.2.1.1: entry by entry; inputs outside map to the first or last one."""
    entries = [round(4095 * (i / 999) ** 2) for i in range(1000)]
    data: list[int] | bytes = np.asarray(entries, "<u2").tobytes() if as_bytes else entries
    index = np.clip(DEEP.astype(int) - 1500, 0, 999)
    voi = read_luma(
        dicom(DEEP, BitsStored=12, VOILUTSequence=lut([1000, 1500, 12], data), WindowCenter=9, WindowWidth=9)
    )
    np.testing.assert_array_equal(voi, rounded(np.asarray(entries)[index] / 4095))
    modality = dicom(
        DEEP, BitsStored=12, ModalityLUTSequence=lut([1000, 1500, 12], data), WindowCenter=2000, WindowWidth=1000
    )
    np.testing.assert_array_equal(read_luma(modality), rounded((np.asarray(entries)[index] - 1999.5) / 999 + 0.5))


def test_lookup_tables_of_packed_bytes_and_of_negative_inputs() -> None:
    packed = bytes(range(255, -1, -1))
    np.testing.assert_array_equal(read_luma(dicom(GREY, VOILUTSequence=lut([256, 0, 8], packed))), 255 - GREY)
    signed = GREY.astype(np.int16) - 128
    table = lut([256, 65536 - 128, 8], list(range(256)))
    np.testing.assert_array_equal(read_luma(dicom(signed, VOILUTSequence=table)), GREY)


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_broken_lookup_table_is_refused(keyword: str) -> None:
    """Without its table the film might be a negative. An absent table is ignored, one missing entry tolerated."""
    no_data = Dataset()
    no_data.add_new("LUTDescriptor", "US", [256, 0, 8])
    for table in (lut([0, 0, 99], [1, 2]), lut([3], [1]), lut([256, 0, 8], list(range(100))), Sequence([no_data])):
        with pytest.raises(ImageError, match="LUT is damaged"):
            read_luma(dicom(GREY, EXPLICIT, frame=None, **{keyword: table}))
    explained = Dataset()
    explained.LUTExplanation = "none"
    for nothing in (Sequence([]), Sequence([explained]), lut([256, 0, 8], list(range(255)))):
        luma = read_luma(dicom(GREY, EXPLICIT, frame=None, **{keyword: nothing}))
        assert np.abs(luma.astype(int) - GREY).max() <= (1 if keyword.startswith("VOI") else 2)


def test_a_window_stands_in_for_a_broken_voi_lut() -> None:
    film = read_radiograph(dicom(GREY, VOILUTSequence=lut([3], [1]), WindowCenter=128, WindowWidth=256))
    assert np.abs(film.luma.astype(int) - GREY).max() <= 1
    assert film.notes == (Reason("note", "the DICOM's VOI LUT is damaged; its window was used."),)


def test_a_lookup_table_of_bytes_in_words() -> None:
    words = np.arange(255, -1, -1, dtype=np.uint8).view("<u2").tolist()
    np.testing.assert_array_equal(read_luma(dicom(GREY, VOILUTSequence=lut([256, 0, 8], words))), 255 - GREY)


@pytest.mark.parametrize("syntax", [dicoms.EXPLICIT, dicoms.BIG_ENDIAN])
def test_a_lookup_table_of_words_has_the_files_byte_order(syntax: str) -> None:
    order = ">u2" if syntax == dicoms.BIG_ENDIAN else "<u2"
    table = lut([256, 0, 16], (np.arange(255, -1, -1) * 257).astype(order).tobytes())
    np.testing.assert_array_equal(read_luma(dicom(GREY, syntax, VOILUTSequence=table)), 255 - GREY)


def test_padding_is_interpreted_as_pixels_are() -> None:
    signed = (GREY.astype(np.int16) - 100) * 50
    signed[:5] = -32768
    within = read_luma(dicom(signed, PixelPaddingValue=-32768))
    element = DataElement("PixelPaddingValue", "US", 32768)
    dataset = dcmread(BytesIO(dicom(signed)))
    dataset.add(element)
    np.testing.assert_array_equal(read_luma(written(dataset)), within)
    assert within[:5].max() == 0
    assert within[5:].max() == 255
    short = (GREY.astype(np.int16) - 100) * 10  # 12 bits, with a padding value whose sign fills 16
    short[:5] = -2048
    padded = dicom(short & 0xFFF, BitsStored=12, PixelRepresentation=1, PixelPaddingValue=-2048)
    assert read_luma(padded)[:5].max() == 0
    np.testing.assert_array_equal(read_luma(padded)[5:], within[5:])


@pytest.mark.parametrize("value", [4096, 32768, 65535])
def test_a_padding_value_that_no_pixel_can_have_is_ignored(value: int) -> None:
    twelve = GREY.astype(np.uint16) * 16
    twelve[-1] = 4095
    plain = read_luma(dicom(twelve, BitsStored=12))
    np.testing.assert_array_equal(read_luma(dicom(twelve, BitsStored=12, PixelPaddingValue=value)), plain)


def test_padding_is_black_and_outside_the_range() -> None:
    padded = DEEP.copy()
    padded[:5], padded[5:8] = 60_000, 60_100
    data = dicom(padded, PixelPaddingValue=60_000, PixelPaddingRangeLimit=60_100)
    luma = read_luma(data)
    assert luma[:8].max() == 0
    within = DEEP[8:].astype(float)
    np.testing.assert_array_equal(luma[8:], np.rint((within - within.min()) / (within.max() - within.min()) * 255))
    inverted = read_luma(
        dicom(padded, PixelPaddingValue=60_000, PixelPaddingRangeLimit=60_100, PhotometricInterpretation="MONOCHROME1")
    )
    assert inverted[:8].max() == 0
    assert inverted[8, 0] == 255
    with pytest.raises(ImageError, match="every pixel of the DICOM is padding"):
        read_luma(dicom(np.full((20, 20), 7, np.uint16), PixelPaddingValue=7))


def pydicoms_luma(path: Path, stored: int) -> NDArray[np.float64] | None:
    """A grey film of one frame by pydicom's own functions, 0 to 255; None if it is not one, or pydicom fails."""
    with source.quiet():
        dataset = pydicom.dcmread(path, force=True)
        try:
            values = dataset.pixel_array
        except (AttributeError, NotImplementedError, RuntimeError, ValueError):
            return None
        if dataset.SamplesPerPixel != 1 or values.ndim != 2:
            return None
        rescaled = apply_modality_lut(values, dataset)
        shown = apply_voi_lut(np.append(rescaled, [-1e9, 1e9]), dataset)
        low, high = shown[-2:] if "WindowWidth" in dataset else (rescaled.min(), rescaled.max())
        if stored <= 8 and "WindowWidth" not in dataset:
            low, high = apply_modality_lut(np.asarray([0, 2**stored - 1]), dataset)
    shares = np.clip((shown[:-2].reshape(values.shape) - low) / (high - low), 0, 1)
    return np.asarray(np.rint(255 * (1 - shares if dataset.PhotometricInterpretation == "MONOCHROME1" else shares)))


@pytest.mark.usefixtures("any_greys")
def test_greys_equal_those_of_pydicom() -> None:
    """On every grey image of one frame that pydicom installs, whatever its body part. Refusals must be deliberate."""
    refused, agreed = set[str](), 0
    for path in sorted(path for path in SHIPPED.rglob("*") if path.is_file() and is_dicom(path.read_bytes())):
        try:
            with source.quiet():
                dataset, syntax = source.read_dataset(path.read_bytes(), 10**8)
                layout = pixels.layout(dataset, syntax, Limits(min_side=1))
                if layout.samples != 1 or (theirs := pydicoms_luma(path, layout.stored)) is None:
                    continue
                ours, _ = greys.to_luma(pixels.stored_values(dataset, layout), dataset, layout)
        except ImageError as refusal:
            refused.add(str(refusal).partition(";")[0])
            continue
        assert np.abs(ours - theirs).max() <= 1, path.name
        agreed += 1
    assert agreed >= 30, agreed
    deliberate = (
        "bits",
        "frames",
        "palette",
        "pixel data",
        "floating-point",
        "transfer syntax",
        "at least 16",
        "a number",
        "damaged",
    )
    assert [reason for reason in refused if not any(word in reason for word in deliberate)] == []


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_an_empty_lookup_table_is_ignored(keyword: str) -> None:
    empty = Dataset()
    empty.add_new("LUTDescriptor", "US", None)
    empty.add_new("LUTData", "OW", b"")

    def read(table: Sequence) -> NDArray[np.uint8]:
        return read_luma(dicom(GREY, EXPLICIT, frame=None, **{keyword: table}))

    identity = lut([256, 0, 8], list(range(256)))
    np.testing.assert_array_equal(read(Sequence([empty])), read_luma(dicom(GREY)))
    np.testing.assert_array_equal(read(Sequence([empty, identity[0]])), read(identity))
