import logging
import subprocess
import sys
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

import dicoms
from dicoms import EXACT, EXPLICIT, JPEG, JPEG_12, JPEG_LS_NEAR, dicom, header, one_of_each, written
from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError
from pneumoscope.imaging import Limits, Reason, is_dicom, load_input, read_luma, read_radiograph
from pneumoscope.imaging.dicom import dataset as source
from pneumoscope.imaging.dicom import greys, pixels
from samples import encode, ramp

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


def test_a_plain_dicom_is_read_as_its_png() -> None:
    np.testing.assert_array_equal(read_luma(dicom(GREY)), GREY)
    np.testing.assert_array_equal(
        read_luma(dicom(DEEP, BitsStored=12)), read_luma(encode(Image.fromarray(DEEP), "PNG"))
    )
    rule = InputRule.squash(32)
    np.testing.assert_array_equal(load_input(dicom(GREY), rule), load_input(encode(Image.fromarray(GREY)), rule))


@pytest.mark.parametrize("syntax", EXACT)
def test_lossless_syntaxes_give_the_same_film(syntax: str) -> None:
    expected = read_luma(encode(Image.fromarray(DEEP), "PNG"))
    np.testing.assert_array_equal(read_luma(dicom(DEEP, syntax, BitsStored=12)), expected)
    np.testing.assert_array_equal(read_luma(dicom(GREY, syntax)), GREY)
    deepest = DEEP * 15
    np.testing.assert_array_equal(read_luma(dicom(deepest, syntax)), read_luma(encode(Image.fromarray(deepest), "PNG")))


@pytest.mark.parametrize("syntax", [JPEG_12, JPEG_LS_NEAR, dicoms.JPEG_2000_LOSSY])
def test_lossy_syntaxes_are_close_to_the_original(syntax: str) -> None:
    window: dict[str, Any] = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    plain = read_luma(dicom(DEEP, **window)).astype(int)
    assert np.abs(read_luma(dicom(DEEP, syntax, **window)) - plain).max() <= 2


def test_a_baseline_jpeg_in_a_dicom_is_decoded_as_the_jpeg_file() -> None:
    frame = encode(Image.fromarray(GREY), "JPEG", quality=80)
    np.testing.assert_array_equal(read_luma(dicom(GREY, JPEG, frame=frame)), read_luma(frame))


@pytest.mark.parametrize("syntax", [EXPLICIT, dicoms.RLE, dicoms.LOSSLESS_1, dicoms.JPEG_LS, dicoms.JPEG_2000])
def test_colours_become_luma_as_in_other_formats(syntax: str) -> None:
    colours = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
    expected = read_luma(encode(Image.fromarray(colours), "PNG"))
    np.testing.assert_array_equal(read_luma(dicom(colours, syntax, PhotometricInterpretation="RGB")), expected)


