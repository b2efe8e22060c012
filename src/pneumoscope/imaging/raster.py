"""Decoding of JPEG, PNG, TIFF, WebP, BMP and GIF by Pillow.

Order of processing: header, pixel limit, decoding to 8-bit luma, orientation, check of the remaining grey levels.
"""

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
from pneumoscope.imaging.radiograph import (
    DECODE_ERRORS,
    ImageFacts,
    Limits,
    Luma,
    Radiograph,
    check_sides,
    full_range,
    orient,
)

# The plugins are called directly, because `Image.open` applies a pixel limit that is global to the process.
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
_DEEP_TRANSPARENCY = "16-bit transparency is not accepted; save it as 16-bit grey or with 8 bits."
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_TIFF_BITS, _TIFF_PHOTOMETRIC, _ORIENTATION, _EXIF_IFD = 258, 262, 274, 34665
_IMAGE_LENGTH, _STRIPS, _ROWS_PER_STRIP, _SAMPLE_FORMAT = 257, 273, 278, 339
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # of a JPEG, without restart markers
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", 0xD9
_MAX_SCANS = 30  # a progressive JPEG has about ten; every scan costs a pass over the image


def is_raster(data: bytes) -> bool:
    """Whether the bytes begin with the signature of a format that this module reads."""
    return any(data.startswith(signature) for signature, _ in _FORMATS) and (
        data[:4] != b"RIFF" or data[8:12] == b"WEBP"
    )


def read(data: bytes, rule: InputRule | None, limits: Limits) -> Radiograph:
    """Decode to an upright radiograph: see `film.read_radiograph`."""
    with _open(data, limits) as image:
        try:
            if isinstance(image, PngImagePlugin.PngImageFile):  # before the facts: a PNG's EXIF may follow its pixels
                image.load()
                _require_all_rows(data)
            facts = _facts(image, data)
            decoded = jpeg.luma(data, image, rule) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
            orientation = facts.orientation
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                image.load()
                _require_all_strips(image)
                orientation = 1  # Pillow has applied it already
            luma = orient(_luma(image, data, facts.bits) if decoded is None else decoded, orientation)
            # Measured only when a model is to decide (`rule`): it costs a second pass over a colour JPEG, and preparing
            # a data set would pay for it, because the archive of Kermany et al. consists of colour JPEGs.
            coloured = None if rule is None else colour.share_of(image, data, facts.mode)
            transparent = colour.transparent_share(image)
        except DECODE_ERRORS as failure:
            raise ImageError(
                f"cannot decode this {image.format}: {_message(failure)}; the file is damaged."
            ) from failure
    counts = levels.histogram(luma)
    if max(counts) == luma.size:
        if colour.has_shape(image):
            raise UnsuitableError("the picture is a shape of one colour, like a logo, not a film.", code="drawing")
        what = "is transparent or has the same value" if image.has_transparency_data else "has the same value"
        raise UnsuitableError(f"the image is blank: every pixel {what}.", code="blank")
    radiograph = Radiograph(luma=luma, facts=facts, coloured=coloured, transparent=transparent)
    return replace(radiograph, notes=levels.check_loss(levels.loss(counts), radiograph))


def _facts(image: ImageFile, data: bytes) -> ImageFacts:
    """Facts of the header. Call it before a JPEG is drafted: `draft` changes the image's mode and size."""
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
    except DECODE_ERRORS as failure:
        raise ImageError(f"cannot read the image's header: {_message(failure)}; the file is damaged.") from failure
    return image


def _check_header(image: ImageFile, data: bytes, limits: Limits) -> None:
    check_sides(image.width, image.height, limits)
    if _has_more_frames(image, data):
        raise UnsuitableError(
            f"the {image.format} contains several frames or pages; give one image per file.", code="frames"
        )
    if (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and len(image.tag_v2.get(_TIFF_BITS, ())) > 1
        and _bits(image, data) > 8
    ):
        raise ImageError("16-bit colour is not accepted; save it as 16-bit grey or with 8 bits.")
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if image.mode == "CMYK" and "adobe" not in image.info:
            raise ImageError("this CMYK JPEG does not state whether its colours are inverted; save it as grey or RGB.")
        # Counting bytes is quick but may overcount, so the markers are walked only if it finds too many.
        if data.count(_START_OF_SCAN) > _MAX_SCANS and _scans(data) > _MAX_SCANS:
            raise ImageError(f"the JPEG has more than {_MAX_SCANS} scans, more than any film has; save it again.")
    if _bits(image, data) == 8 and _SIGNED in _sample_formats(image):
        raise ImageError("signed samples of 8 bits are not accepted; save it with unsigned samples.")


def _scans(data: bytes) -> int:
    """Count a JPEG's scans (ITU-T T.81 section B.1.1), without those of embedded previews or after the end of image."""
    count, position = 0, 2
    while found := _MARKER.search(data, position):
        position = found.end()
        if data[position - 1] == _END_OF_IMAGE or position + 2 > len(data):
            break
        count += data[position - 1] == _START_OF_SCAN[1]
        position += int.from_bytes(data[position : position + 2], "big")
    return count


