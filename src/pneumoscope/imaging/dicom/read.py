"""Decoding of a DICOM file to a radiograph.

Order of processing: file meta information, header, check of modality, body part and view, pixel limit, decoding to
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
    """Decode to an upright radiograph: 8-bit luma and the facts of the header.

    Raises:
        ImageError: by its header it is not a frontal chest radiograph; or it is blank, has hardly any greys left, is
            damaged, or is over a limit.
    """
    with source.quiet():
        dataset, syntax = source.read_dataset(data, limits.max_bytes)
        with source.translate_errors("read this DICOM's header"):
            # First, so that a film of another modality or view is refused as such, whatever its pixels.
            remarks = eligibility.require_chest_film(dataset)
            layout = pixels.layout(dataset, syntax, limits)
        values = pixels.stored_values(dataset, layout)
        if layout.samples == 1:
            with source.translate_errors("apply this DICOM's grey transformations"):
                luma, notes = greys.to_luma(values, dataset, layout)
        else:
            luma = np.asarray(Image.fromarray(values).convert("L"))
            if luma.min() == luma.max():
                raise UnsuitableError("the image is blank: every pixel of the DICOM has the same value.", code="blank")
            notes = levels.check_loss(levels.loss(levels.histogram(luma)))
        facts = ImageFacts(
            format="DICOM",
            mode=layout.photometric,
            width=layout.columns,
            height=layout.rows,
            bits=layout.stored,
            patient=patient.pseudonym(dataset),
        )
        return Radiograph(
            luma=patient.upright(luma, dataset),
            facts=facts,
            notes=(*(Reason("note", each) for each in remarks), *notes),
            age_years=patient.age_years(dataset),
            # Every 8th pixel is enough: as many as a JPEG's smallest DCT scale has.
            coloured=colour.coloured_share(values[::8, ::8]) if values.ndim == 3 else 0.0,
        )