def test_planes_and_ybr() -> None:
    colours = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
    planes = np.ascontiguousarray(np.moveaxis(colours, 2, 0)).reshape(colours.shape)
    luma = read_luma(dicom(planes, PhotometricInterpretation="RGB", PlanarConfiguration=1))
    np.testing.assert_array_equal(luma, read_luma(encode(Image.fromarray(colours), "PNG")))
    np.testing.assert_array_equal(read_luma(dicom(colours, PhotometricInterpretation="YBR_FULL")), GREY)
    halved = np.stack([GREY[:, ::2], GREY[:, 1::2], GREY[:, ::2], GREY[:, ::2]], axis=2).astype(np.uint8)
    dataset = header(PhotometricInterpretation="YBR_FULL_422", Rows=40, Columns=60, SamplesPerPixel=3)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PlanarConfiguration, dataset.PixelData = 0, halved.tobytes()
    np.testing.assert_array_equal(read_luma(written(dataset)), GREY)


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
    """Without its table the film might be a negative."""
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


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (["L", "F"], GREY),
        (["R", "F"], GREY[:, ::-1]),
        (["L", "H"], GREY[::-1]),
        (["R", "H"], GREY[::-1, ::-1]),
        (["F", "L"], GREY.T),
        (["H", "L"], GREY.T[::-1]),
        (["F", "R"], GREY.T[:, ::-1]),
        (["H", "R"], GREY.T[::-1, ::-1]),
        (["LA", "FP"], GREY),
        (["L", "P"], GREY),
        (["L", "R"], GREY),
        ("L", GREY),
        (None, GREY),
    ],
)
def test_turned_to_the_standard_display(orientation: Any, turned: NDArray[np.uint8]) -> None:
    """Pixels are at the place that PS3.3 section C.7.6.1.1.1 defines, however they were stored."""
    np.testing.assert_array_equal(read_luma(dicom(GREY, PatientOrientation=orientation)), turned)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"Modality": "CT"}, r"CT \(computed tomography\)"),
        ({"Modality": "MR"}, r"MR \(magnetic resonance\)"),
        ({"Modality": "PX"}, r"PX \(panoramic"),
        ({"Modality": "WINTERGREEN", "BodyPartExamined": None}, "modality is not a standard term"),
        ({"Modality": "DR", "BodyPartExamined": None}, "modality is DR, not a standard term"),
        ({"Modality": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "CT Image Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2"}, "Mammography"),
        ({"BodyPartExamined": "HAND"}, "body part is HAND"),
        ({"BodyPartExamined": "LEFT HAND"}, "body part is HAND"),
        ({"BodyPartExamined": "KNEES"}, "body part is KNEES"),
        ({"BodyPartExamined": "LUMBAR SPINE"}, "body part is SPINE"),
        ({"BodyPartExamined": "TEETH"}, "body part is TEETH"),
        ({"BodyPartExamined": "WHOLE BODY"}, "body part is WHOLEBODY"),
        ({"ViewPosition": "LL"}, "view is left lateral"),
        ({"ViewPosition": "LLD"}, "left lateral decubitus"),
        ({"ViewPosition": "RAO"}, "right anterior oblique"),
        ({"ViewPosition": "LAT CHEST"}, "view is lateral"),
        ({"ViewPosition": "AP_LLD"}, "left lateral decubitus"),
        ({"ViewPosition": "XTABLE_LATERAL"}, "cross-table lateral"),
        ({"ViewPosition": "SWIMMERS"}, "swimmer"),
        ({"ViewPosition": "LAT."}, "view is lateral"),
        ({"ViewPosition": "PA/LAT"}, "view is lateral"),
        ({"ViewPosition": "LLATERAL"}, "view is lateral"),
        ({"ViewPosition": "RTLAT"}, "view is lateral"),
        ({"ViewPosition": "LAT/PA"}, "view is lateral"),
        ({"ViewPosition": "PROFILE"}, "view is profile"),
        ({"ViewPosition": "Lateral(L)"}, "view is lateral"),
        ({"ViewPosition": "LLDECUB"}, "view is decubitus"),
        ({"ViewPosition": "SEITLICH"}, "view is profile"),
        ({"ViewPosition": "CHEST", "PatientOrientation": ["A", "F"]}, "between front and back"),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "between front and back"),
        ({"ViewPosition": "", "PatientOrientation": ["P", "F"]}, "between front and back"),
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette"),
        ({"PhotometricInterpretation": "HSV"}, "do not fit"),
        ({"SamplesPerPixel": 2}, "do not fit"),
        ({"Rows": None}, "DICOM's Rows is missing or not a number"),
        ({"Rows": 0}, "at least 16"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000×60000"),
        ({"BitsStored": 20}, "20 bits up to bit 19"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits; accepted"),
        ({"Rows": 41}, "cannot decode"),
    ],
)
def test_refused_with_a_reason(attributes: dict[str, Any], words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the writer, about letters that a code string cannot have
        data = dicom(GREY, **attributes)
    with pytest.raises(ImageError, match=words) as refusal:
        read_radiograph(data)
    for secret in (dicoms.NAME, dicoms.NUMBER, dicoms.BORN, "WINTERGREEN"):
        assert secret not in str(refusal.value)


def test_refused_by_its_view_code_whatever_its_meaning() -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "R-10232", "SRT", "view of the thorax"
    for position in (None, "CHEST"):
        with pytest.raises(ImageError, match="view is right lateral"):
            read_luma(dicom(GREY, ViewPosition=position, ViewCodeSequence=Sequence([item])))
    read_luma(dicom(GREY, ViewPosition="PA", ViewCodeSequence=Sequence([item])))


def test_frontal_views_are_read() -> None:
    for position in (
        "PA",
        "AP",
        "AP ERECT",
        "CHEST PA",
        "FLAT",
        "BILATERAL",
        "PA INHALATION",
        "AP VENTILATED",
        "AP AXIAL",
    ):
        read_luma(dicom(GREY, ViewPosition=position))
    for part in ("C_ARM CHEST", "POUMON FACE", "TORAX BACK", "LUNG", "CHEST PORTABLE"):
        read_luma(dicom(GREY, BodyPartExamined=part))


@pytest.mark.parametrize("syntax", [dicoms.EXPLICIT, dicoms.RLE, dicoms.JPEG, dicoms.JPEG_LS, dicoms.JPEG_2000])
def test_frames_that_the_header_does_not_state_are_counted(syntax: str) -> None:
    if syntax == dicoms.EXPLICIT:
        data = dicom(np.concatenate([GREY, GREY]), Rows=GREY.shape[0])
    else:
        dataset = dcmread(BytesIO(dicom(GREY, syntax)))
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        dataset.PixelData = encapsulate([frame, frame], has_bot=False)
        data = written(dataset, syntax)
    with pytest.raises(ImageError, match="2 frames"):
        read_luma(data)


@pytest.mark.parametrize("syntax", [dicoms.LOSSLESS, dicoms.JPEG_LS, dicoms.JPEG_2000])
def test_bits_that_a_codec_has_shifted_already_are_kept(syntax: str) -> None:
    values = GREY.astype(np.uint16) * 16
    low = read_luma(dicom(values, syntax, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(read_luma(dicom(values, syntax, BitsStored=12, HighBit=15)), low)


@pytest.mark.parametrize(("sizes", "blocks"), [(0x11, 4), (0xFF, 0)], ids=["precincts", "code-blocks"])
def test_jpeg_2000_in_absurdly_small_pieces_is_refused(sizes: int, blocks: int) -> None:
    """Precincts of 2×2, or code-blocks of 4×4: OpenJPEG would allocate gigabytes for a kilobyte."""
    side = 1000
    black = np.zeros((side, side), np.uint8)
    frame = bytes(encode_array(black, bits_stored=8, photometric_interpretation=0))
    at = frame.index(b"\xff\x52")
    length = int.from_bytes(frame[at + 2 : at + 4])
    body = bytearray(frame[at + 4 : at + 14])
    body[0] |= 1
    body[6] = body[7] = blocks
    body += bytes([sizes]) * (body[5] + 1)
    small = frame[:at] + b"\xff\x52" + (len(body) + 2).to_bytes(2) + body + frame[at + 2 + length :]
    with pytest.raises(ImageError, match="absurdly small pieces"):
        read_luma(dicom(black, dicoms.JPEG_2000, frame=small))
    with pytest.raises(ImageError, match="headers have no end"):
        read_luma(dicom(black, dicoms.JPEG_2000, frame=frame[:at] + b"\xff\x64\0\2" * 150_000 + frame[at:]))
    with pytest.raises(ImageError, match="blank"):
        read_luma(dicom(black, dicoms.JPEG_2000, frame=frame))


def test_refused_by_its_view_code() -> None:
    code = Dataset()
    code.CodeMeaning = "Left lateral decubitus"
    with pytest.raises(ImageError, match="view is lateral"):
        read_luma(dicom(GREY, ViewPosition=None, ViewCodeSequence=Sequence([code])))
    code.CodeMeaning = "postero-anterior"
    read_luma(dicom(GREY, ViewPosition=None, ViewCodeSequence=Sequence([code])))


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match="no pixel data"):
        read_luma(written(header()))
    with pytest.raises(ImageError, match="floating-point"):
        read_luma(written(header(FloatPixelData=bytes(400))))


@pytest.mark.parametrize(
    ("attributes", "notes"),
    [
        ({}, ()),
        ({"Modality": None}, ("the DICOM does not state its modality; it is taken for a radiograph.",)),
        ({"Modality": "OT"}, ("the DICOM states only OT as its modality; it is taken for a radiograph.",)),
        (
            {"BodyPartExamined": dicoms.NAME[:16].upper()},
            ("the DICOM's body part is not a standard term; it is taken for the chest.",),
        ),
        ({"BodyPartExamined": None, "ViewPosition": None}, ()),
        (
            {"PresentationIntentType": "FOR PROCESSING"},
            ("the DICOM contains the detector's values (FOR PROCESSING), not an image for viewing.",),
        ),
    ],
)
def test_notes(attributes: dict[str, Any], notes: tuple[str, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the writer, about letters that a code string cannot have
        data = dicom(GREY, **attributes)
    assert read_radiograph(data).notes == tuple(Reason("note", note) for note in notes)


@pytest.mark.parametrize(
    ("attributes", "years"),
    [
        ({"PatientAge": "005Y"}, 5.0),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "026W"}, 26 * 7 / 365.25),
        ({"PatientAge": "010D"}, 10 / 365.25),
        ({"PatientAge": "45Y"}, 45.0),
        ({"PatientAge": "5 Y"}, 5.0),
        ({"StudyDate": "20200311"}, 2.0),
        ({"StudyDate": "20200310"}, 1 + 365 / 365.25),
        ({"StudyDate": "20200229", "PatientBirthDate": "20160229"}, 4.0),
        ({"StudyDate": "20190228", "PatientBirthDate": "20160229"}, 2 + 364 / 365.25),
        ({"AcquisitionDate": "20180312"}, 1 / 365.25),
        ({"StudyDate": "20100101"}, None),
        ({"PatientAge": "5 years", "StudyDate": "20200311"}, 2.0),
        ({"PatientAge": "999Y"}, None),
        ({"StudyDate": "20209999"}, None),
        ({}, None),
    ],
)
def test_age(attributes: dict[str, Any], years: float | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the writer, about malformed values
        data = dicom(GREY, **attributes)
    assert read_radiograph(data).age_years == (pytest.approx(years) if years is not None else None)


def test_facts_of_the_header() -> None:
    facts = read_radiograph(dicom(DEEP, BitsStored=12)).facts
    assert facts.format == "DICOM"
    assert facts.mode == "MONOCHROME2"
    assert facts.width == 60
    assert facts.height == 40
    assert facts.bits == 12
    assert facts.orientation == 1
    assert not facts.exif
    assert not facts.icc
    assert not facts.progressive
    assert facts.quantiser is None


def test_other_formats_have_no_notes_and_no_age() -> None:
    film = read_radiograph(encode(Image.fromarray(GREY)))
    assert film.notes == ()
    assert film.age_years is None


def test_a_tiff_in_the_preamble_does_not_hide_the_dicom() -> None:
    """A file can be both a TIFF and a DICOM (PS3.10 section 7.1)."""
    data = dicom(GREY, Modality="CT")
    with pytest.raises(ImageError, match="computed tomography"):
        read_luma(b"II*\0" + data[4:])


def test_limits_are_checked_before_decoding() -> None:
    with pytest.raises(ImageError, match=r"at most 2,000 are accepted"):
        read_luma(dicom(GREY), limits=Limits(max_pixels=2000))
    bomb = dicom(np.zeros((2000, 2000), np.uint16) + np.eye(2000, dtype=np.uint16), dicoms.DEFLATED)
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match=r"inflates to more than 1,000,000 bytes"):
        read_luma(bomb, limits=Limits(max_bytes=1_000_000))
    with pytest.raises(ImageError, match="cannot inflate"):
        read_luma(bomb[:400] + b"\xff" * 100)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.201"])
def test_other_transfer_syntaxes_are_refused(syntax: str) -> None:
    with pytest.raises(ImageError, match="transfer syntax is not accepted"):
        read_luma(dicom(GREY, syntax, frame=b"\xff\xd8 something"))


def test_a_frame_that_contradicts_the_header_does_not_reach_a_codec() -> None:
    for syntax in (dicoms.LOSSLESS, dicoms.JPEG_LS, dicoms.JPEG_2000, JPEG):
        frame = dicoms.encoded(GREY, syntax, 8)
        with pytest.raises(ImageError, match="another size than the DICOM states"):
            read_luma(dicom(GREY[:, :50].copy(), syntax, frame=frame))
        with pytest.raises(ImageError, match="cannot decode"):
            read_luma(dicom(GREY, syntax, frame=frame[:40]))
    for syntax in (dicoms.LOSSLESS, dicoms.JPEG_LS, JPEG):
        frame = dicoms.encoded(GREY, syntax, 8)
        with pytest.raises(ImageError, match="has no end"):
            read_luma(dicom(GREY, syntax, frame=frame[:-20]))


def test_frames_that_end_gdcm_do_not_reach_it() -> None:
    """An unknown APPn segment, and fewer than eight bits: both made GDCM end the process."""
    frame = dicoms.encoded(GREY, dicoms.LOSSLESS, 8)
    remark = b"\xff\xe0\0\x10JFIF\0\x09\x09" + bytes(7)
    np.testing.assert_array_equal(read_luma(dicom(GREY, dicoms.LOSSLESS, frame=frame[:2] + remark + frame[2:])), GREY)
    for marker in (b"\xff\0", b"\xff\xdc", b"\xff\xcc", b"ab"):
        with pytest.raises(ImageError, match="truncated or out of order"):
            read_luma(dicom(GREY, dicoms.LOSSLESS, frame=frame[:2] + marker + remark[2:] + frame[2:]))
    two_bits = frame.replace(b"\xff\xc3\0\x0b\x08", b"\xff\xc3\0\x0b\x02")
    with suppress(ImageError):
        read_luma(dicom(GREY, dicoms.LOSSLESS, frame=two_bits))


def test_endless_nesting_and_lengths_beyond_the_file_are_damage() -> None:
    start = dicom(GREY)[:300]
    nested = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    for data in (start + nested, start[:290] + b"\x28\x00\x10\x00OB\0\0\xf0\xff\xff\x7f12"):
        with pytest.raises(ImageError):
            read_luma(data)


def test_pydicom_is_imported_only_for_dicom_and_named_if_missing() -> None:
    code = (
        "import sys; from pneumoscope.imaging import read_luma; from pneumoscope.errors import ImageError\n"
        "assert not {'pydicom', 'gdcm', 'openjpeg', 'jpeg_ls'} & set(sys.modules)\n"
        "sys.modules['pydicom'] = None\n"
        "try: read_luma(bytes(128) + b'DICM')\n"
        "except ImageError as missing: print(missing)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "reading DICOM needs pydicom; run `pip install 'pneumoscope[dicom]'`.\n"


def test_a_missing_codec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = dicoms.encoded(GREY, dicoms.JPEG_LS, 8)
    monkeypatch.setitem(sys.modules, "jpeg_ls", None)
    with pytest.raises(ImageError, match=r"codec that is not installed; run `pip install 'pneumoscope\[dicom\]'`"):
        read_luma(dicom(GREY, dicoms.JPEG_LS, frame=frame))


def test_pydicom_neither_warns_nor_logs(caplog: pytest.LogCaptureFixture) -> None:
    data = dicom(GREY, StudyDate="20200101").replace(b"20200101", b"2O20ffff")
    with caplog.at_level(logging.DEBUG):
        film = read_radiograph(data + b"\0" * 3)
    assert film.age_years is None
    assert not caplog.records
    assert logging.getLogger("pydicom").propagate


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*")), ids=lambda path: path.relative_to(SHIPPED).as_posix())
def test_pydicoms_own_samples_are_read_or_refused(path: Path) -> None:
    if not path.is_file():
        return
    try:
        luma = read_luma(path.read_bytes())
    except ImageError:
        return
    assert luma.dtype == np.uint8
    assert luma.ndim == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CT_small.dcm", "computed tomography"),
        ("MR_small.dcm", "magnetic resonance"),
        ("examples_rgb_color.dcm", "ultrasound"),
        ("SC_rgb_rle_2frame.dcm", "2 frames"),
        ("SC_rgb_rle_16bit.dcm", "16 bits"),
        ("dicomdirtests/77654033/CR1/6154", "CSPINE"),
        ("rtplan.dcm", "radiotherapy plan"),
        ("meta_missing_tsyntax.dcm", "no transfer syntax"),
    ],
)
def test_samples_refused(name: str, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_luma((SHIPPED / name).read_bytes())


@pytest.mark.parametrize(
    "name",
    [
        *("693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG2000.dcm", "GDCMJ2K_TextGBR.dcm", "MR_small_RLE.dcm"),
        *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPEGLSNearLossless_16.dcm", "image_dfl.dcm"),
        *("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_small_odd_big_endian.dcm", "MR_small_expb.dcm"),
        *("examples_overlay.dcm", "SC_jpeg_no_color_transform.dcm", "SC_rgb_rle.dcm"),
    ],
)
def test_stored_values_equal_those_of_pydicom(name: str) -> None:
    path = str(get_testdata_file(name, download=False))
    with source.quiet():
        dataset, syntax = source.read_dataset(Path(path).read_bytes(), 10**8)
        layout = pixels.layout(dataset, syntax, Limits(min_side=1))
        found = pixels.stored_values(dataset, layout)
        theirs = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(found, theirs if found.ndim == 3 else theirs.astype(int) & ((1 << layout.stored) - 1))


def pydicoms_luma(path: Path, stored: int) -> NDArray[np.float64] | None:
    """A grey film of one frame by pydicom's own functions, 0 to 255; None for others, and if pydicom cannot."""
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


#: Transfer syntaxes whose frames have an end marker: they are read whatever follows it.
CODED = (JPEG, dicoms.LOSSLESS, dicoms.JPEG_LS, dicoms.JPEG_2000)
END = b"\xff\xd9"


@pytest.mark.parametrize("syntax", CODED)
def test_bytes_around_a_frame_are_ignored(syntax: str) -> None:
    padded = dicoms.encoded(GREY, syntax, 8)
    frame = padded[: padded.rindex(END)]
    whole = read_luma(dicom(GREY, syntax, frame=padded))
    remark = b"\xff\xfe\0\x06abcd"
    for between in (b"\0", b"\0" * 401, b"\xff" * 5, remark, b"\0\0" + remark):
        np.testing.assert_array_equal(read_luma(dicom(GREY, syntax, frame=frame + between + END)), whole)
    for after in (b"\0", b"\0" * 1000, b"\xff" * 6, b"junk" * 9, remark):
        np.testing.assert_array_equal(read_luma(dicom(GREY, syntax, frame=frame + END + after)), whole)


@pytest.mark.parametrize("syntax", [*CODED, dicoms.RLE])
def test_wrong_and_missing_delimiters_are_tolerated(syntax: str) -> None:
    data = dicom(GREY, syntax, frame=dicoms.encoded(GREY, syntax, 8))
    whole, delimiter = read_luma(data), b"\xfe\xff\xdd\xe0"
    end = data.rindex(delimiter)
    item_end = b"\xfe\xff\x0d\xe0" + bytes(4)
    for odd in (
        data[: end + 4] + b"\xff" * 4,
        data[: end + 4] + b"\7\0\0\0abcdefg",
        data[:end],
        data[:end] + item_end + data[end:],
        data + delimiter + b"\xff" * 4,
    ):
        np.testing.assert_array_equal(read_luma(odd), whole)
    with pytest.raises(ImageError, match=r"truncated|cannot decode"):
        read_luma(data[: end - 40])


@pytest.mark.parametrize("syntax", [EXPLICIT, dicoms.IMPLICIT, JPEG, dicoms.RLE])
def test_bytes_after_the_image_are_ignored(syntax: str) -> None:
    frame = None if syntax in dicoms.NATIVE else dicoms.encoded(GREY, syntax, 8)
    data = dicom(GREY, syntax, frame=frame)
    for behind in (b"\0" * 2_400_000, b"\xff" * 100_000, bytes(range(256)) * 999, b"\0" * 3):
        np.testing.assert_array_equal(read_luma(data + behind), read_luma(data))


@pytest.mark.parametrize("syntax", [dicoms.IMPLICIT, EXPLICIT, dicoms.BIG_ENDIAN])
def test_a_data_set_without_a_preamble_is_read(syntax: str) -> None:
    data = dicom(GREY, syntax)
    length = int.from_bytes(data[140:144], "little")  # length of the file meta information
    for bare in (data[144 + length :], data[132:]):
        np.testing.assert_array_equal(read_luma(bare), GREY)
    for other in (b"\x08\0\x16\0" + bytes(200), b"\x08\0 and more text than a header has", bytes(300)):
        with pytest.raises(ImageError, match="not an accepted image"):
            read_luma(other)


def test_a_damaged_jpeg_in_a_dicom_is_refused() -> None:
    frame = dicoms.encoded(GREY.repeat(6, 0).repeat(6, 1), JPEG, 8)
    middle = (frame.index(b"\xff\xda") + len(frame)) // 2
    with pytest.raises(ImageError, match="damaged within") as refusal:
        read_luma(dicom(GREY.repeat(6, 0).repeat(6, 1), JPEG, frame=frame[:middle] + END))
    assert refusal.value.code == "damaged"


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


def test_an_unknown_modality_of_a_chest_film_is_read_with_a_note() -> None:
    for term in ("DR", "XRAY", "RADIOGRAPHIE"):
        (note,) = read_radiograph(dicom(GREY, Modality=term, BodyPartExamined="CHEST")).notes
        assert "modality is not a standard term" in note.text
    for attributes in ({"Modality": "DR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, {"Modality": "CT"}):
        with pytest.raises(ImageError, match="modality is"):
            read_luma(dicom(GREY, EXPLICIT, frame=None, BodyPartExamined="CHEST", **attributes))


@pytest.mark.parametrize(
    ("attributes", "outcome"),
    [
        ({"SeriesDescription": "Thorax lat"}, "refused"),
        ({"SeriesDescription": "THORAX SEITLICH"}, "refused"),
        ({"ProtocolName": "Tórax LATERAL izq."}, "refused"),
        ({"StudyDescription": "XR CHEST LATERAL"}, "noted"),
        ({"StudyDescription": "XR CHEST PA AND LAT"}, "noted"),
        ({"SeriesDescription": "Chest PA/LAT"}, "noted"),
        ({"SeriesDescription": "Thorax PA", "StudyDescription": "Thorax in 2 Ebenen"}, "read"),
        ({"SeriesDescription": "THORAX BILATERAL INHALATION"}, "read"),
        ({"SeriesDescription": "Thorax lat", "ViewPosition": "PA"}, "read"),
    ],
)
def test_a_lateral_view_that_only_a_description_states(attributes: dict[str, str], outcome: str) -> None:
    data = dicom(GREY, EXPLICIT, frame=None, **{"ViewPosition": None, **attributes})
    if outcome == "refused":
        with pytest.raises(ImageError, match=r"names a \w+ view") as refusal:
            read_luma(data)
        assert refusal.value.code == "view"
        return
    notes = [note.text for note in read_radiograph(data).notes]
    assert any("names a lateral view" in note for note in notes) is (outcome == "noted")


def test_twelve_bit_jpeg_of_another_writer() -> None:
    path = str(get_testdata_file("JPGExtended.dcm", download=False))
    dataset, syntax = source.read_dataset(Path(path).read_bytes(), 10**8)
    found = pixels.stored_values(dataset, pixels.layout(dataset, syntax, Limits()))
    assert found.shape == (1024, 256)
    assert int(found.max()) == 264


def test_a_file_of_a_million_attributes_is_refused_quickly() -> None:
    good = dicom(GREY)
    at = good.index(b"\x08\x00\x16\x00UI")  # before SOP Class UID, the first attribute
    many = good[:at] + b"\x07\x00\x10\x00LO\x00\x00" * 1_000_000 + good[at:]
    with pytest.raises(ImageError, match="more pieces than any film"):
        read_luma(many)


def test_the_films_that_are_damaged_are_readable_before() -> None:
    for data in one_of_each().values():
        assert read_luma(data).shape == (48, 40)
