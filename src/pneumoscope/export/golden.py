"""Golden cases of a bundle: phantoms in every kind of encoding, and what the engine says of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pneumoscope.engine import GOLDEN_FILE, GOLDEN_FOLDER, Engine
from pneumoscope.engine.golden import TOLERANCES, golden_case
from pneumoscope.files import write_json
from pneumoscope.phantom import FINDINGS, encode_jpeg, film


def write_golden(engine: Engine, folder: Path) -> None:
    """Write `golden/` into a bundle folder: films, one damaged file, and what is said of them."""
    golden = folder / GOLDEN_FOLDER
    golden.mkdir()
    cases = []
    for file, data in _films().items():
        (golden / file).write_bytes(data)
        needs = "dicom" if file.endswith(".dcm") else None
        cases.append(golden_case(file, engine.predict(data, name=file), needs=needs))
    tolerance = TOLERANCES[engine.contract.precision]
    write_json(golden / GOLDEN_FILE, {"schema_version": 2, "tolerance": tolerance, "cases": cases})


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
        "cut-short.jpeg": encode_jpeg(bacteria)[:2000],
    }


def _encode(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()