def _sample_formats(image: ImageFile) -> tuple[int, ...]:
    """A TIFF's SampleFormat: 1 unsigned, 2 signed, 3 floating point (TIFF 6.0, section 19); empty for other formats."""
    return image.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,)) if isinstance(image, TiffImagePlugin.TiffImageFile) else ()


def _has_more_frames(image: ImageFile, data: bytes) -> bool:
    """Whether there is a second frame. A TIFF's directories are not walked: there may be thousands."""
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
    """Raise OSError if a PNG's pixel stream ends early; Pillow would leave the remaining rows black.

    The stream is inflated again in pieces of at most 1 MB, only as far as the header declares, so that a
    decompression bomb costs no memory.
    """
    width, height, depth, colour_type, interlaced = struct.unpack(">IIBB2xB", data[16:29])
    bits = depth * _PNG_CHANNELS[colour_type]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    declared = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
    inflate, inflated, position = zlib.decompressobj(), 0, 8
    while position + 8 <= len(data) and not inflate.eof and inflated < declared:
        length, chunk_type = struct.unpack(">I4s", data[position : position + 8])
        piece = data[position + 8 : position + 8 + length] if chunk_type == b"IDAT" else b""
        while piece and inflated < declared:
            inflated += len(inflate.decompress(piece, 1 << 20))
            piece = inflate.unconsumed_tail
        position += length + 12
    if inflated < declared:
        inflated += len(inflate.flush())
    if inflated < declared:
        raise OSError(f"the pixel data ends after {inflated:,} of {declared:,} bytes")


def _require_all_strips(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raise OSError if a TIFF has fewer strips than its rows need; Pillow would leave the remaining rows black."""
    strips, rows = image.tag_v2.get(_STRIPS), int(image.tag_v2[_IMAGE_LENGTH])
    if strips is not None and len(strips) * image.tag_v2.get(_ROWS_PER_STRIP, rows) < rows:
        raise OSError(f"{len(strips):,} strips are too few for {rows:,} rows")


def _deep_greys(data: bytes) -> NDArray[np.uint16]:
    """The greys of a PNG with several channels of 16 bits, `uint16 [H, W]`.

    Pillow unpacks such channels to 8 bits, so a file with colour channels is decoded twice: once for each byte of a
    sample. Grey and alpha are decoded at once, as one number of 32 bits.

    Raises:
        ImageError: the image is not grey, or not fully opaque.
    """

    def channels(mode: str, raw_mode: str) -> list[Image.Image]:
        image = PngImagePlugin.PngImageFile(BoundedBytes(data))
        image._mode = mode  # noqa: SLF001 - Pillow has no other way to set the raw mode
        image.tile = [image.tile[0]._replace(args=raw_mode)]
        return list(image.split())

    if data[25] == _GREY_WITH_ALPHA:
        both = np.asarray(channels("I", "I;32B")[0]).view(np.uint32)  # grey and alpha, 16 bits each, as one number
        greys, opaque = (both >> 16).astype(np.uint16), bool((both & 0xFFFF == 0xFFFF).all())
    else:
        mode = "RGB" if data[25] == _COLOURS else "RGBA"
        halves, opaque = [], True
        # Pillow keeps what it takes for a sample's high byte: the first if read as big-endian, the second if little.
        for end in "BL":
            first, second, third, *alpha = channels(mode, f"{mode};16{end}")
            if first != second or second != third:
                raise ImageError(
                    "16-bit colour is accepted only if the film is grey; save it as 16-bit grey or with 8 bits."
                )
            opaque = opaque and all(each.getextrema() == (255, 255) for each in alpha)
            halves.append(np.asarray(first, np.uint16))
        greys = (halves[0] << 8 | halves[1]).astype(np.uint16)
    if not opaque:
        raise ImageError(_DEEP_TRANSPARENCY)
    return greys


def _luma(image: ImageFile, data: bytes, bits: int) -> Luma:
    """The luma of an image that Pillow has loaded, `uint8 [H, W]`, before orientation."""
    if bits == 16 and isinstance(image, PngImagePlugin.PngImageFile) and data[25] != 0:
        if "transparency" in image.info:  # one colour is transparent, by a chunk tRNS
            raise ImageError(_DEEP_TRANSPARENCY)
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
        # Pillow scales greys of 1 to 4 bits to 8 bits. The transparent level it scales only in images of 1 bit.
        greys = np.asarray(image.convert("L"))
        return np.where(greys == min(transparent * 255 // (2**bits - 1), 255), np.uint8(0), greys)
    if image.mode == "L" and not image.has_transparency_data:
        return np.asarray(image)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("L"))
    return np.asarray(image.convert("RGB").convert("L"))


def _exif(image: ImageFile) -> tuple[bool, int]:
    """Whether there is an EXIF block (a TIFF's own tags do not count), and the orientation, 1 to 8; 1 by default."""
    is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    try:
        tags = image.getexif()
        value = tags.get(_ORIENTATION, 1)
    except DECODE_ERRORS:
        if is_tiff:  # Pillow has turned the image by whichever tags it could read, so its orientation is unknown
            raise
        return "exif" in image.info, 1
    return (_EXIF_IFD in tags if is_tiff else len(tags) > 0), value if value in range(1, 9) else 1


def _message(failure: BaseException) -> str:
    return str(failure) or type(failure).__name__
