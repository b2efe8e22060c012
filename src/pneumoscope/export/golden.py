"""Golden cases of a bundle: phantoms as JPEG, PNG, TIFF and DICOM, and the engine's decisions on them."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoscope.documents import write_document
from pneumoscope.engine import GOLDEN_FILE, GOLDEN_FOLDER, Engine
from pneumoscope.engine.golden import SCHEMA_VERSION, TOLERANCES, Golden, GoldenCase, GoldenOutputs
from pneumoscope.phantom import FINDINGS, encode_jpeg, film

_UID = "1.2.826.0.1.3680043.8.498.1"  # under pydicom's root, fixed so that every export writes the same bytes


def write_golden(engine: Engine, folder: Path) -> None:
    """Write `golden/` into a bundle folder: phantoms, one damaged file, and the decisions on them."""
    golden = folder / GOLDEN_FOLDER
    golden.mkdir()
    cases = []
    for file, data in _films().items():
        (golden / file).write_bytes(data)
        prediction = engine.predict(data)
        cases.append(
            GoldenCase(
                file=file,
                needs="dicom" if file.endswith(".dcm") else None,
                status=prediction.status,
                label=prediction.label,
                probabilities=prediction.probabilities,
                outputs=GoldenOutputs.of(prediction),
            )
        )
    tolerance = TOLERANCES[engine.contract.precision]
    document = Golden(schema_version=SCHEMA_VERSION, tolerance=tolerance, cases=tuple(cases))
    write_document(document, golden / GOLDEN_FILE)


def _films() -> dict[str, bytes]:
    bacteria, normal, virus = (film(finding, patient=1, size=(420, 500)) for finding in FINDINGS)
    deep = Image.fromarray(virus.astype(np.uint16) * 16)
    return {
        "bacteria-grey.jpeg": encode_jpeg(bacteria),
        "normal-rgb.jpeg": _encode(Image.fromarray(normal).convert("RGB"), "JPEG"),
        "normal-large.jpeg": encode_jpeg(film("normal", patient=2, size=(1200, 1400)), progressive=True),
        "virus-8bit.png": _encode(Image.fromarray(virus), "PNG"),
        "virus-12in16bit.png": _encode(deep, "PNG"),
        "bacteria.tiff": _encode(Image.fromarray(bacteria), "TIFF"),
        "virus-monochrome1.dcm": _dicom(4095 - virus.astype(np.uint16) * 16),
        "cut-short.jpeg": encode_jpeg(bacteria)[:2000],
    }


def _encode(image: Image.Image, file_format: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format)
    return stream.getvalue()


def _dicom(values: NDArray[np.uint16]) -> bytes:
    """A 12-bit MONOCHROME1 radiograph, in which small values are white (DICOM PS3.3, section C.7.6.3.1.2)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = UID(_UID)
    film.Modality, film.BodyPartExamined, film.ViewPosition = "DX", "CHEST", "AP"
    film.set_pixel_data(values, "MONOCHROME1", bits_stored=12, generate_instance_uid=False)
    stream = io.BytesIO()
    film.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
