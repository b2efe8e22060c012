"""Decoding of a DICOM's pixel data to stored values, by PS3.3 section C.7.6.3 and PS3.5 section 8.

Each kind of pixel data has one codec: libjpeg-turbo for 8-bit JPEG, GDCM for 12-bit and lossless JPEG, CharLS for
JPEG-LS, OpenJPEG for JPEG 2000, pydicom for RLE and uncompressed data.
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
from pneumoscope.imaging.dicom.dataset import decode_errors, number, text
from pneumoscope.imaging.radiograph import Limits, check_sides

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_GREYS = ("MONOCHROME1", "MONOCHROME2")
_YBR = ("YBR_FULL", "YBR_FULL_422")
_COLOURS = ("RGB", *_YBR, "YBR_ICT", "YBR_RCT")
BIG_ENDIAN, _RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", BIG_ENDIAN)
_CHECKED_BITS = 8  # depth of a sample at which libjpeg-turbo checks a lossless JPEG for damage
_JPEG = "1.2.840.10008.1.2.4."


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The checked attributes of the Image Pixel module (PS3.3 section C.7.6.3).

    `syntax` is the UID of the transfer syntax. `allocated`, `stored` and `high_bit` are in bits of one sample. `planar`
    is 1 if the samples are stored in planes; `pixel_vr` is the VR of the pixel data.
    """

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
        ImageError: it does not describe an image of 8 or 16 bits, or describes one beyond a limit.
        UnsuitableError: it describes several frames, or an image that is too small.
    """
    if "PixelData" not in dataset:
        raise ImageError(_missing_pixels(dataset))
    stored = _integer(dataset, "BitsStored")
    layout = Layout(
        syntax=syntax,
        rows=_integer(dataset, "Rows"),
        columns=_integer(dataset, "Columns"),
        samples=_integer(dataset, "SamplesPerPixel"),
        photometric=text(dataset, "PhotometricInterpretation"),
        allocated=_integer(dataset, "BitsAllocated"),
        stored=stored,
        high_bit=_integer(dataset, "HighBit", stored - 1),
        signed=_integer(dataset, "PixelRepresentation", 0) == 1,
        planar=_integer(dataset, "PlanarConfiguration", 0),
        pixel_vr=dataset["PixelData"].VR,
    )
    frames = _integer(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise UnsuitableError(f"the DICOM contains {frames} frames; give one radiograph per file.", code="frames")
    check_sides(layout.columns, layout.rows, limits)
    _require_readable(layout)
    return layout


def stored_values(dataset: "Dataset", layout: Layout) -> NDArray[Any]:
    """Decode the pixel data.

    Returns:
        Greys as `uint16 [rows, columns]`: only the stored bits, shifted down to bit 0, signed values in two's
        complement. Colours as RGB, `uint8 [rows, columns, 3]`, or as their luma, `uint8 [rows, columns]`: a JPEG that
        stores luma, and YBR_FULL and YBR_FULL_422, are not converted to RGB.

    Raises:
        ImageError: the pixel data are damaged or contradict the header, or a codec is not installed.
        UnsuitableError: they contain several frames, whatever the header states.
    """
    try:
        data = _one_frame(dataset["PixelData"].value, layout)
        values, precision = (_decode_compressed if layout.syntax in _CODECS else _decode_native)(data, layout)
        if layout.samples == 1:
            return _stored_bits(values, layout, precision)
        # In YBR the first sample is the luma (PS3.3 section C.7.6.3.1.2); a JPEG has been decoded to its luma only.
        return np.ascontiguousarray(values[:, :, 0] if values.ndim == 3 and layout.photometric in _YBR else values)
    except ImportError as missing:
        raise ImageError(
            "this DICOM's pixel data need a codec that is not installed; run `pip install 'pneumoscope[dicom]'`."
        ) from missing
    except decode_errors() as failure:
        raise ImageError(
            f"cannot decode this DICOM's pixel data: {_message(failure)}; the file is damaged."
        ) from failure


def _one_frame(data: bytes, layout: Layout) -> bytes:
    """The bytes of the only frame; of encapsulated data, without the items around its fragments.

    Frames are counted in the data themselves: some headers do not state that there are several.
    """
    if layout.syntax in _NATIVE:
        size = layout.rows * layout.columns * layout.samples * layout.allocated // 8
        frames = len(data) // size if data[size:].strip(b"\x00") else 1
    else:
        offsets, fragments = codestream.fragments(data)
        begins = codestream.starts_rle_frame if layout.syntax == _RLE else codestream.starts_frame
        frames, data = sum(map(begins, fragments)) or offsets, b"".join(fragments)
    if frames > 1:
        raise UnsuitableError(f"the DICOM contains {frames} frames; give one radiograph per file.", code="frames")
    return data


def _missing_pixels(dataset: "Dataset") -> str:
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        return "the DICOM's pixels are floating-point numbers; accepted are whole numbers of 8 or 16 bits."
    return "the DICOM contains no pixel data; give the file of an image."


def _integer(dataset: "Dataset", keyword: str, default: int | None = None) -> int:
    """An integer of the Image Pixel module, from 0 to 2³¹ - 1; without a default it is required."""
    value = number(dataset, keyword)
    if value is None and default is not None and not dataset.get(keyword):
        return default
    if value is None or not value.is_integer() or not 0 <= value < 2**31:
        raise ImageError(f"the DICOM's {keyword} is missing or not a number; the file is damaged.")
    return int(value)


def _require_readable(layout: Layout) -> None:
    if layout.syntax not in (*_NATIVE, _RLE, *_CODECS):
        raise ImageError(
            "the DICOM's transfer syntax is not accepted; save it uncompressed or as JPEG, JPEG-LS, JPEG 2000 or RLE."
        )
    if layout.photometric == "PALETTE COLOR":
        raise ImageError("the DICOM's colours are in a palette (PALETTE COLOR); accepted are greys, RGB and YBR.")
    if layout.photometric not in (_GREYS if layout.samples == 1 else _COLOURS if layout.samples == 3 else ()):
        raise ImageError(
            "the DICOM's samples per pixel and photometric interpretation do not fit together; accepted are "
            "MONOCHROME1 and MONOCHROME2 of one sample, and RGB and YBR of three."
        )
    if layout.allocated not in (8, 16) or (layout.samples == 3 and (layout.allocated, layout.stored) != (8, 8)):
        raise ImageError(
            f"the DICOM's samples have {layout.stored} bits, stored in {layout.allocated} bits; accepted are greys in "
            "8 or 16 bits, and colours of 8 bits in 8."
        )
    if not 1 <= layout.stored <= layout.high_bit + 1 <= layout.allocated:
        raise ImageError(
            f"the DICOM states that {layout.stored} bits up to bit {layout.high_bit} are stored in {layout.allocated}; "
            "the file is damaged."
        )


def _decode_native(data: bytes, layout: Layout) -> tuple[NDArray[Any], int]:
    """Decode uncompressed and RLE pixels, PS3.5 sections 8.1, 8.2 and annex G; return them and the bits per sample."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    options: Any = {  # pydicom annotates them wrongly
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


