"""Bytes of an image file → a checked 8-bit luma radiograph → the model's input."""

from pneumoscope.imaging.dicom.dataset import DICOM_HEAD, DICOM_INDEX, is_dicom
from pneumoscope.imaging.film import (
    ACCEPTED,
    DECODER_VERSION,
    SUFFIXES,
    UNREAD_SUFFIXES,
    encode,
    enlarge,
    fit,
    load_input,
    luma_sha256,
    read_file,
    read_for,
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
    "UNREAD_SUFFIXES",
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
    "read_for",
    "read_luma",
    "read_radiograph",
    "shrink",
    "to_input",
]
