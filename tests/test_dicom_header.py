"""What a DICOM's header decides: modality, view, body part, orientation, age and notes."""

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import dicoms
from dicoms import EXPLICIT, dicom
from pneumoscope.errors import ImageError
from pneumoscope.imaging import Reason, read_luma, read_radiograph
from samples import encode, ramp

GREY = ramp()
DEEP = GREY.astype(np.uint16) * 16 + 5


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (["L", "F"], GREY),
        (["R", "F"], GREY[:, ::-1]),
        (["L", "H"], GREY[::-1]),
        (["R", "H"], GREY[::-1, ::-1]),
        (["F", "L"], GREY.T),
        (["H", "L"], GREY.T[::-1]),
        (["F", "R"], GREY.T[:, ::-1]),
        (["H", "R"], GREY.T[::-1, ::-1]),
        (["LA", "FP"], GREY),
        (["L", "P"], GREY),
        (["L", "R"], GREY),
        ("L", GREY),
        (None, GREY),
    ],
)
def test_turned_to_the_standard_display(orientation: Any, turned: NDArray[np.uint8]) -> None:
    """Pixels are at the place that PS3.3 section C.7.6.1.1.1 defines, however they were stored."""
    np.testing.assert_array_equal(read_luma(dicom(GREY, PatientOrientation=orientation)), turned)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"Modality": "CT"}, r"CT \(computed tomography\)"),
        ({"Modality": "MR"}, r"MR \(magnetic resonance\)"),
        ({"Modality": "PX"}, r"PX \(panoramic"),
        ({"Modality": "WINTERGREEN", "BodyPartExamined": None}, "modality is not a standard term"),
        ({"Modality": "DR", "BodyPartExamined": None}, "modality is DR, not a standard term"),
        ({"Modality": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "CT Image Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2"}, "Mammography"),
        ({"BodyPartExamined": "HAND"}, "body part is HAND"),
        ({"BodyPartExamined": "LEFT HAND"}, "body part is HAND"),
        ({"BodyPartExamined": "KNEES"}, "body part is KNEES"),
        ({"BodyPartExamined": "LUMBAR SPINE"}, "body part is SPINE"),
        ({"BodyPartExamined": "TEETH"}, "body part is TEETH"),
        ({"BodyPartExamined": "WHOLE BODY"}, "body part is WHOLEBODY"),
        ({"ViewPosition": "LL"}, "view is left lateral"),
        ({"ViewPosition": "LLD"}, "left lateral decubitus"),
        ({"ViewPosition": "RAO"}, "right anterior oblique"),
        ({"ViewPosition": "LAT CHEST"}, "view is lateral"),
        ({"ViewPosition": "AP_LLD"}, "left lateral decubitus"),
        ({"ViewPosition": "XTABLE_LATERAL"}, "cross-table lateral"),
        ({"ViewPosition": "SWIMMERS"}, "swimmer"),
        ({"ViewPosition": "LAT."}, "view is lateral"),
        ({"ViewPosition": "PA/LAT"}, "view is lateral"),
        ({"ViewPosition": "LLATERAL"}, "view is lateral"),
        ({"ViewPosition": "RTLAT"}, "view is lateral"),
        ({"ViewPosition": "LAT/PA"}, "view is lateral"),
        ({"ViewPosition": "PROFILE"}, "view is profile"),
        ({"ViewPosition": "Lateral(L)"}, "view is lateral"),
        ({"ViewPosition": "LLDECUB"}, "view is decubitus"),
        ({"ViewPosition": "SEITLICH"}, "view is profile"),
        ({"ViewPosition": "CHEST", "PatientOrientation": ["A", "F"]}, "between front and back"),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "between front and back"),
        ({"ViewPosition": "", "PatientOrientation": ["P", "F"]}, "between front and back"),
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette"),
        ({"PhotometricInterpretation": "HSV"}, "do not fit"),
        ({"SamplesPerPixel": 2}, "do not fit"),
        ({"Rows": None}, "DICOM's Rows is missing or not a number"),
        ({"Rows": 0}, "at least 16"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000×60000"),
        ({"BitsStored": 20}, "20 bits up to bit 19"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits; accepted"),
        ({"Rows": 41}, "cannot decode"),
    ],
)
def test_refused_with_a_reason(attributes: dict[str, Any], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the writer, about letters that a code string cannot have
        data = dicom(GREY, **attributes)
    with pytest.raises(ImageError, match=message) as refusal:
        read_radiograph(data)
    for secret in (dicoms.NAME, dicoms.NUMBER, dicoms.BORN, "WINTERGREEN"):
        assert secret not in str(refusal.value)


def test_refused_by_its_view_code_whatever_its_meaning() -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "R-10232", "SRT", "view of the thorax"
    for position in (None, "CHEST"):
        with pytest.raises(ImageError, match="view is right lateral"):
            read_luma(dicom(GREY, ViewPosition=position, ViewCodeSequence=Sequence([item])))
    read_luma(dicom(GREY, ViewPosition="PA", ViewCodeSequence=Sequence([item])))


def test_frontal_views_are_read() -> None:
    for position in (
        "PA",
        "AP",
        "AP ERECT",
        "CHEST PA",
        "FLAT",
        "BILATERAL",
        "PA INHALATION",
        "AP VENTILATED",
        "AP AXIAL",
    ):
        read_luma(dicom(GREY, ViewPosition=position))
    for part in ("C_ARM CHEST", "POUMON FACE", "TORAX BACK", "LUNG", "CHEST PORTABLE"):
        read_luma(dicom(GREY, BodyPartExamined=part))


def test_refused_by_the_meaning_of_its_view_code() -> None:
    code = Dataset()
    code.CodeMeaning = "Left lateral decubitus"
    with pytest.raises(ImageError, match="view is lateral"):
        read_luma(dicom(GREY, ViewPosition=None, ViewCodeSequence=Sequence([code])))
    code.CodeMeaning = "postero-anterior"
    read_luma(dicom(GREY, ViewPosition=None, ViewCodeSequence=Sequence([code])))


@pytest.mark.parametrize(
    ("attributes", "notes"),
    [
        ({}, ()),
        ({"Modality": None}, ("the DICOM does not state its modality; it is taken for a radiograph.",)),
        ({"Modality": "OT"}, ("the DICOM states only OT as its modality; it is taken for a radiograph.",)),
        (
            {"BodyPartExamined": dicoms.NAME[:16].upper()},
            ("the DICOM's body part is not a standard term; it is taken for the chest.",),
        ),
        ({"BodyPartExamined": None, "ViewPosition": None}, ()),
        (
            {"PresentationIntentType": "FOR PROCESSING"},
            ("the DICOM contains the detector's values (FOR PROCESSING), not an image for viewing.",),
        ),
    ],
)
def test_notes(attributes: dict[str, Any], notes: tuple[str, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the writer, about letters that a code string cannot have
        data = dicom(GREY, **attributes)
    assert read_radiograph(data).notes == tuple(Reason("note", note) for note in notes)


@pytest.mark.parametrize(
    ("attributes", "years"),
    [
        ({"PatientAge": "005Y"}, 5.0),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "026W"}, 26 * 7 / 365.25),
        ({"PatientAge": "010D"}, 10 / 365.25),
        ({"PatientAge": "45Y"}, 45.0),
        ({"PatientAge": "5 Y"}, 5.0),
        ({"StudyDate": "20200311"}, 2.0),
        ({"StudyDate": "20200310"}, 1 + 365 / 365.25),
        ({"StudyDate": "20200229", "PatientBirthDate": "20160229"}, 4.0),
        ({"StudyDate": "20190228", "PatientBirthDate": "20160229"}, 2 + 364 / 365.25),
        ({"AcquisitionDate": "20180312"}, 1 / 365.25),
        ({"StudyDate": "20100101"}, None),
        ({"PatientAge": "5 years", "StudyDate": "20200311"}, 2.0),
        ({"PatientAge": "999Y"}, None),
        ({"StudyDate": "20209999"}, None),
        ({}, None),
    ],
)
def test_age(attributes: dict[str, Any], years: float | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the writer, about malformed values
        data = dicom(GREY, **attributes)
    assert read_radiograph(data).age_years == (pytest.approx(years) if years is not None else None)


def test_facts_of_the_header() -> None:
    facts = read_radiograph(dicom(DEEP, BitsStored=12)).facts
    assert facts.format == "DICOM"
    assert facts.mode == "MONOCHROME2"
    assert facts.width == 60
    assert facts.height == 40
    assert facts.bits == 12
    assert facts.orientation == 1
    assert not facts.exif
    assert not facts.icc
    assert not facts.progressive
    assert facts.quantiser is None


def test_other_formats_have_no_notes_and_no_age() -> None:
    film = read_radiograph(encode(Image.fromarray(GREY)))
    assert film.notes == ()
    assert film.age_years is None


def test_an_unknown_modality_of_a_chest_film_is_read_with_a_note() -> None:
    for term in ("DR", "XRAY", "RADIOGRAPHIE"):
        (note,) = read_radiograph(dicom(GREY, Modality=term, BodyPartExamined="CHEST")).notes
        assert "modality is not a standard term" in note.text
    for attributes in ({"Modality": "DR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, {"Modality": "CT"}):
        with pytest.raises(ImageError, match="modality is"):
            read_luma(dicom(GREY, EXPLICIT, frame=None, BodyPartExamined="CHEST", **attributes))


@pytest.mark.parametrize(
    ("attributes", "outcome"),
    [
        ({"SeriesDescription": "Thorax lat"}, "refused"),
        ({"SeriesDescription": "THORAX SEITLICH"}, "refused"),
        ({"ProtocolName": "Tórax LATERAL izq."}, "refused"),
        ({"StudyDescription": "XR CHEST LATERAL"}, "noted"),
        ({"StudyDescription": "XR CHEST PA AND LAT"}, "noted"),
        ({"SeriesDescription": "Chest PA/LAT"}, "noted"),
        ({"SeriesDescription": "Thorax PA", "StudyDescription": "Thorax in 2 Ebenen"}, "read"),
        ({"SeriesDescription": "THORAX BILATERAL INHALATION"}, "read"),
        ({"SeriesDescription": "Thorax lat", "ViewPosition": "PA"}, "read"),
    ],
)
def test_a_lateral_view_that_only_a_description_states(attributes: dict[str, str], outcome: str) -> None:
    data = dicom(GREY, EXPLICIT, frame=None, **{"ViewPosition": None, **attributes})
    if outcome == "refused":
        with pytest.raises(ImageError, match=r"names a \w+ view") as refusal:
            read_luma(data)
        assert refusal.value.code == "view"
        return
    notes = [note.text for note in read_radiograph(data).notes]
    assert any("names a lateral view" in note for note in notes) is (outcome == "noted")
