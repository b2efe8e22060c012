"""A DICOM file as a radiograph.

Order of processing: file meta information, header, what the film is said to be, pixel limit, decode to
stored values, grey transformations, orientation.
"""

import numpy as np
from PIL import Image

from pneumoscope.errors import UnsuitableError
from pneumoscope.imaging import colour, levels
from pneumoscope.imaging.dicom import dataset as source
from pneumoscope.imaging.dicom import eligibility, greys, patient, pixels
from pneumoscope.imaging.radiograph import ImageFacts, Limits, Radiograph, Reason

is_dicom = source.is_dicom


def read(data: bytes, limits: Limits) -> Radiograph:
    """Decode to an upright 8-bit luma radiograph, with what the header says.

    Raises:
        ImageError: not a frontal chest radiograph by its header, damaged, or over a limit.
    """
    with source.quiet():
        dataset, syntax = source.read_dataset(data, limits.max_bytes)
        with source.undamaged("read this DICOM's header"):
            said = eligibility.require_chest_film(dataset)
            layout = pixels.layout(dataset, syntax, limits)
        values = pixels.stored_values(dataset, layout)
        if layout.samples == 1:
            with source.undamaged("apply this DICOM's grey transformations"):
                luma, notes = greys.to_luma(values, dataset, layout)
        else:
            luma = np.asarray(Image.fromarray(values).convert("L"))
            if luma.min() == luma.max():
                raise UnsuitableError("the image is blank: every pixel of the DICOM has the same value.", code="blank")
            notes = levels.told(levels.loss(levels.histogram(luma)))
        facts = ImageFacts(
            format="DICOM",
            mode=layout.photometric,
            width=layout.columns,
            height=layout.rows,
            bits=layout.stored,
            patient=patient.name(dataset),
        )
        return Radiograph(
            luma=patient.upright(luma, dataset),
            facts=facts,
            notes=(*(Reason("note", each) for each in said), *notes),
            age_years=patient.age_years(dataset),
            coloured=colour.coloured_share(values[::8, ::8]) if values.ndim == 3 else 0.0,
        )
