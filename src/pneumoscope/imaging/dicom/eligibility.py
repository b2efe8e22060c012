"""Whether a DICOM is a frontal radiograph of the chest, by its header.

A refusal names a modality, view or body part in the standard's own terms. A value that the standard does not define is
not repeated, because it may contain anything, a patient's name included; the exception is a modality of at most four
letters, such as DR.
"""

import re
import unicodedata
from typing import TYPE_CHECKING

from pneumoscope.errors import UnsuitableError
from pneumoscope.imaging.dicom.dataset import decode_errors, first, text
from pneumoscope.imaging.dicom.patient import directions

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def _table(entries: str) -> dict[str, str]:
    """The meaning of each code, from `code: meaning; code: meaning`."""
    return dict(each.split(": ") for each in entries.split("; "))


# Modality, PS3.3 section C.7.3.1.1.1.
_RADIOGRAPHS = frozenset({"CR", "DX", "RG"})
_UNSPECIFIC = frozenset({"", "OT", "SC", "HC"})
_MODALITIES = _table(
    "AU: audio; BI: biomagnetic imaging; BMD: bone densitometry; CT: computed tomography; DOC: document; "
    "DG: diaphanography; ECG: electrocardiography; ES: endoscopy; GM: general microscopy; "
    "IO: intra-oral radiography; IVUS: intravascular ultrasound; KO: key object selection; MG: mammography; "
    "MR: magnetic resonance; NM: nuclear medicine; OP: ophthalmic photography; OPT: ophthalmic tomography; "
    "PR: presentation state; PT: positron emission tomography; PX: panoramic X-ray; RF: radio fluoroscopy; "
    "RTDOSE: radiotherapy dose; RTIMAGE: radiotherapy image; RTPLAN: radiotherapy plan; "
    "RTSTRUCT: radiotherapy structure set; SEG: segmentation; SM: slide microscopy; SR: structured report; "
    "TG: thermography; US: ultrasound; XA: X-ray angiography; XC: external-camera photography"
)
# SOP Classes, PS3.4 section B.5: computed radiography (1), digital X-ray for presentation (1.1) and for processing
# (1.1.1), secondary capture (7 to 7.4).
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_FOR_PROCESSING = _STORAGE + "1.1.1"
_FILM_STORAGE = frozenset(_STORAGE + end for end in ("1", "1.1", "1.1.1"))
_RADIOGRAPH_STORAGE = _FILM_STORAGE | {_STORAGE + end for end in ("7", "7.1", "7.2", "7.3", "7.4")}
# View Position, PS3.3 sections C.8.1.2 and C.8.11.5, and other values that are in use.
_VIEWS = _table(
    "LL: left lateral; RL: right lateral; LLD: left lateral decubitus; RLD: right lateral decubitus; "
    "LLO: left lateral oblique; RLO: right lateral oblique; LAO: left anterior oblique; RAO: right anterior oblique; "
    "LPO: left posterior oblique; RPO: right posterior oblique; LAT: lateral; LLAT: left lateral; "
    "RLAT: right lateral; LATERAL: lateral; LEFT LATERAL: left lateral; RIGHT LATERAL: right lateral; "
    "LATERALDECUBITUS: lateral decubitus; ML: medio-lateral; LM: latero-medial; DECUB: decubitus; "
    "DECUBITUS: decubitus; OBL: oblique; OBLIQUE: oblique; XTABLE LATERAL: cross-table lateral; SWIMMERS: swimmer's"
)
# Variants in use, such as LATL, LLATERAL, RTLAT, LLDECUB, SEITLICH; must not match INHALATION, LATE or BEIDSEITS.
_VIEW_LIKE = re.compile(
    r"""
    (?: L | R | LT | RT | LEFT | RIGHT )? (?P<lateral> LAT ) (?: L | R | LT | RT | ERALE? | ERO.* )?
    | (?: LL | RL | L | R | LT | RT | LEFT | RIGHT )? (?: (?P<decubitus> DECUB ) | (?P<oblique> OBL ) ) .*
    | (?P<profile> SEITLICH | PROFIL ) .*
    """,
    re.VERBOSE,
)
_FRONTAL = frozenset({"PA", "AP", "FRONTAL"})
_DESCRIPTIONS = {
    "SeriesDescription": "series description",
    "ProtocolName": "protocol",
    "StudyDescription": "study description",
}
_FRONTAL_ONLY = "frontal (PA or AP) "
# View codes of PS3.16 CID 4010 that are possible for a chest but not frontal, in SNOMED CT and SNOMED-RT.
_CODED_VIEWS = _table(
    "399067008 R-102CD: lateral; 399173006 R-10236: left lateral; 399198007 R-10232: right lateral; "
    "399352003 R-10228: lateral-medial; 399260004 R-10224: medial-lateral; 399182000 R-102C1: oblique; "
    "399184004 R-10238: left oblique; 399236003 R-10234: right oblique; 399135007 R-10220: left anterior oblique; "
    "399356000 R-40985: right anterior oblique; 399006002 R-10212: left posterior oblique; "
    "399038007 R-10210: right posterior oblique; 399061009 R-10241: axial; 30730003 G-A145: sagittal; "
    "399110001 R-102C2: tangential"
)
_VIEW_CODES = {code: view for codes, view in _CODED_VIEWS.items() for code in codes.split()}
# Words in a View Code's meaning that name a view other than a frontal one.
_VIEW_WORDS = re.compile(r"\b(decubitus|oblique|lateral|swimmer|sagittal|tangential)")
# Body Part Examined, PS3.16 Annex L, and French and Spanish words in use.
_CHEST_PART = re.compile(
    r"CHEST|TH?ORAX|LUNGS?|POUMONS?|PULMON(?:ES)?|RIBS?|HEART|MEDIASTINUM|STERNUM|CHESTABDOMEN|CHESTABDPELVIS|BRONCHUS"
)
_OTHER_PART = re.compile(
    r"""
    (?: ABDOMEN | ABDOMENPELVIS | ADRENAL | ANKLE | ANUS | AORTA | ARM | AXILLA | BACK | BILEDUCT | BLADDER | BRAIN
    | BREAST | BUTTOCK | CALCANEUS | CALF | CAROTID | CEREBELLUM | CERVIX | CHEEK | CLAVICLE | COCCYX | COLON
    | CORNEA | CORONARYARTERY | CSPINE | CTSPINE | DUODENUM | EAR | ELBOW | ESOPHAGUS | EXTREMITY | EYE
    | EYELID | FACE | FEMUR | FINGER | FOOT | FOREARM | GALLBLADDER | HAND | HEAD | HEADNECK | HIP | HUMERUS
    | IAC | ILEUM | ILIUM | JAW | JEJUNUM | KIDNEY | KNEE | LARYNX | LEG | LIVER | LSPINE | LSSPINE | MANDIBLE
    | MAXILLA | MOUTH | NECK | NECKCHEST | NOSE | ORBIT | OVARY | PANCREAS | PAROTID | PATELLA | PELVIS | PENIS
    | PHARYNX | PROSTATE | RADIUS | RADIUSULNA | RECTUM | SCAPULA | SCLERA | SCROTUM | SELLA | SHOULDER
    | SIJOINT | SKULL | SPINE | SPLEEN | SSPINE | STOMACH | SUBMANDIBULAR | TEETH | TESTIS | THIGH | THUMB
    | THYMUS | THYROID | TIBIA | TIBIAFIBULA | TLSPINE | TMJ | TOE | TONGUE | TOOTH | TRACHEA | TSPINE | ULNA
    | URETER | URETHRA | UTERUS | VAGINA | VULVA | WHOLEBODY | WRIST | ZYGOMA ) S?
    """,
    re.VERBOSE,
)
# Ignored among several words: there they need not be body parts (C-ARM), and FACE is French for a frontal view.
_AMBIGUOUS = frozenset({"ARM", "BACK", "FACE", "NECK"})


