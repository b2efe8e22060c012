"""Label and patient of a film by its file name and class folder.

The names of Kermany et al. 2018 (Mendeley Data rscbjbr9sj), version 2:

========================================  ========  =========================
name (any image suffix)                   label     patient
========================================  ========  =========================
`person1000_virus_1681`                   virus     `virus/person1000`
`person1_bacteria_1`                      bacteria  `bacteria/person1`
`person447_virus_921_1`                   virus     `virus/person447`
`IM-0001-0001`, `IM-0011-0001-0002`       normal    `normal/IM-0001`, …
`NORMAL2-IM-0007-0001`                    normal    `normal/NORMAL2-IM-0007`
========================================  ========  =========================

and of version 3, whose middle number is the hospital's patient number:

========================================  ========  =========================
`VIRUS-3637528-0002`                      virus     `3637528`
`BACTERIA-213622-0001`                    bacteria  `213622`
`NORMAL-28501-0001`                       normal    `28501`
========================================  ========  =========================

`personN` restarts for each class, so a version 2 patient is (class, N). In any other tree the class
is the name of a folder (`places`), or is given by label files (`labels`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import PurePosixPath

from pneumoscope.dataset.places import place

KERMANY_CLASSES = ("bacteria", "normal", "virus")
KERMANY_AGES = (1.0, 5.0)  # years, Kermany et al. 2018
KERMANY_GROUPS: dict[str, tuple[str, ...]] = {"pneumonia": ("bacteria", "virus")}

_ARCHIVE_FOLDERS = frozenset({"normal", "pneumonia", *KERMANY_CLASSES})
_REPEATED = r"(?:~[0-9a-f]{8})?"  # added by `data prepare` to a name that is used twice
_PNEUMONIA = re.compile(rf"(person\d+)_(bacteria|virus)_\d+(?:_\d+)?{_REPEATED}", re.IGNORECASE)
_NORMAL = re.compile(rf"((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?{_REPEATED}", re.IGNORECASE)
_VERSION3 = re.compile(rf"(BACTERIA|NORMAL|VIRUS)-(\d+)-\d+{_REPEATED}", re.IGNORECASE)


class Naming(IntEnum):
    """How a film's patient is named. A higher value is more trusted."""

    NONE = 0
    VERSION2 = 1
    VERSION3 = 2
    HEADER = 3
    TABLE = 4
    PATTERN = 5


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A film's label, and its patient if the name, a header, a table or a pattern states it."""

    label: str
    patient: str | None
    naming: Naming = Naming.NONE


def parse_version2(stem: str) -> Identity | None:
    """Label and patient of a version 2 file name without its suffix, or None.

    >>> parse_version2("person1000_virus_1681").patient
    'virus/person1000'
    >>> parse_version2("IM-0011-0001-0002").patient
    'normal/IM-0011'
    """
    if match := _PNEUMONIA.fullmatch(stem):
        label = match[2].lower()
        return Identity(label=label, patient=f"{label}/{match[1].lower()}", naming=Naming.VERSION2)
    if match := _NORMAL.fullmatch(stem):
        return Identity(label="normal", patient=f"normal/{match[1].upper()}", naming=Naming.VERSION2)
    return None


def parse_version3(stem: str) -> Identity | None:
    """Label and patient of a version 3 file name without its suffix, or None.

    >>> parse_version3("VIRUS-3637528-0002").patient
    '3637528'
    """
    if match := _VERSION3.fullmatch(stem):
        return Identity(label=match[1].lower(), patient=match[2], naming=Naming.VERSION3)
    return None


def parse_published(stem: str) -> Identity | None:
    """Label and patient of a file name of either published version, or None."""
    return parse_version2(stem) or parse_version3(stem)


def follows_archive(names: Iterable[str]) -> bool:
    """Whether a source is the pneumonia archive, by the folders and file names of most of its images."""
    images = matched = 0
    for name in names:
        folder = place(name).folder
        images += 1
        matched += (folder or "").lower() in _ARCHIVE_FOLDERS and parse_published(PurePosixPath(name).stem) is not None
    return matched * 2 > images


def identify(
    name: str, folder: str | None, *, archive: bool, patient_pattern: re.Pattern[str] | None
) -> Identity | str:
    """Label and patient of a file by its path, or the reason why its label is unknown.

    Args:
        name: path inside the source.
        folder: its class folder.
        archive: parse the published names (see `follows_archive`); otherwise the folder is the class.
        patient_pattern: searched for in the path; its group `patient`, else its first group, else the whole match, is
            the patient. Films of different labels with the same match are of one patient.
    """
    if folder is None:
        return "unknown label: not inside a class folder"
    identity = _archive_identity(folder, PurePosixPath(name).stem) if archive else Identity(label=folder, patient=None)
    return identity if isinstance(identity, str) else with_pattern_patient(identity, name, patient_pattern)


def with_pattern_patient(identity: Identity, name: str, pattern: re.Pattern[str] | None) -> Identity | str:
    """The identity with the patient that the pattern finds in the path, or the reason why it finds none."""
    if pattern is None:
        return identity
    if (match := pattern.search(name)) is None:
        return f"unknown patient: the path does not match {pattern.pattern!r}"
    number = match["patient"] if "patient" in pattern.groupindex else match[1 if match.re.groups else 0]
    return replace(identity, patient=number, naming=Naming.PATTERN)


def distinguishes_patients(headers: Sequence[str | None]) -> bool:
    """Whether the patients of DICOM headers, one per film, differ; a single value for all is a placeholder.

    >>> distinguishes_patients(["a", "b", None]), distinguishes_patients(["anonymous", "anonymous", None])
    (True, False)
    """
    return len(set(headers) - {None}) > 1


def _archive_identity(folder: str, stem: str) -> Identity | str:
    group, identity = folder.lower(), parse_published(stem)
    if group not in _ARCHIVE_FOLDERS:
        return f"unknown label: {folder} is not one of the archive's class folders"
    if identity is None:
        if group == "pneumonia":
            return "unknown label: the file name does not state bacteria or virus as the archive's names do"
        return Identity(label=group, patient=None)
    if group not in (identity.label, "pneumonia") or (group == "pneumonia" and identity.label == "normal"):
        return f"unknown label: the file name states {identity.label}, the folder {folder}"
    return identity
