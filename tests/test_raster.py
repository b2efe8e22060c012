"""Raster formats, byte for byte: how PNG, JPEG, TIFF, BMP, GIF and WebP are read, and for what they are refused."""

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

import dicoms
from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError
from pneumoscope.imaging import read_for_input, read_luma
from pneumoscope.imaging.jpeg import colours, decode_checked
from samples import deep_png, encode, ramp

RULE = InputRule.squash(64)
DEEP = ramp().astype(np.uint16) * 200 + 77


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_deep_png_with_equal_channels_is_read_as_grey(channels: int) -> None:
    grey = read_luma(encode(Image.fromarray(DEEP), "PNG"))
    film = np.stack([DEEP] * channels, 2)
    if channels != 3:
        film[:, :, -1] = 65535
    np.testing.assert_array_equal(read_luma(deep_png(film)), grey)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "WEBP"])
def test_still_images_of_other_formats_are_read(kind: str) -> None:
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
    saving = dict(options)  # a copy: both values of `closed` get the same dictionary
    picture = Image.fromarray(ramp(300, 400)).convert(saving.pop("mode", "L"))
    jpeg = encode(picture, "JPEG", quality=90, **saving)
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
    assert colours(jpeg) is None  # decoding it at the smallest scale would terminate the process
    assert colours(hidden) is None


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
