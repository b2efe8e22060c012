"""JPEG, PNG, TIFF, WebP, BMP and GIF, by Pillow: header, pixel limit, decode to 8-bit luma, orientation."""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError, UnsuitableError
from pneumoscope.imaging import colour, jpeg, levels
from pneumoscope.imaging.bounded import BoundedBytes
from pneumoscope.imaging.radiograph import DAMAGE, ImageFacts, Limits, Luma, Radiograph, check_sides, full_range, orient

# The plugins are called directly: Pillow's own opening would consult a process-wide pixel limit.
_FORMATS: tuple[tuple[bytes, Callable[[IO[bytes]], ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"GIF87a", GifImagePlugin.GifImageFile),
    (b"GIF89a", GifImagePlugin.GifImageFile),
)
# PNG specification, third edition: channels by colour type (11.2.1), and the seven interlacing passes (8.1).
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_COLOURS, _GREY_WITH_ALPHA = 2, 4  # colour types
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_TIFF_BITS, _TIFF_PHOTOMETRIC, _ORIENTATION, _EXIF_IFD = 258, 262, 274, 34665
_IMAGE_LENGTH, _STRIPS, _ROWS_PER_STRIP, _SAMPLE_FORMAT = 257, 273, 278, 339
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # of a JPEG, but those of restarts
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", 0xD9
_MOST_SCANS = 30  # a progressive JPEG has about ten; each costs a pass over the image


def is_raster(data: bytes) -> bool:
    """Whether the bytes begin like one of the formats read here."""
    return any(data.startswith(signature) for signature, _ in _FORMATS) and (
        data[:4] != b"RIFF" or data[8:12] == b"WEBP"
    )


def read(data: bytes, rule: InputRule | None, limits: Limits) -> Radiograph:
    """Decode to an upright 8-bit luma radiograph: see `film.read_radiograph`."""
    with _open(data, limits) as image:
        try:
            if isinstance(image, PngImagePlugin.PngImageFile):  # first, as its tags may follow its pixels
                image.load()
                _require_all_rows(data)
            facts = _facts(image, data)
            heard = jpeg.luma(data, image, rule) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
            orientation = facts.orientation
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                image.load()
                _require_all_strips(image)
                orientation = 1  # Pillow has turned it upright
            luma = orient(_luma(image, data, facts.bits) if heard is None else heard, orientation)
            # Only for a decision: a colour JPEG costs another pass, and the data's films are colour JPEGs.
            coloured = None if rule is None else colour.share_of(image, data, facts.mode)
        except DAMAGE as failure:
            raise ImageError(f"cannot decode this {image.format}: {_words(failure)}; the file is damaged.") from failure
    counts = levels.histogram(luma)
    if max(counts) == luma.size:
        what = "is transparent or has one value" if image.has_transparency_data else "has the same value"
        raise UnsuitableError(f"the image is blank: every pixel {what}.", code="blank")
    read = Radiograph(luma=luma, facts=facts, coloured=coloured)
    return replace(read, notes=levels.told(levels.loss(counts), read))


def _facts(image: ImageFile, data: bytes) -> ImageFacts:
    """What the header says, before a JPEG is drafted, which gives it another mode."""
    exif, orientation = _exif(image)
    quantisers = image.quantization.get(0) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
    return ImageFacts(
        format=image.format or "",
        mode=image.mode,
        width=image.width,
        height=image.height,
        bits=_bits(image, data),
        orientation=orientation,
        exif=exif,
        icc="icc_profile" in image.info,
        progressive="progressive" in image.info,
        quantiser=sum(quantisers) / len(quantisers) if quantisers else None,
    )


def _open(data: bytes, limits: Limits) -> ImageFile:
    plugin = next(plugin for signature, plugin in _FORMATS if data.startswith(signature))
    try:
        image = plugin(BoundedBytes(data))
        _check_header(image, data, limits)
    except DAMAGE as failure:
        raise ImageError(f"cannot read the image's header: {_words(failure)}; the file is damaged.") from failure
    return image


def _check_header(image: ImageFile, data: bytes, limits: Limits) -> None:
    check_sides(image.width, image.height, limits)
    if _has_more_frames(image, data):
        raise UnsuitableError(
            f"the {image.format} holds several frames or pages; give one image a file.", code="frames"
        )
    if (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and len(image.tag_v2.get(_TIFF_BITS, ())) > 1
        and _bits(image, data) > 8
    ):
        raise ImageError("16-bit colour is not accepted; save it as 16-bit grey or as 8 bit.")
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if image.mode == "CMYK" and "adobe" not in image.info:
            raise ImageError("this JPEG's four colours may be stored inverted or not; save it as grey or RGB.")
        if data.count(_START_OF_SCAN) > _MOST_SCANS and _scans(data) > _MOST_SCANS:
            raise ImageError(f"the JPEG has more than {_MOST_SCANS} scans, more than any film; save it anew.")
    if _bits(image, data) == 8 and _SIGNED in _sample_formats(image):
        raise ImageError("signed samples of 8 bits are not accepted; save it as unsigned ones.")


def _scans(data: bytes) -> int:
    """How many scans a JPEG has (ITU-T T.81 section B.1.1), without what is embedded in it or follows it."""
    count, position = 0, 2
    while found := _MARKER.search(data, position):
        position = found.end()
        if data[position - 1] == _END_OF_IMAGE or position + 2 > len(data):
            break
        count += data[position - 1] == _START_OF_SCAN[1]
        position += int.from_bytes(data[position : position + 2], "big")
    return count


def _sample_formats(image: ImageFile) -> tuple[int, ...]:
    """Of a TIFF's samples: 1 unsigned, 2 signed, 3 floating point (TIFF 6.0, section 19); empty for others."""
    return image.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,)) if isinstance(image, TiffImagePlugin.TiffImageFile) else ()