def require_chest_film(dataset: "Dataset") -> list[str]:
    """Refuse a DICOM whose header shows that it is not a frontal chest radiograph.

    Returns:
        Notes on what the header leaves open, such as a missing modality.

    Raises:
        UnsuitableError: another modality, view or body part.
    """
    notes = [_modality(dataset), _body_part(dataset), _intent(dataset), _view(dataset)]
    return [note for note in notes if note]


def _modality(dataset: "Dataset") -> str | None:
    """Check Modality (0008,0060) and SOP Class (0008,0016)."""
    modality = text(dataset, "Modality")
    if modality not in _RADIOGRAPHS | _UNSPECIFIC | _MODALITIES.keys() and _is_stored_as_chest_film(dataset):
        return "the DICOM's modality is not a standard term, but it is stored as a chest radiograph and read as one."
    if modality not in _RADIOGRAPHS | _UNSPECIFIC:
        # At most four letters are repeated: longer text may identify a patient.
        term = f"{modality}, not a standard term" if re.fullmatch(r"[A-Z]{1,4}", modality) else "not a standard term"
        name = f"{modality} ({_MODALITIES[modality]})" if modality in _MODALITIES else term
        raise _refusal(f"'s modality is {name}", "modality", "CR, DX and RG ")
    _require_radiograph_storage(dataset)
    if modality in _RADIOGRAPHS:
        return None
    stated = f"states only {modality} as its modality" if modality else "does not state its modality"
    return f"the DICOM {stated}; it is taken for a radiograph."


def _require_radiograph_storage(dataset: "Dataset") -> None:
    from pydicom.uid import UID

    kind = UID(text(dataset, "SOPClassUID"))
    if kind.type and kind not in _RADIOGRAPH_STORAGE:  # a UID that the standard does not define has no type
        raise _refusal(f"'s storage class is {kind.name}", "modality")


