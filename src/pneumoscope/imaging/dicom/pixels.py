"""From a DICOM data set to its stored pixel values, by PS3.3 section C.7.6.3 and PS3.5 section 8.

One codec for each transfer syntax: libjpeg-turbo for 8-bit JPEG, GDCM for 12-bit and lossless JPEG, CharLS for
JPEG-LS, OpenJPEG for JPEG 2000, pydicom for RLE and what is not compressed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from pneumoscope.errors import ImageError, UnsuitableError
from pneumoscope.imaging import jpeg
from pneumoscope.imaging.dicom import codestream
from pneumoscope.imaging.dicom.codestream import FrameHeader
from pneumoscope.imaging.dicom.dataset import damage, number, text
from pneumoscope.imaging.radiograph import Limits, check_sides

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_GREYS = ("MONOCHROME1", "MONOCHROME2")
_YBR = ("YBR_FULL", "YBR_FULL_422")
_COLOURS = ("RGB", *_YBR, "YBR_ICT", "YBR_RCT")
BIG_ENDIAN, _RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", BIG_ENDIAN)
_HEARD_BITS = 8  # of a sample, for libjpeg-turbo to tell of damage
_JPEG = "1.2.840.10008.1.2.4."


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The Image Pixel module, checked: what the stored values mean, and how they lie."""

    syntax: str
    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    planar: int
    pixel_vr: str


