import os
import struct
import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

import dicoms
from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError
from pneumoscope.imaging import Limits, load_input, luma_sha256, read_file, read_for_input, read_luma, shrink, to_input
from pneumoscope.imaging.film import read_radiograph
from pneumoscope.imaging.jpeg import colours, decode_checked
from pneumoscope.phantom import encode_jpeg, film
from samples import encode, ramp

RULE = InputRule.squash(64)
DEEP = ramp().astype(np.uint16) * 200 + 77


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG with a header and very little data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def deep_png(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits and 2 to 4 channels (`[H, W, C]`), which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_deep_png_with_equal_channels_is_read_as_grey(channels: int) -> None:
    grey = read_luma(encode(Image.fromarray(DEEP), "PNG"))
    film = np.stack([DEEP] * channels, 2)
    if channels != 3:
        film[:, :, -1] = 65535
    np.testing.assert_array_equal(read_luma(deep_png(film)), grey)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "WEBP"])
def test_stills_of_other_programs_are_read(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(read_luma(encode(Image.fromarray(ramp()), kind, **options)), ramp())
    with pytest.raises(ImageError, match="cannot"):
        read_luma(encode(Image.fromarray(ramp(200, 200)), kind)[:-60])


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    first, second = Image.fromarray(ramp()), Image.fromarray(255 - ramp())
    with pytest.raises(ImageError, match="several frames"):
        read_luma(encode(first, kind, save_all=True, append_images=[second]))


def damaged(jpeg: bytes, *, closed: bool) -> bytes:
    """A JPEG that is truncated and closed with an end marker, or whose coded data are overwritten in the middle."""
    middle = (jpeg.index(b"\xff\xda") + len(jpeg)) // 2
    return jpeg[:middle] + b"\xff\xd9" if closed else jpeg[:middle] + b"\xff\xd0" * 40 + jpeg[middle + 80 :]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "RGB"}, {"mode": "CMYK"}], ids=str)
def test_a_jpeg_that_is_damaged_within_is_refused(options: dict[str, Any], closed: bool) -> None:  # noqa: FBT001
    picture = Image.fromarray(ramp(300, 400)).convert(options.pop("mode", "L"))
    jpeg = encode(picture, "JPEG", quality=90, **options)
    read_for_input(jpeg, RULE)
    for read in (read_luma, lambda data: read_for_input(data, RULE)):
        with pytest.raises(ImageError, match="the JPEG is damaged within") as refusal:
            read(damaged(jpeg, closed=closed))
        assert refusal.value.code == "damaged"


def test_padding_and_trailing_bytes_of_a_jpeg_are_ignored() -> None:
    jpeg = encode(Image.fromarray(ramp(300, 400)), "JPEG", quality=90)
    whole = read_luma(jpeg)
    remark = b"\xff\xfe\0\x06abcd"
    for padding in (b"\0", b"\0" * 500, b"\xff" * 9, b"ab", remark, remark + b"\0\0"):
        np.testing.assert_array_equal(read_luma(jpeg[:-2] + padding + jpeg[-2:]), whole)
        np.testing.assert_array_equal(read_luma(jpeg + padding), whole)
    np.testing.assert_array_equal(read_luma(jpeg + jpeg), whole)


def test_a_lossless_jpeg_is_not_scaled() -> None:
    """simplejpeg allocates a scaled picture, but libjpeg-turbo decodes a lossless one at full size, past its end."""
    jpeg = dicoms.encoded(ramp(300, 400), dicoms.LOSSLESS, 8)
    assert decode_checked(jpeg) is None
    whole = decode_checked(jpeg, size=(400, 300), lossless=True)
    assert whole is not None
    np.testing.assert_array_equal(whole, ramp(300, 400))
    with suppress(ImageError):  # whether Pillow supports it depends on its libjpeg
        read_for_input(jpeg, RULE)
    hidden = jpeg[:2] + b"\xff\x01\0junk\xff\xff\xe1\0\x06\xff\xda\xff\xc0" + jpeg[2:]
    assert decode_checked(hidden) is None
    assert colours(jpeg) is None  # decoding it at the smallest scale would end the process
    assert colours(hidden) is None


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