def _is_stored_as_chest_film(dataset: "Dataset") -> bool:
    """Whether the SOP Class is that of radiographs and the body part is the chest."""
    part = re.sub(r"[\s_-]", "", text(dataset, "BodyPartExamined"))
    return text(dataset, "SOPClassUID") in _FILM_STORAGE and _CHEST_PART.fullmatch(part) is not None


def _body_part(dataset: "Dataset") -> str | None:
    """Check Body Part Examined (0018,0015)."""
    value = text(dataset, "BodyPartExamined")
    part = re.sub(r"[\s_-]", "", value)
    words = [word for word in re.split(r"[^A-Z]+", value) if word]
    if _CHEST_PART.fullmatch(part) or (any(map(_CHEST_PART.fullmatch, words)) and not _OTHER_PART.fullmatch(part)):
        return None
    unambiguous = [word for word in words if word not in _AMBIGUOUS]
    if other := next((word for word in (part, *unambiguous) if _OTHER_PART.fullmatch(word)), None):
        raise _refusal(f"'s body part is {other}", "body-part")
    return "the DICOM's body part is not a standard term; it is taken for the chest." if part else None


def _intent(dataset: "Dataset") -> str | None:
    """Check Presentation Intent Type (0008,0068), PS3.3 section C.8.11.1, or else the intent by the SOP Class."""
    intent, kind = text(dataset, "PresentationIntentType"), text(dataset, "SOPClassUID")
    if intent != "FOR PROCESSING" and (intent or kind != _FOR_PROCESSING):
        return None
    return "the DICOM contains the detector's values (FOR PROCESSING), not an image for viewing."


def _view(dataset: "Dataset") -> str | None:
    """Check View Position (0018,5101); unless it names a frontal view, also the attributes below.

    They are View Code Sequence, Patient Orientation, and the descriptions of series, protocol and study.
    """
    position = text(dataset, "ViewPosition")
    words = [word for word in re.split(r"[^A-Z]+", position) if word]
    view, frontal = _named_view(words), bool(_FRONTAL.intersection(words))
    if not frontal:
        view = view or _coded_view(dataset)
    if view:
        raise _refusal(f"'s view is {view}", "view", _FRONTAL_ONLY)
    if not frontal and directions(dataset)[0] in ("A", "P"):
        lateral = "'s rows run between front and back (Patient Orientation), so it is a lateral view"
        raise _refusal(lateral, "view", _FRONTAL_ONLY)
    if frontal:
        return None
    return _described_view(dataset) or (
        "the DICOM's view is not a standard term; it is taken for a frontal one." if words else None
    )


def _described_view(dataset: "Dataset") -> str | None:
    """Check the descriptions of series, protocol and study, for a film whose view no other attribute states.

    Those of the series and the protocol are about this film. The study's may be about others as well, so it leads to
    a note, not to a refusal.

    Raises:
        UnsuitableError: the series description or the protocol names a view that is not frontal, and no frontal one.
    """
    for keyword in _DESCRIPTIONS:
        words = [word for word in re.split(r"[^A-Z]+", _unaccented(text(dataset, keyword))) if word]
        view = next((found.lastgroup for found in map(_VIEW_LIKE.fullmatch, words) if found), None)
        if view is None:
            continue
        if not _FRONTAL.intersection(words) and keyword != "StudyDescription":
            raise UnsuitableError(
                f"the DICOM's {_DESCRIPTIONS[keyword]} names a {view} view; accepted are frontal (PA or AP) "
                "radiographs of the chest.",
                code="view",
            )
        return f"the DICOM's {_DESCRIPTIONS[keyword]} names a {view} view; check whether this film is the frontal one."
    return None


def _unaccented(words: str) -> str:
    return unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()


def _named_view(words: list[str]) -> str | None:
    """A view that is not frontal, by the whole value or by any word of it, as in `LAT CHEST`; else None."""
    if known := next((_VIEWS[name] for name in (" ".join(words), *words) if name in _VIEWS), None):
        return known
    found = next(filter(None, map(_VIEW_LIKE.fullmatch, words)), None)
    return found.lastgroup if found else None


def _coded_view(dataset: "Dataset") -> str | None:
    """A view that is not frontal, by its code or else by the code's meaning; else None."""
    item = first(dataset, "ViewCodeSequence")
    try:
        code, meaning = (str(item.get(name, "")) if item is not None else "" for name in ("CodeValue", "CodeMeaning"))
    except decode_errors():
        return None
    found = _VIEW_WORDS.search(meaning.lower())
    return _VIEW_CODES.get(code.strip().upper()) or (found[1] if found else None)


def _refusal(fact: str, code: str, kind: str = "") -> UnsuitableError:
    return UnsuitableError(f"the DICOM{fact}; accepted are {kind}radiographs of the chest.", code=code)