def layout(dataset: "Dataset", syntax: str, limits: Limits) -> Layout:
    """Read and check the Image Pixel module.

    Raises:
        ImageError: it describes no single image of 8 or 16 bits, or one over a limit.
    """
    if "PixelData" not in dataset:
        raise ImageError(_without_pixels(dataset))
    stored = _whole(dataset, "BitsStored")
    found = Layout(
        syntax=syntax,
        rows=_whole(dataset, "Rows"),
        columns=_whole(dataset, "Columns"),
        samples=_whole(dataset, "SamplesPerPixel"),
        photometric=text(dataset, "PhotometricInterpretation"),
        allocated=_whole(dataset, "BitsAllocated"),
        stored=stored,
        high_bit=_whole(dataset, "HighBit", stored - 1),
        signed=_whole(dataset, "PixelRepresentation", 0) == 1,
        planar=_whole(dataset, "PlanarConfiguration", 0),
        pixel_vr=dataset["PixelData"].VR,
    )
    frames = _whole(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise UnsuitableError(f"the DICOM holds {frames} frames; give one radiograph a file.", code="frames")
    check_sides(found.columns, found.rows, limits)
    _require_readable(found)
    return found


def stored_values(dataset: "Dataset", layout: Layout) -> NDArray[Any]:
    """The pixels as they are stored: `uint8` or `uint16`, `[rows, columns]`, or `uint8 [rows, columns, 3]` RGB.

    Of greys only the bits stored are kept, moved down to bit 0; signed values stay in two's complement.
    Colours stored as YBR come back as their luma, `uint8 [rows, columns]`.

    Raises:
        ImageError: the pixel data are damaged, or contradict the header.
        UnsuitableError: they hold several frames, whatever the header says.
    """
    try:
        data = _one_frame(dataset["PixelData"].value, layout)
        values, precision = (_coded if layout.syntax in _CODECS else _native)(data, layout)
        if layout.samples == 1:
            return _significant(values, layout, precision)
        # The first of three samples may be the luma already (PS3.3 section C.7.6.3.1.2), and a JPEG's is read alone.
        return np.ascontiguousarray(values[:, :, 0] if values.ndim == 3 and layout.photometric in _YBR else values)
    except ImportError as missing:
        raise ImageError(
            "this DICOM's pixel data need a codec that is not installed; run `pip install 'pneumoscope[dicom]'`."
        ) from missing
    except damage() as failure:
        raise ImageError(f"cannot decode this DICOM's pixel data: {_words(failure)}; the file is damaged.") from failure


def _one_frame(data: bytes, layout: Layout) -> bytes:
    """The bytes of the one frame, whatever surrounds or pads it."""
    if layout.syntax in _NATIVE:
        size = layout.rows * layout.columns * layout.samples * layout.allocated // 8
        frames = len(data) // size if data[size:].strip(b"\x00") else 1
    else:
        offsets, fragments = codestream.fragments(data)
        begins = codestream.begins_rle if layout.syntax == _RLE else codestream.begins
        frames, data = sum(map(begins, fragments)) or offsets, b"".join(fragments)
    if frames > 1:
        raise UnsuitableError(f"the DICOM holds {frames} frames; give one radiograph a file.", code="frames")
    return data


def _without_pixels(dataset: "Dataset") -> str:
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        return "the DICOM's pixels are floating-point numbers; accepted are whole numbers of 8 or 16 bits."
    return "the DICOM holds no pixel data; give the file of an image."


def _whole(dataset: "Dataset", keyword: str, default: int | None = None) -> int:
    """A whole number of the Image Pixel module; without a default it must be there."""
    value = number(dataset, keyword)
    if value is None and default is not None and not dataset.get(keyword):
        return default
    if value is None or not value.is_integer() or not 0 <= value < 2**31:
        raise ImageError(f"the DICOM does not say its {keyword}, or not as a number; the file is damaged.")
    return int(value)


def _require_readable(found: Layout) -> None:
    if found.syntax not in (*_NATIVE, _RLE, *_CODECS):
        raise ImageError(
            "the DICOM's transfer syntax is not accepted; save it uncompressed or as JPEG, JPEG-LS, JPEG 2000 or RLE."
        )
    if found.photometric == "PALETTE COLOR":
        raise ImageError("the DICOM's colours are in a palette (PALETTE COLOR); accepted are greys, RGB and YBR.")
    if found.photometric not in (_GREYS if found.samples == 1 else _COLOURS if found.samples == 3 else ()):
        raise ImageError(
            "the DICOM's samples per pixel and photometric interpretation do not fit; accepted are MONOCHROME1 and "
            "MONOCHROME2 of one sample, and RGB and YBR of three."
        )
    if found.allocated not in (8, 16) or (found.samples == 3 and (found.allocated, found.stored) != (8, 8)):
        raise ImageError(
            f"the DICOM's samples have {found.allocated} bits; accepted are greys of 8 or 16 bits and colours of 8."
        )
    if not 1 <= found.stored <= found.high_bit + 1 <= found.allocated:
        raise ImageError(
            f"the DICOM says that {found.stored} bits up to bit {found.high_bit} are stored in {found.allocated}; "
            "the file is damaged."
        )


def _native(data: bytes, layout: Layout) -> tuple[NDArray[Any], int]:
    """Uncompressed and RLE pixels, PS3.5 sections 8.1, 8.2 and annex G."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    options: Any = {  # pydicom's own annotation of them is wrong
        "correct_unused_bits": False,
        "pixel_keyword": "PixelData",
        "pixel_vr": layout.pixel_vr,
        "number_of_frames": 1,
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "planar_configuration": layout.planar,
        "photometric_interpretation": layout.photometric,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": 0,
    }
    is_rle = layout.syntax == _RLE
    values, _ = get_decoder(layout.syntax).as_array(
        encapsulate([data]) if is_rle else data,
        index=0,
        raw=True,
        decoding_plugin="pydicom" if is_rle else "",
        **options,
    )
    return values, layout.allocated


def _coded(frame: bytes, layout: Layout) -> tuple[NDArray[Any], int]:
    """A compressed frame by its codec, and the bits of its samples."""
    module, markers, decode = _CODECS[layout.syntax]
    import_module(module)  # what is not installed is missed before the frame is looked at
    if codestream.JPEG_2000 in markers:
        frame = codestream.tidied_jpeg2000(frame)
        header = codestream.jpeg2000_header(frame)
    else:
        frame = codestream.tidied(frame)
        header = codestream.jpeg_header(frame)
    _require_agreement(header, layout, markers)
    return decode(frame, header, layout), header.precision


def _jpeg(frame: bytes, header: FrameHeader, layout: Layout) -> NDArray[Any]:
    """JPEG with loss: 8 bits by Pillow, 12 bits by GDCM."""
    if header.precision != 8:  # 12: baseline and extended JPEG have no other (T.81 section B.2.2)
        return _gdcm(frame, header, layout)
    image = JpegImagePlugin.JpegImageFile(BytesIO(frame))
    if _is_untransformed(image, header, layout):
        image.draft("YCbCr", image.size)  # keeps libjpeg from transforming what was never transformed
        image.load()
        jpeg.listen(frame)
        return np.asarray(Image.frombytes("RGB", image.size, image.tobytes()))
    heard = jpeg.luma(frame, image)
    return np.asarray(image) if heard is None else heard


def _is_untransformed(image: JpegImagePlugin.JpegImageFile, header: FrameHeader, layout: Layout) -> bool:
    """Whether only the DICOM says that a JPEG's components are RGB: no JFIF or Adobe marker, no such identifiers."""
    told = "jfif" in image.info or "adobe_transform" in image.info or bytes(header.components).upper() == b"RGB"
    return layout.photometric == "RGB" and not told


def _gdcm(frame: bytes, header: FrameHeader, layout: Layout) -> NDArray[Any]:
    """Decode as pydicom's own plugin for GDCM does, by the frame's precision; that one refuses 12-bit JPEG."""
    import gdcm

    if header.precision == _HEARD_BITS:
        jpeg.listen(frame, size=(layout.columns, layout.rows), lossless=True)  # GDCM keeps damage to itself
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(codestream.without_remarks(frame))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((layout.columns, layout.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType("RGB" if layout.samples == 3 else "MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(layout.syntax)))
    container, stored = (8, 8) if header.precision <= 8 else (16, header.precision)  # fewer in 8 end the process
    image.SetPixelFormat(gdcm.PixelFormat(layout.samples, container, stored, stored - 1, 0))
    decoded = image.GetBuffer()
    if decoded is None:
        raise ValueError("the codec gave no image")
    return _shaped(decoded.encode("utf-8", "surrogateescape"), header.precision, layout)  # GDCM gives char* as str


def _jpeg_ls(frame: bytes, header: FrameHeader, layout: Layout) -> NDArray[Any]:
    import jpeg_ls

    try:
        decoded, facts = jpeg_ls.decode_pixel_data(frame)
    except RuntimeError:  # GDCM reads on, but it also reads what is damaged within without a word
        if (data := frame.removesuffix(codestream.END)).endswith(b"\x00"):
            decoded, facts = jpeg_ls.decode_pixel_data(data.rstrip(b"\x00") + codestream.END)
        else:
            raise
    return _shaped(decoded, header.precision, layout, planes=facts["interleave_mode"] == 0)


def _jpeg_2000(frame: bytes, header: FrameHeader, layout: Layout) -> NDArray[Any]:
    from openjpeg.utils import decode_pixel_data

    if header.signed and not layout.signed:
        raise ValueError("the compressed image's samples are signed, the DICOM's are not")
    return _shaped(decode_pixel_data(frame, version=2), header.precision, layout)


#: By transfer syntax, the codec's module, the markers that a frame may begin with, and what decodes it.
_CODECS: dict[str, tuple[str, tuple[int, ...], Callable[[bytes, FrameHeader, Layout], NDArray[Any]]]] = {
    **dict.fromkeys((_JPEG + "50", _JPEG + "51"), ("PIL", (codestream.BASELINE, codestream.EXTENDED), _jpeg)),
    **dict.fromkeys((_JPEG + "57", _JPEG + "70"), ("gdcm", (codestream.LOSSLESS,), _gdcm)),
    **dict.fromkeys((_JPEG + "80", _JPEG + "81"), ("jpeg_ls", (codestream.JPEG_LS,), _jpeg_ls)),
    **dict.fromkeys((_JPEG + "90", _JPEG + "91"), ("openjpeg", (codestream.JPEG_2000,), _jpeg_2000)),
}


def _require_agreement(header: FrameHeader, layout: Layout, markers: tuple[int, ...]) -> None:
    """Raise ValueError where a compressed frame contradicts the DICOM: codecs trust the one or the other."""
    if header.marker not in markers:
        raise ValueError("the compressed image is of another kind than the transfer syntax says")
    if (header.rows, header.columns, len(header.components)) != (layout.rows, layout.columns, layout.samples):
        raise ValueError("the compressed image has another size than the DICOM says")
    lossy = header.marker in (codestream.BASELINE, codestream.EXTENDED)
    if header.precision > layout.allocated or header.precision not in ((8, 12) if lossy else range(2, 17)):
        raise ValueError(f"the compressed image has {header.precision} bits a sample, the DICOM {layout.allocated}")


def _shaped(
    decoded: bytes | bytearray | NDArray[Any], precision: int, layout: Layout, *, planes: bool = False
) -> NDArray[Any]:
    values = np.frombuffer(decoded, np.uint8 if precision <= 8 else "<u2")
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    if planes:
        return np.moveaxis(values.reshape(layout.samples, layout.rows, layout.columns), 0, 2)
    return values.reshape(layout.rows, layout.columns, layout.samples)


def _significant(values: NDArray[Any], layout: Layout, precision: int) -> NDArray[Any]:
    """Only the bits stored, moved down to bit 0: the others may hold overlays or anything (PS3.5 section 8.1.1).

    A codec's values of fewer bits than are stored keep their sign: bit `precision - 1` is repeated upwards.
    One that gives no bits above those stored has moved them down already.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if layout.signed and precision < layout.stored:
        sign = 1 << (precision - 1)
        values = ((values.astype(np.int32) & (2 * sign - 1)) ^ sign) - sign
    shift = max(0, min(layout.high_bit + 1, precision) - layout.stored)
    return np.asarray((values >> shift) & ((1 << layout.stored) - 1)).astype(np.uint16)


def _words(failure: BaseException) -> str:
    """What a codec says, in its last line; of other failures their kind, for their words may quote the file."""
    said = str(failure).strip().splitlines() if type(failure) in (ValueError, RuntimeError) else []
    return said[-1].strip().rstrip(".") if said else type(failure).__name__
