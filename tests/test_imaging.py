import os
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError
from pneumoscope.imaging import Limits, load_input, luma_sha256, read_file, read_for_input, read_luma, shrink, to_input
from pneumoscope.imaging.film import read_radiograph
from pneumoscope.phantom import encode_jpeg, film
from samples import deep_png, encode, png_header, ramp, with_transparent_colour

RULE = InputRule.squash(64)
DEEP = ramp().astype(np.uint16) * 200 + 77


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "CMYK"), ("TIFF", "CMYK"), ("PNG", "P"), ("PNG", "LA"), ("GIF", "P")]
)
def test_colours_are_measured_in_every_mode(kind: str, mode: str) -> None:
    grey = Image.fromarray(ramp(300, 400)).convert("RGB")
    painted = Image.fromarray(np.stack([ramp(300, 400), 255 - ramp(300, 400), ramp(300, 400)], 2))
    plain = grey.quantize(64) if mode == "P" else grey.convert(mode)  # conversion to P dithers with colours
    assert read_for_input(encode(plain, kind), RULE).coloured == 0
    share = read_for_input(encode(painted.convert(mode), kind), RULE).coloured
    assert share is not None
    assert share == 0 if mode == "LA" else share > 0.5
    assert read_radiograph(encode(painted, "PNG")).coloured is None  # measured only when a model is to decide


def test_lossless_formats_preserve_greys_exactly() -> None:
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read_luma(encode(Image.fromarray(ramp()), kind)), ramp())


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr"])
def test_colour_jpegs_of_a_grey_film_give_its_luma(mode: str) -> None:
    data = encode(Image.fromarray(ramp()).convert(mode), "JPEG", quality=95)
    assert np.abs(read_luma(data).astype(int) - ramp()).max() <= 6


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 2}, {"optimize": True}])
def test_jpeg_flavours(options: dict[str, object]) -> None:
    data = encode(Image.fromarray(ramp()).convert("RGB"), "JPEG", quality=95, **options)
    assert np.abs(read_luma(data).astype(int) - ramp()).max() <= 6


def test_luma_only_decode_equals_the_luma_of_the_full_decode() -> None:
    data = encode(Image.fromarray(film("virus", patient=1)).convert("RGB"), "JPEG", quality=90)
    plain = np.asarray(Image.open(BytesIO(data)).convert("RGB").convert("L"))
    assert np.abs(read_luma(data).astype(int) - plain).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_applied_once(orientation: int, kind: str) -> None:
    stored = Image.fromarray(ramp())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind == "JPEG" else {}
    data = encode(stored, kind, exif=exif, **options)
    expected = np.asarray(_viewer(stored, orientation))
    got = read_luma(data)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 2