def _has_more_frames(image: ImageFile, data: bytes) -> bool:
    """Without walking the directories of a TIFF, of which there may be thousands."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        first = int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big")
        return image.tag_v2.next not in (0, first) and image.tag_v2.next < len(data)
    return bool(getattr(image, "n_frames", 1) > 1)


def _bits(image: ImageFile, data: bytes) -> int:
    if isinstance(image, PngImagePlugin.PngImageFile):
        return data[24]  # IHDR, PNG specification 11.2.2
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_TIFF_BITS, (1,))))
    return 8


def _require_all_rows(data: bytes) -> None:
    """Raise OSError if a PNG's pixel stream ends early; Pillow would leave the rest black."""
    width, height, depth, colour_type, interlaced = struct.unpack(">IIBB2xB", data[16:29])
    bits = depth * _PNG_CHANNELS[colour_type]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    declared = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
    inflate, found, position = zlib.decompressobj(), 0, 8
    while position + 8 <= len(data) and not inflate.eof and found < declared:
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        piece = data[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        while piece and found < declared:
            found += len(inflate.decompress(piece, 1 << 20))
            piece = inflate.unconsumed_tail
        position += length + 12
    if found < declared:
        found += len(inflate.flush())
    if found < declared:
        raise OSError(f"the pixel data ends after {found:,} of {declared:,} bytes")


def _require_all_strips(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raise OSError if a TIFF names fewer strips than its rows need; Pillow would leave the rest black."""
    strips, rows = image.tag_v2.get(_STRIPS), int(image.tag_v2[_IMAGE_LENGTH])
    if strips is not None and len(strips) * image.tag_v2.get(_ROWS_PER_STRIP, rows) < rows:
        raise OSError(f"{len(strips):,} strips do not hold {rows:,} rows")


def _deep_greys(data: bytes) -> NDArray[np.uint16]:
    """The greys of a PNG with several channels of 16 bits, which Pillow unpacks to 8: once more for each half.

    Raises:
        ImageError: its colours differ, or not all of it is opaque.
    """

    def channels(mode: str, raw_mode: str) -> list[Image.Image]:
        image = PngImagePlugin.PngImageFile(BoundedBytes(data))
        image._mode = mode  # noqa: SLF001 - Pillow has no other way to ask for it
        image.tile = [image.tile[0]._replace(args=raw_mode)]
        return list(image.split())

    if data[25] == _GREY_WITH_ALPHA:
        both = np.asarray(channels("I", "I;32B")[0]).view(np.uint32)
        greys, opaque = (both >> 16).astype(np.uint16), bool((both & 0xFFFF == 0xFFFF).all())
    else:
        mode = "RGB" if data[25] == _COLOURS else "RGBA"
        halves, opaque = [], True
        for end in "BL":  # the first byte of each sample, and, as if it were the first, the second
            first, second, third, *alpha = channels(mode, f"{mode};16{end}")
            if first != second or second != third:
                raise ImageError("16-bit colour is accepted only of a grey film; save it as 16-bit grey or as 8 bit.")
            opaque = opaque and all(each.getextrema() == (255, 255) for each in alpha)
            halves.append(np.asarray(first, np.uint16))
        greys = (halves[0] << 8 | halves[1]).astype(np.uint16)
    if not opaque:
        raise ImageError("16-bit transparency is not accepted; save it as 16-bit grey or as 8 bit.")
    return greys


def _luma(image: ImageFile, data: bytes, bits: int) -> Luma:
    if bits == 16 and isinstance(image, PngImagePlugin.PngImageFile) and data[25] != 0:
        return full_range(_deep_greys(data), inverted=False)
    if image.mode.startswith(("I", "F")):
        inverted = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == (
            _WHITE_IS_ZERO
        )
        values = np.asarray(image)
        if _UNSIGNED in _sample_formats(image) and values.min() < 0:
            raise ImageError("samples of 2³¹ and more are not accepted; save it with 16 bits.")
        luma = full_range(values, inverted=inverted)
        if (transparent := image.info.get("transparency")) is not None:
            luma[values == transparent] = 0
        return luma
    if image.mode in ("1", "L") and isinstance(transparent := image.info.get("transparency"), int):
        greys = np.asarray(image.convert("L"))  # scaled to 8 bits; Pillow scales the transparent one only of 1 bit
        return np.where(greys == min(transparent * 255 // (2**bits - 1), 255), np.uint8(0), greys)
    if image.mode == "L" and not image.has_transparency_data:
        return np.asarray(image)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("L"))
    return np.asarray(image.convert("RGB").convert("L"))


def _exif(image: ImageFile) -> tuple[bool, int]:
    """Whether there is an EXIF block, as a TIFF's own tags are none; the orientation, 1 to 8, 1 if nothing says it."""
    is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    try:
        tags = image.getexif()
        value = tags.get(_ORIENTATION, 1)
    except DAMAGE:
        if is_tiff:  # Pillow would turn it by what it could read
            raise
        return "exif" in image.info, 1
    return (_EXIF_IFD in tags if is_tiff else len(tags) > 0), value if value in range(1, 9) else 1


def _words(failure: BaseException) -> str:
    return str(failure) or type(failure).__name__
