"""Synthetic inputs of every kind, made by the tests themselves."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoscope.phantom import FINDINGS, encode_jpeg, film

REPOSITORY = Path(__file__).parent.parent
REAL = REPOSITORY.parent / "shared" / "data"
TINY: dict[str, Any] = {"arch": "test_resnet", "size": 48, "weights": "none", "epochs": 2, "batch_size": 16, "lr": 0.01}


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Bytes of an image file."""
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    """A grey image in which every quarter differs, so that any flip or turn shows."""
    values = np.linspace(0, 200, height)[:, None] + np.linspace(0, 55, width)[None, :]
    return np.asarray(np.rint(values), dtype=np.uint8)


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    """A ZIP archive with members of any name."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def small_films(patients: int = 6) -> dict[str, bytes]:
    """Version 2 names and JPEG bytes of small phantoms, two films a patient, train and test parts."""
    members = {}
    for patient in range(1, patients + 1):
        part = "test" if patient % 3 == 0 else "train"
        for shot in range(2):
            for finding in FINDINGS:
                luma = film(finding, patient=patient, shot=shot, size=(64, 72))
                number = 2 * patient + shot
                name = (
                    f"NORMAL/IM-{patient:04d}-{shot:04d}.jpeg"
                    if finding == "normal"
                    else f"PNEUMONIA/person{patient}_{finding}_{number}.jpeg"
                )
                members[f"chest_xray/{part}/{name}"] = encode_jpeg(luma)
    return members
