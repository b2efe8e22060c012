"""A DICOM file as a radiograph.

Order of processing: file meta information, header, what the film is said to be, pixel limit, decode to
stored values, grey transformations, orientation.
"""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pneumoscope.errors import ImageError
from pneumoscope.imaging.dicom import dataset as source
from pneumoscope.imaging.dicom import gate, greys, patient, pixels
from pneumoscope.imaging.radiograph import ImageFacts, Limits, Luma, Radiograph

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

is_dicom = source.is_dicom


def read(data: bytes, limits: Limits) -> Radiograph:
    """Decode to an upright 8-bit luma radiograph, with what the header says.

    Raises:
        ImageError: not a frontal chest radiograph by its header, damaged, or over a limit.
    """
    with source.quiet():
        dataset, layout, notes = _open(data, limits)
        luma, more = _luma(dataset, layout)
        return Radiograph(
            luma=patient.upright(luma, dataset),
            facts=_facts(dataset, layout),
            notes=(*notes, *more),
            age_years=patient.age_years(dataset),
        )


def _open(data: bytes, limits: Limits) -> tuple["Dataset", pixels.Layout, list[str]]:
    dataset, syntax = source.read_dataset(data, limits.max_bytes)
    try:
        notes = gate.require_chest_film(dataset)
        return dataset, pixels.layout(dataset, syntax, limits), notes
    except source.damage() as failure:
        raise ImageError(
            f"cannot read this DICOM's header ({type(failure).__name__}); the file is damaged."
        ) from failure


def _facts(dataset: "Dataset", layout: pixels.Layout) -> ImageFacts:
    return ImageFacts(
        format="DICOM",
        mode=layout.photometric,
        width=layout.columns,
        height=layout.rows,
        bits=layout.stored,
        patient=patient.name(dataset),
    )


def _luma(dataset: "Dataset", layout: pixels.Layout) -> tuple[Luma, list[str]]:
    values = pixels.stored_values(dataset, layout)
    if layout.samples == 1:
        try:
            return greys.to_luma(values, dataset, layout)
        except source.damage() as failure:
            raise ImageError(
                f"cannot apply this DICOM's grey transformations ({type(failure).__name__}); the file is damaged."
            ) from failure
    return np.asarray(Image.fromarray(values).convert("L")), []
