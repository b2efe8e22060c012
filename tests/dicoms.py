"""DICOM films in every transfer syntax that the tests can write, and damage to them."""

import random
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import gdcm
import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filewriter import dcmwrite
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import UID

from samples import encode

DX = "1.2.840.10008.5.1.4.1.1.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
JPEG, JPEG_12, LOSSLESS, LOSSLESS_1 = (f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70))
JPEG_LS, JPEG_LS_NEAR, JPEG_2000, JPEG_2000_LOSSY = (f"1.2.840.10008.1.2.4.{end}" for end in (80, 81, 90, 91))
NATIVE = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
EXACT = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN, RLE, LOSSLESS, LOSSLESS_1, JPEG_LS, JPEG_2000)
#: The patient's name, number and birth date in every file written here; messages must not contain them.
NAME, NUMBER, BORN = "Wintergreen^Ada", "PID-4711", "20180311"


def header(**attributes: Any) -> Dataset:
    """The attributes of a chest film without pixels; None omits an attribute."""
    dataset = Dataset()
    common = {
        "SOPClassUID": DX,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientName": NAME,
        "PatientID": NUMBER,
        "PatientBirthDate": BORN,
        "PhotometricInterpretation": "MONOCHROME2",
    }
    for keyword, value in {**common, **attributes}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def dicom(values: NDArray[Any], syntax: str = EXPLICIT, *, frame: bytes | None = None, **attributes: Any) -> bytes:
    """A film of stored `values` (`[H, W]` or `[H, W, 3]`), or of an encoded `frame`, as a DICOM file."""
    bits = values.dtype.itemsize * 8
    pixels = {
        "SamplesPerPixel": 1 if values.ndim == 2 else 3,
        "PlanarConfiguration": None if values.ndim == 2 else 0,
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(values.dtype.kind == "i"),
    }
    dataset = header(**{**pixels, **attributes})
    if "HighBit" not in dataset:
        dataset.HighBit = dataset.BitsStored - 1
    if frame is None and syntax not in NATIVE:
        frame = encoded(values, syntax, dataset.BitsStored)
    if frame is not None:
        dataset["PixelData"] = _pixel_data(encapsulate([frame]), undefined=True)
    else:
        raw = values.astype(values.dtype.newbyteorder(">" if syntax == BIG_ENDIAN else "<")).tobytes()
        if syntax == BIG_ENDIAN and bits == 8:  # words of two pixels each, PS3.5 section 8.1.1 and annex D
            raw = np.frombuffer(raw, np.uint16).byteswap().tobytes()
        dataset["PixelData"] = _pixel_data(raw, undefined=False)
    return written(dataset, syntax)


def _pixel_data(value: bytes, *, undefined: bool) -> DataElement:
    element = DataElement("PixelData", "OB" if undefined else "OW", value)
    element.is_undefined_length = undefined
    return element