def _decode_compressed(frame: bytes, layout: Layout) -> tuple[NDArray[Any], int]:
    """Decode a compressed frame by its codec; return it and the bits per decoded sample."""
    module, markers, decode = _CODECS[layout.syntax]
    import_module(module)  # first, so that a missing codec is reported whatever the frame contains
    if codestream.JPEG_2000 in markers:
        frame = codestream.trim_jpeg2000(frame)
        header = codestream.jpeg2000_header(frame)
    else:
        frame = codestream.trim_jpeg(frame)
        header = codestream.jpeg_header(frame)
    _require_agreement(header, layout, markers)
    return decode(frame, header, layout), header.precision


def _jpeg(frame: bytes, header: FrameHeader, layout: Layout) -> NDArray[Any]:
    """Lossy JPEG: 8 bits by libjpeg-turbo, 12 bits by GDCM."""
    if header.precision != 8:  # 12: baseline and extended JPEG have no other precision (T.81 section B.2.2)
        return _gdcm(frame, header, layout)
    image = JpegImagePlugin.JpegImageFile(BytesIO(frame))
    if _is_untransformed(image, header, layout):
        image.draft("YCbCr", image.size)  # keeps libjpeg from converting components that are RGB already
        image.load()
        jpeg.decode_checked(frame)
        return np.asarray(Image.frombytes("RGB", image.size, image.tobytes()))
    decoded = jpeg.luma(frame, image)
    return np.asarray(image) if decoded is None else decoded


def _is_untransformed(image: JpegImagePlugin.JpegImageFile, header: FrameHeader, layout: Layout) -> bool:
    """Whether only the DICOM states that a JPEG is RGB: the JPEG has no JFIF or Adobe marker, nor ids R, G and B."""
    declared = "jfif" in image.info or "adobe_transform" in image.info or bytes(header.components).upper() == b"RGB"
    return layout.photometric == "RGB" and not declared