def _viewer(stored: Image.Image, orientation: int) -> Image.Image:
    """The picture that a viewer shows by EXIF 2.32."""
    turn = Image.Transpose
    steps = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    return stored.transpose(steps[orientation]) if orientation in steps else stored


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, I am a text file", "not an accepted image"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "it is a HEIC"),
        (b"\0\0\0\x1cftypavif" + bytes(99), "it is an AVIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "it is a JPEG 2000"),
        (b"\xff\x4f\xff\x51" + bytes(99), "it is a JPEG 2000 codestream"),
        (b"\xff\x0a" + bytes(99), "it is a JPEG XL"),
        (b"MM\0+\0\x08\0\0" + bytes(99), "it is a BigTIFF"),
        (b"RIFF\0\0\0\0WAVE" + bytes(99), "it begins with"),
        (b"\0" * 128 + b"DICM" + b"\0" * 100, "has no transfer syntax"),
        (encode(Image.fromarray(ramp(200, 200)), "JPEG")[:-600], "cannot decode this JPEG"),
        (encode(Image.fromarray(ramp()), "PNG")[:-60], "cannot decode this PNG"),
        (encode(Image.fromarray(ramp()), "TIFF", compression="tiff_lzw")[:200], "damaged"),
        (b"\xff\xd8\xff\xe0", "header"),
        (png_header(60_000, 60_000), "60000×60000"),
        (png_header(0, 10), "header"),
        (png_header(8, 4000), "at least 16"),
        (encode(Image.fromarray(np.full((40, 40), 90, np.uint8))), "blank"),
        (deep_png(np.stack([DEEP, DEEP, DEEP + 1], 2)), "16-bit colour is accepted only if the film is grey"),
        (deep_png(np.stack([DEEP, DEEP, DEEP, DEEP], 2)), "16-bit transparency is not accepted"),
        (deep_png(np.stack([DEEP, DEEP], 2)), "16-bit transparency is not accepted"),
        (with_transparent_colour(deep_png(np.stack([DEEP, DEEP, DEEP], 2))), "16-bit transparency is not accepted"),
    ],
)
def test_refused_with_a_reason(data: bytes, message: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # about a truncated TIFF directory
        with pytest.raises(ImageError, match=message):
            load_input(data, RULE)


def test_limits_are_configurable_and_checked_before_decoding() -> None:
    data = encode(Image.fromarray(ramp()))
    with pytest.raises(ImageError, match=r"at most 2,000"):
        read_luma(data, limits=Limits(max_pixels=2000))
    with pytest.raises(ImageError, match="bytes"):
        read_luma(data, limits=Limits(max_bytes=20))
    with pytest.raises(ImageError, match="the file is damaged"):
        read_luma(png_header(9000, 9000))  # within the limit, but without pixels to decode


def test_reduced_scale_decode_covers_the_target() -> None:
    data = encode_jpeg(film("normal", patient=1, size=(1300, 1600)))
    reduced = read_for_input(data, InputRule.squash(224)).luma
    assert min(reduced.shape) >= 336
    assert reduced.shape == (1300 // 2, 1600 // 2)
    full = to_input(read_luma(data), InputRule.squash(224))
    quick = load_input(data, InputRule.squash(224))
    assert np.abs(full.astype(int) - quick).mean() < 1.5


@given(height=st.integers(16, 90), width=st.integers(16, 90), size=st.integers(32, 80))
@settings(max_examples=30, deadline=None)
def test_input_has_the_contracts_shape(height: int, width: int, size: int) -> None:
    image = load_input(encode(Image.fromarray(ramp(height, width))), InputRule.squash(size))
    assert image.shape == (1, size, size)
    assert image.dtype == np.uint8


def test_to_input_refuses_another_dtype_or_shape() -> None:
    for array in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            to_input(array, RULE)  # type: ignore[arg-type]


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(to_input(stripes, RULE).astype(int) - 128).max() <= 20


def test_deep_greys_are_scaled_by_the_formula() -> None:
    """16-bit greys are scaled by a table, others in strips; both agree with the formula."""
    random = np.random.default_rng(0)
    whole = random.integers(7, 40_000, (90, 70)).astype(np.uint16)
    for values in (whole, random.normal(size=(90, 70)).astype(np.float32)):
        low, high = float(values.min()), float(values.max())
        expected = np.rint((values.astype(np.float64) - low) / (high - low) * 255)
        np.testing.assert_array_equal(read_luma(encode(Image.fromarray(values), "TIFF")), expected)


def test_files_are_not_read_past_the_limit(tmp_path: Path) -> None:
    big, pipe = tmp_path / "big.png", tmp_path / "pipe.png"
    with big.open("wb") as stream:
        stream.truncate(3_000_000_000)  # sparse: it takes no disk space
    os.mkfifo(pipe)
    with pytest.raises(ImageError, match=r"more than 1,000 bytes"):
        read_file(big, limits=Limits(max_bytes=1000))
    with pytest.raises(ImageError, match="not a regular file"):
        read_file(pipe)


def test_the_hash_depends_on_pixels_and_shape() -> None:
    flat = np.arange(64, dtype=np.uint8)
    hashes = {luma_sha256(flat.reshape(8, 8)), luma_sha256(flat.reshape(4, 16)), luma_sha256(flat.reshape(8, 8).T)}
    assert len(hashes) == 3


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 3000))
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_an_image_or_an_image_error(position: int, value: int, cut: int) -> None:
    for data in (INTACT_JPEG, INTACT_PNG, INTACT_TIFF):
        mutated = bytearray(data)
        mutated[position % len(mutated)] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about malformed metadata
            with suppress(ImageError):
                assert read_luma(bytes(mutated[: len(mutated) - cut])).dtype == np.uint8


INTACT_JPEG = encode_jpeg(film("virus", patient=2, size=(80, 80)))
INTACT_PNG = encode(Image.fromarray(film("virus", patient=2, size=(60, 60))))
INTACT_TIFF = encode(Image.fromarray(film("virus", patient=2, size=(60, 60)).astype(np.uint16) * 9), "TIFF")


@pytest.mark.parametrize("side", [100, 224, 300])
def test_a_shrunk_film_gives_the_same_model_input(side: int) -> None:
    rule = InputRule.squash(side)
    whole = encode_jpeg(film("virus", patient=4, size=(900, 1000)))
    small = shrink(whole, rule)
    assert len(small) < len(whole)
    assert np.array_equal(load_input(small, rule), load_input(whole, rule))