def test_libjpeg_turbo_decodes_a_jpeg_as_pillow_does() -> None:
    picture = Image.fromarray(np.stack([ramp(301, 403), 255 - ramp(301, 403), ramp(301, 403)[::-1]], 2))
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}, {"keep_rgb": True}):
        jpeg = encode(picture, "JPEG", quality=85, **options)
        for size in (403, 200, 100, 50):
            image = JpegImageFile(BytesIO(jpeg))
            image.draft("L", (size, size * 301 // 403))
            decoded = decode_checked(jpeg, size=image.size)
            assert decoded is not None
            np.testing.assert_array_equal(decoded, np.asarray(image))


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


@pytest.mark.parametrize("peak", [4095, 65535, 200])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_greys_are_scaled_by_their_own_range(peak: int, kind: str) -> None:
    deep = (np.linspace(0, 1, 40 * 50).reshape(40, 50) * peak).astype(np.uint16)
    luma = read_luma(encode(Image.fromarray(deep), kind))
    expected = np.rint(deep.astype(float) * 255 / peak)
    assert np.abs(luma - expected).max() <= 1
    assert luma.min() == 0
    assert luma.max() == 255


def test_deep_white_is_zero_tiff_is_inverted_once() -> None:
    deep = (ramp().astype(np.uint16)) * 100
    upright = read_luma(encode(Image.fromarray(deep), "TIFF"))
    inverted = read_luma(encode(Image.fromarray(deep), "TIFF", tiffinfo={262: 0}))
    np.testing.assert_array_equal(inverted, 255 - upright)


def test_float_tiff_and_its_infinities() -> None:
    values = ramp().astype(np.float32) / 7
    assert read_luma(encode(Image.fromarray(values), "TIFF")).max() == 255
    values[3, 3] = np.inf
    with pytest.raises(ImageError, match="finite"):
        read_luma(encode(Image.fromarray(values), "TIFF"))


@pytest.mark.usefixtures("any_greys")
def test_one_bit_palette_and_alpha() -> None:
    grey = Image.fromarray(ramp())
    one_bit = read_luma(encode(grey.point(lambda value: 255 * (value > 120)).convert("1")))
    assert set(np.unique(one_bit)) == {0, 255}
    palette = grey.convert("RGB").quantize(256)
    assert np.abs(read_luma(encode(palette)).astype(int) - ramp()).max() <= 8
    np.testing.assert_array_equal(read_luma(encode(grey.convert("LA"))), ramp())
    half = grey.convert("RGBA")
    half.putalpha(Image.fromarray(np.where(np.arange(60) < 30, 255, 0).astype(np.uint8)[None].repeat(40, 0)))
    over_black = read_luma(encode(half))
    assert over_black[:, 30:].max() == 0
    np.testing.assert_array_equal(over_black[:, :30], ramp()[:, :30])


@pytest.mark.parametrize(
    ("data", "words"),
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
        (deep_png(np.stack([DEEP, DEEP, DEEP + 1], 2)), "16-bit colour is accepted only of a grey film"),
        (deep_png(np.stack([DEEP, DEEP, DEEP, DEEP], 2)), "16-bit transparency is not accepted"),
        (deep_png(np.stack([DEEP, DEEP], 2)), "16-bit transparency is not accepted"),
    ],
)
def test_refused_with_a_reason(data: bytes, words: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # about a truncated TIFF directory
        with pytest.raises(ImageError, match=words):
            load_input(data, RULE)


def png(width: int, height: int, rows: bytes, *, interlaced: bool = False) -> bytes:
    """An 8-bit grey PNG with this pixel stream that is otherwise valid."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    stream = zlib.compress(rows)
    pixels = chunk(b"IDAT", stream[:20]) + chunk(b"IDAT", stream[20:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_a_png_whose_pixels_end_early_is_refused() -> None:
    row = b"\0" + bytes(range(40, 80))
    assert read_luma(png(40, 30, row * 30)).shape == (30, 40)
    with pytest.raises(ImageError, match=r"ends after 410 of 1,230 bytes"):
        read_luma(png(40, 30, row * 10))


def test_a_png_is_inflated_no_further_than_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    inflated, inflater = 0, zlib.decompressobj

    class Counting:
        def __init__(self) -> None:
            self._inflate = inflater()

        def decompress(self, data: bytes, most: int) -> bytes:
            nonlocal inflated
            out = self._inflate.decompress(data, most)
            inflated += len(out)
            return out

        def __getattr__(self, name: str) -> object:
            return getattr(self._inflate, name)

    values = ramp()
    rows = b"".join(b"\0" + bytes(row) for row in values)
    stream = zlib.compress(rows + bytes(50_000_000))
    pieces = [stream[start : start + 1000] for start in range(0, len(stream), 1000)]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [(b"IHDR", header), *((b"IDAT", piece) for piece in pieces), (b"IEND", b"")]
    )
    monkeypatch.setattr("pneumoscope.imaging.raster.zlib.decompressobj", Counting)
    np.testing.assert_array_equal(read_luma(png), values)
    assert len(rows) <= inflated <= 2_000_000


def test_jpegs_of_too_many_scans_or_markers_are_refused() -> None:
    values = np.full((64, 64), 128, np.uint8)
    values[:40] = ramp(40, 64)
    jpeg = encode(Image.fromarray(values), "JPEG", progressive=True, quality=50)
    read_luma(jpeg)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="more than 30 scans"):
        read_luma(jpeg[:-2] + last * 40 + b"\xff\xd9")
    thumbnail = b"\xff\xe1\x40\x00" + b"\xff\xda" * 0x1FFF
    np.testing.assert_array_equal(read_luma(jpeg[:2] + thumbnail + jpeg[2:] + b"\xff\xda" * 99), read_luma(jpeg))
    with pytest.raises(ImageError, match="more pieces than any film"):
        read_luma(jpeg[:2] + b"\xff\xfe\0\2" * 300_000 + jpeg[2:])


def tiff(values: NDArray[np.generic], **tags: int) -> bytes:
    """A TIFF of one strip, with these tags."""
    height, width = values.shape
    data = values.tobytes()
    entries = {
        256: width,
        257: height,
        258: values.dtype.itemsize * 8,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
        339: 1,
        **{int(name[1:]): value for name, value in tags.items()},
    }
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries)) + table + bytes(4)


def test_tiffs_that_would_be_misread_are_refused() -> None:
    values = ramp()
    np.testing.assert_array_equal(read_luma(tiff(values)), values)
    with pytest.raises(ImageError, match="1 strips are too few for 40 rows"):
        read_luma(tiff(values, t278=20))
    with pytest.raises(ImageError, match="signed samples of 8 bits"):
        read_luma(tiff((values.astype(np.int16) - 128).astype(np.int8), t339=2))
    with pytest.raises(ImageError, match="samples of 2³¹ and more"):
        read_luma(tiff(values.astype(np.uint32) * 16_000_000))
    read_luma(tiff(values.astype(np.uint32) * 8_000_000))
    endless = tiff(values)[:-4]
    for following in (8 + values.size, 10**8):  # the offset of the next directory: the same one, and beyond the file
        np.testing.assert_array_equal(read_luma(endless + struct.pack("<I", following)), values)


def test_a_cmyk_jpeg_without_an_adobe_marker_is_refused() -> None:
    jpeg = encode(Image.fromarray(ramp()).convert("CMYK"), "JPEG", quality=95)
    read_luma(jpeg)
    start = jpeg.index(b"\xff\xee")
    with pytest.raises(ImageError, match="does not state whether its colours are inverted"):
        read_luma(jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4]) :])


@pytest.mark.usefixtures("any_greys")
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_grey_of_few_bits_is_black(bits: int) -> None:
    most = 2**bits - 1
    values = np.full((16, 16), most, np.uint8)
    values[:8] = 0
    rows = b"".join(b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:]).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 16, 16, bits, 0, 0, 0, 0)
    pieces = [(b"IHDR", header), (b"tRNS", struct.pack(">H", 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]

    def png(pieces: list[tuple[bytes, bytes]]) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in pieces
        )

    expected = np.repeat([0, 255], 8)[:, None].repeat(16, axis=1)
    np.testing.assert_array_equal(read_luma(png(pieces)), expected)
    pieces[1] = (b"tRNS", struct.pack(">H", most))
    with pytest.raises(ImageError, match="blank"):
        read_luma(png(pieces))


@pytest.mark.parametrize(("scale", "kind"), [(1, np.uint8), (256, np.uint16)])
def test_a_transparent_grey_is_black(scale: int, kind: type[np.generic]) -> None:
    values = ramp().astype(kind) * kind(scale)
    values[:10] = 199 * scale
    luma = read_luma(encode(Image.fromarray(values), "PNG", transparency=199 * scale))
    assert luma[:10].max() == 0
    assert luma[10:].max() == 255


def test_interlaced_pngs_are_read() -> None:
    passes = ((5, 4), (5, 4), (10, 4), (10, 8), (20, 7), (20, 15), (40, 15))
    rows = b"".join((b"\0" + bytes(range(10, 10 + columns))) * count for columns, count in passes)
    assert read_luma(png(40, 30, rows, interlaced=True)).shape == (30, 40)
    with pytest.raises(ImageError, match="ends after"):
        read_luma(png(40, 30, rows[:-41], interlaced=True))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_animated_and_multi_page_files_are_refused(kind: str) -> None:
    pages = [Image.fromarray(ramp()), Image.fromarray(255 - ramp())]
    with pytest.raises(ImageError, match="several frames"):
        read_luma(encode(pages[0], kind, save_all=True, append_images=pages[1:]))


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
    assert reduced.shape == (1300 // 2, 1600 // 2) or max(reduced.shape) < 900
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


def test_deep_greys_are_scaled_without_eight_bytes_per_pixel() -> None:
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
    for data in (DAMAGED_JPEG, DAMAGED_PNG, DAMAGED_TIFF):
        mutated = bytearray(data)
        mutated[position % len(mutated)] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about malformed metadata
            with suppress(ImageError):
                assert read_luma(bytes(mutated[: len(mutated) - cut])).dtype == np.uint8


DAMAGED_JPEG = encode_jpeg(film("virus", patient=2, size=(80, 80)))
DAMAGED_PNG = encode(Image.fromarray(film("virus", patient=2, size=(60, 60))))
DAMAGED_TIFF = encode(Image.fromarray(film("virus", patient=2, size=(60, 60)).astype(np.uint16) * 9), "TIFF")


@pytest.mark.parametrize("side", [100, 224, 300])
def test_a_shrunk_film_gives_the_same_model_input(side: int) -> None:
    rule = InputRule.squash(side)
    whole = encode_jpeg(film("virus", patient=4, size=(900, 1000)))
    small = shrink(whole, rule)
    assert len(small) < len(whole)
    assert np.array_equal(load_input(small, rule), load_input(whole, rule))