def _gdcm(frame: bytes, header: FrameHeader, layout: Layout) -> NDArray[Any]:
    """Decode by GDCM, as pydicom's plugin does, but by the frame's own precision: the plugin refuses 12-bit JPEG."""
    import gdcm

    if header.precision == _CHECKED_BITS:
        jpeg.decode_checked(frame, size=(layout.columns, layout.rows), lossless=True)  # GDCM does not report damage
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(codestream.strip_app_segments(frame))
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
    container, stored = (8, 8) if header.precision <= 8 else (16, header.precision)
    image.SetPixelFormat(gdcm.PixelFormat(layout.samples, container, stored, stored - 1, 0))
    decoded = image.GetBuffer()
    if decoded is None:
        raise ValueError("the codec returned no image")
    return _reshape(decoded.encode("utf-8", "surrogateescape"), header.precision, layout)  # GDCM returns char* as str


def _jpeg_ls(frame: bytes, header: FrameHeader, layout: Layout) -> NDArray[Any]:
    import jpeg_ls

    try:
        decoded, facts = jpeg_ls.decode_pixel_data(frame)
    except RuntimeError:
        # CharLS refuses zeros before the end marker; they are removed. GDCM would read on, but does not report damage.
        if (data := frame.removesuffix(codestream.END)).endswith(b"\x00"):
            decoded, facts = jpeg_ls.decode_pixel_data(data.rstrip(b"\x00") + codestream.END)
        else:
            raise
    return _reshape(decoded, header.precision, layout, planes=facts["interleave_mode"] == 0)


def _jpeg_2000(frame: bytes, header: FrameHeader, layout: Layout) -> NDArray[Any]:
    from openjpeg.utils import decode_pixel_data

    if header.signed and not layout.signed:
        raise ValueError("the compressed image's samples are signed, the DICOM's are not")
    return _reshape(decode_pixel_data(frame, version=2), header.precision, layout)


#: By transfer syntax: the module that the codec needs, the accepted frame markers, and the decoding function.
_CODECS: dict[str, tuple[str, tuple[int, ...], Callable[[bytes, FrameHeader, Layout], NDArray[Any]]]] = {
    **dict.fromkeys((_JPEG + "50", _JPEG + "51"), ("PIL", (codestream.BASELINE, codestream.EXTENDED), _jpeg)),
    **dict.fromkeys((_JPEG + "57", _JPEG + "70"), ("gdcm", (codestream.LOSSLESS,), _gdcm)),
    **dict.fromkeys((_JPEG + "80", _JPEG + "81"), ("jpeg_ls", (codestream.JPEG_LS,), _jpeg_ls)),
    **dict.fromkeys((_JPEG + "90", _JPEG + "91"), ("openjpeg", (codestream.JPEG_2000,), _jpeg_2000)),
}


def _require_agreement(header: FrameHeader, layout: Layout, markers: tuple[int, ...]) -> None:
    """Raise ValueError if a compressed frame contradicts the DICOM: each codec trusts one of the two."""
    if header.marker not in markers:
        raise ValueError("the compressed image does not have the format of the transfer syntax")
    if (header.rows, header.columns, len(header.components)) != (layout.rows, layout.columns, layout.samples):
        raise ValueError("the compressed image differs in size or components from what the DICOM states")
    lossy = header.marker in (codestream.BASELINE, codestream.EXTENDED)
    if header.precision > layout.allocated or header.precision not in ((8, 12) if lossy else range(2, 17)):
        raise ValueError(f"the compressed image has {header.precision} bits per sample, the DICOM {layout.allocated}")


def _reshape(
    decoded: bytes | bytearray | NDArray[Any], precision: int, layout: Layout, *, planes: bool = False
) -> NDArray[Any]:
    """Decoded bytes as `[rows, columns]`, or `[rows, columns, samples]`; `planes`: the samples are stored in planes."""
    values = np.frombuffer(decoded, np.uint8 if precision <= 8 else "<u2")
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    if planes:
        return np.moveaxis(values.reshape(layout.samples, layout.rows, layout.columns), 0, 2)
    return values.reshape(layout.rows, layout.columns, layout.samples)


def _stored_bits(values: NDArray[Any], layout: Layout, precision: int) -> NDArray[Any]:
    """Keep the stored bits, shifted down to bit 0: the others may contain overlays or anything (PS3.5 section 8.1.1).

    If a codec returns signed values of fewer bits than are stored, bit `precision - 1` is repeated upwards to keep
    their sign. If it returns no bits above the stored ones, it has shifted them already.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if layout.signed and precision < layout.stored:
        sign = 1 << (precision - 1)
        values = ((values.astype(np.int32) & (2 * sign - 1)) ^ sign) - sign
    shift = max(0, min(layout.high_bit + 1, precision) - layout.stored)
    return np.asarray((values >> shift) & ((1 << layout.stored) - 1)).astype(np.uint16)


def _message(failure: BaseException) -> str:
    """The last line of a codec's message; for other exceptions their type, as their messages may quote the file."""
    lines = str(failure).strip().splitlines() if type(failure) in (ValueError, RuntimeError) else []
    return lines[-1].strip().rstrip(".") if lines else type(failure).__name__
