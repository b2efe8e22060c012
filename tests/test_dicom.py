import logging
import subprocess
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame

import dicoms
from dicoms import EXACT, EXPLICIT, JPEG, JPEG_12, JPEG_LS_NEAR, dicom, header, one_of_each, written
from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError
from pneumoscope.imaging import Limits, load_input, read_luma, read_radiograph
from pneumoscope.imaging.dicom import dataset as source
from pneumoscope.imaging.dicom import pixels
from samples import encode, ramp

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
GREY = ramp()
DEEP = GREY.astype(np.uint16) * 16 + 5


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


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match="no pixel data"):
        read_luma(written(header()))
    with pytest.raises(ImageError, match="floating-point"):
        read_luma(written(header(FloatPixelData=bytes(400))))


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
        with pytest.raises(ImageError, match="differs in size or components from what the DICOM states"):
            read_luma(dicom(GREY[:, :50].copy(), syntax, frame=frame))
        with pytest.raises(ImageError, match="cannot decode"):
            read_luma(dicom(GREY, syntax, frame=frame[:40]))
    for syntax in (dicoms.LOSSLESS, dicoms.JPEG_LS, JPEG):
        frame = dicoms.encoded(GREY, syntax, 8)
        with pytest.raises(ImageError, match="has no end-of-image marker"):
            read_luma(dicom(GREY, syntax, frame=frame[:-20]))


def test_frames_that_made_gdcm_crash_are_read_or_refused() -> None:
    """An unknown APPn segment, and fewer than eight bits: both made GDCM terminate the process."""
    frame = dicoms.encoded(GREY, dicoms.LOSSLESS, 8)
    remark = b"\xff\xe0\0\x10JFIF\0\x09\x09" + bytes(7)
    np.testing.assert_array_equal(read_luma(dicom(GREY, dicoms.LOSSLESS, frame=frame[:2] + remark + frame[2:])), GREY)
    for marker in (b"\xff\0", b"\xff\xdc", b"\xff\xcc", b"ab"):
        with pytest.raises(ImageError, match="truncated or out of order"):
            read_luma(dicom(GREY, dicoms.LOSSLESS, frame=frame[:2] + marker + remark[2:] + frame[2:]))
    two_bits = frame.replace(b"\xff\xc3\0\x0b\x08", b"\xff\xc3\0\x0b\x02")
    assert two_bits != frame
    with suppress(ImageError):
        read_luma(dicom(GREY, dicoms.LOSSLESS, frame=two_bits))


def test_endless_nesting_and_lengths_beyond_the_file_are_damage() -> None:
    whole = dicom(GREY)
    start = whole[: whole.index(b"\x28\0\x02\0US")]  # up to the beginning of an element
    nested = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    too_long = b"\x28\x00\x10\x00OB\0\0\xf0\xff\xff\x7f12"
    for rest, message in ((nested, "RecursionError"), (too_long, "no pixel data")):
        with pytest.raises(ImageError, match=message):
            read_luma(start + rest)


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


def test_a_missing_codec_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("name", "message"),
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
def test_samples_refused(name: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
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
    for after in (b"\0" * 2_400_000, b"\xff" * 100_000, bytes(range(256)) * 999, b"\0" * 3):
        np.testing.assert_array_equal(read_luma(data + after), read_luma(data))


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


def test_the_films_that_other_tests_damage_are_readable() -> None:
    for data in one_of_each().values():
        assert read_luma(data).shape == (48, 40)