def written(dataset: Dataset, syntax: str = EXPLICIT) -> bytes:
    """A data set as the bytes of a file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = UID(dataset.get("SOPClassUID", DX))
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    dataset.file_meta = meta
    stream = BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def encoded(values: NDArray[Any], syntax: str, bits: int) -> bytes:
    """One frame, by the codec of a transfer syntax."""
    if syntax == RLE:
        return _rle(values)
    if syntax == JPEG:
        return encode(Image.fromarray(values), "JPEG", quality=90)
    if syntax in (JPEG_LS, JPEG_LS_NEAR):
        unsigned = values.view(f"u{values.dtype.itemsize}")
        return bytes(jpeg_ls.encode_array(unsigned, lossy_error=0 if syntax == JPEG_LS else 2))
    if syntax in (JPEG_2000, JPEG_2000_LOSSY):
        ratios = None if syntax == JPEG_2000 else [4.0]
        colours = 0 if values.ndim == 2 else 1
        return bytes(
            encode_array(values, bits_stored=bits, photometric_interpretation=colours, compression_ratios=ratios)
        )
    if syntax == JPEG_12:
        return _jpeg_of_12_bits(values)
    if bits == 12:
        return _lossless_of_12_bits(values, syntax)
    return _by_gdcm(values, syntax)


def _lossless_of_12_bits(values: NDArray[Any], syntax: str) -> bytes:
    """A 16-bit frame of GDCM that states 12 bits, which shifts the first prediction (T.81 section H.1.2.1)."""
    moved = (values + (1 << 15) - (1 << 11)).astype(np.uint16)
    return _by_gdcm(moved, syntax).replace(b"\xff\xc3\0\x0b\x10", b"\xff\xc3\0\x0b\x0c")


def _jpeg_of_12_bits(values: NDArray[Any]) -> bytes:
    """An 8-bit JPEG of the upper eight bits, quantised in steps of 1, whose header states 12 bits and steps of 16.

    By ITU-T T.81 section A.3 it decodes to the upper eight bits times 16, give or take the rounding.
    """
    jpeg = encode(Image.fromarray((values >> 4).astype(np.uint8)), "JPEG", qtables=[[1] * 64])
    return jpeg.replace(b"\0" + b"\1" * 64, b"\0" + b"\x10" * 64).replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc1\0\x0b\x0c")


def _rle(values: NDArray[Any]) -> bytes:
    return RLELosslessEncoder.encode(
        values.tobytes(),
        encoding_plugin="pydicom",
        rows=values.shape[0],
        columns=values.shape[1],
        samples_per_pixel=1 if values.ndim == 2 else 3,
        bits_allocated=values.dtype.itemsize * 8,
        bits_stored=values.dtype.itemsize * 8,
        pixel_representation=int(values.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2" if values.ndim == 2 else "RGB",
        planar_configuration=0,
        number_of_frames=1,
    )


def _by_gdcm(values: NDArray[Any], syntax: str) -> bytes:
    """Encode by GDCM, through files: its objects do not keep each other alive in Python."""
    plain = dicom(values, PhotometricInterpretation="MONOCHROME2" if values.ndim == 2 else "RGB")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.dcm"), Path(folder, "target.dcm")
        source.write_bytes(plain)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(source))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(target))
        assert writer.Write()
        return get_frame(dcmread(target).PixelData, 0, number_of_frames=1)


def one_of_each(size: int = 48) -> dict[str, bytes]:
    """A small film in every transfer syntax, deep where the syntax allows it."""
    y, x = np.mgrid[:size, : size - 8]
    waves = (np.sin(y / 7) + np.cos(x / 5) + 2) / 4
    deep = (waves * 3900 + np.random.default_rng(0).integers(0, 60, waves.shape)).astype(np.uint16)
    shallow = (deep >> 4).astype(np.uint8)
    colour = np.stack([shallow, shallow[::-1], shallow[:, ::-1]], axis=2)
    window: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 3000}
    films = {
        syntax: dicom(deep, syntax, BitsStored=12, **window)
        for syntax in (*EXACT, JPEG_12, JPEG_LS_NEAR, JPEG_2000_LOSSY)
    }
    films[JPEG] = dicom(shallow, JPEG)
    for syntax in (EXPLICIT, RLE, LOSSLESS_1, JPEG_LS, JPEG_2000):
        films[f"{syntax} 8 bit"] = dicom(shallow, syntax)
        films[f"{syntax} colour"] = dicom(colour, syntax, PhotometricInterpretation="RGB")
    return films


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with flipped bits, a truncation, an insertion, a run of noise, or a changed byte in a header."""
    spoilt, kind = bytearray(data), chance.randrange(6)
    at = chance.randrange(len(spoilt))
    if chance.random() < 0.5:  # half of all damage goes to the frame's own header, where codecs are sensitive
        frame = max(data.rfind(b"\xff\xd8\xff"), data.rfind(b"\xff\x4f\xff\x51"))
        if frame > 0:
            spoilt[chance.randrange(frame, min(frame + 120, len(spoilt)))] = chance.randrange(256)
            return bytes(spoilt)
    if kind == 0:
        for _ in range(chance.randint(1, 6)):
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del spoilt[at:]
    elif kind == 2:
        spoilt[at:at] = chance.randbytes(chance.randint(1, 16))
    elif kind == 3:
        spoilt[at : at + chance.randint(1, 40)] = chance.randbytes(chance.randint(1, 40))
    else:
        for _ in range(chance.randint(1, 3)):
            spoilt[chance.randrange(132, min(len(spoilt), 1200))] = chance.choice((0, 1, 127, 128, 255))
    return bytes(spoilt)
