"""From an image file (bytes) to a radiograph (8-bit luma and facts) to the model input (`uint8 [1, S, S]`)."""

from pneumoscope.imaging.dicom.dataset import DICOM_HEAD, DICOM_INDEX, is_dicom
from pneumoscope.imaging.film import (
    ACCEPTED,
    DECODER_VERSION,
    SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    encode,
    enlarge,
    fit,
    load_input,
    luma_sha256,
    read_file,
    read_for_input,
    read_luma,
    read_radiograph,
    shrink,
    to_input,
)
from pneumoscope.imaging.radiograph import DEFAULT_LIMITS, ImageFacts, Limits, Luma, Radiograph, Reason

__all__ = [
    "ACCEPTED",
    "DECODER_VERSION",
    "DEFAULT_LIMITS",
    "DICOM_HEAD",
    "DICOM_INDEX",
    "SUFFIXES",
    "UNSUPPORTED_SUFFIXES",
    "ImageFacts",
    "Limits",
    "Luma",
    "Radiograph",
    "Reason",
    "encode",
    "enlarge",
    "fit",
    "is_dicom",
    "load_input",
    "luma_sha256",
    "read_file",
    "read_for_input",
    "read_luma",
    "read_radiograph",
    "shrink",
    "to_input",
]
