"""The patient in a DICOM's header: a pseudonym, the age, and the orientation in the image."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pneumoscope.imaging.dicom.dataset import decode_errors, text
from pneumoscope.imaging.radiograph import Luma, orient

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_OLDEST = 150.0
# EXIF orientation by the first letters of Patient Orientation: the rows' direction, then the columns'.
_ORIENTATIONS = {"LF": 1, "RF": 2, "RH": 3, "LH": 4, "FL": 5, "FR": 6, "HR": 7, "HL": 8}


def pseudonym(dataset: "Dataset") -> str | None:
    """A pseudonym made from the Patient ID (0010,0020), regardless of the issuer; None if there is no Patient ID.

    It is the beginning of an unkeyed SHA-256: anyone who guesses a Patient ID can check the guess.
    """
    if not (identifier := text(dataset, "PatientID")):
        return None
    return f"dicom/{hashlib.sha256(identifier.encode('utf-8', 'backslashreplace')).hexdigest()[:16]}"


def age_years(dataset: "Dataset") -> float | None:
    """The age in years by Patient Age (0010,1010), else from Birth Date to Study or Acquisition Date, else None.

    An Age String is three digits and D, W, M or Y (PS3.5 section 6.2); one or two digits are accepted as well.
    """
    if stated := re.fullmatch(r"(\d{1,3})\s*([DWMY])", text(dataset, "PatientAge"), re.ASCII):
        return _plausible(int(stated[1]) * _DAYS[stated[2]] / _DAYS["Y"])
    born = _date(dataset, "PatientBirthDate")
    taken = _date(dataset, "StudyDate") or _date(dataset, "AcquisitionDate")
    return _plausible(_years(born, taken)) if born and taken else None


def upright(luma: Luma, dataset: "Dataset") -> Luma:
    r"""Turn and flip to the standard display L\F by Patient Orientation (0020,0020), PS3.3 section C.7.6.1.1.1.

    Its two values state towards which side of the patient the rows run (to the right) and the columns run (down).
    With other or missing values the image stays as it is.
    """
    return orient(luma, _ORIENTATIONS.get("".join(directions(dataset)), 1))


def directions(dataset: "Dataset") -> tuple[str, str]:
    """The main directions of the rows and the columns: the first letters of Patient Orientation's two values."""
    try:
        values = dataset.get("PatientOrientation")
        if values is None or isinstance(values, str) or len(values) != 2:
            return "", ""
        return str(values[0]).strip()[:1].upper(), str(values[1]).strip()[:1].upper()
    except decode_errors():
        return "", ""


def _years(born: datetime, day: datetime) -> float:
    """Number of birthdays so far, plus the days since the last one; 29 February is 1 March in common years."""
    years = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
    last = datetime(born.year + years, born.month, 1, tzinfo=UTC) + timedelta(days=born.day - 1)
    return years + max(0, (day - last).days) / _DAYS["Y"]


def _plausible(years: float) -> float | None:
    return years if 0 <= years <= _OLDEST else None


def _date(dataset: "Dataset", keyword: str) -> datetime | None:
    digits = text(dataset, keyword).replace(".", "")  # the dots of ACR-NEMA
    try:
        return datetime.strptime(digits, "%Y%m%d").replace(tzinfo=UTC) if len(digits) == 8 else None
    except ValueError:
        return None
