"""What file names and folders say: label, patient and part of a film.

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
is the folder below `train`/`val`/`test`, or else the folder the file lies in, or the outermost one
that is not common to all, if asked for.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from pneumoscope.errors import UsageError
from pneumoscope.settings.data import FolderLevel

Part: TypeAlias = Literal["train", "test"]
PublishedSplit: TypeAlias = Literal["train", "val", "test"]

KERMANY_CLASSES = ("bacteria", "normal", "virus")
KERMANY_AGES = (1.0, 5.0)  # years; Kermany et al. 2018
KERMANY_GROUPS: dict[str, tuple[str, ...]] = {"pneumonia": ("bacteria", "virus")}

_PARTS: dict[str, PublishedSplit] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FILMS_OF_A_FOLDER = 5  # of one patient there are mostly one or two, of a class many
_ARCHIVE_FOLDERS = frozenset({"normal", "pneumonia", *KERMANY_CLASSES})
_REPEATED = r"(?:~[0-9a-f]{8})?"  # what `data prepare` adds to a name used twice
_PNEUMONIA = re.compile(rf"(person\d+)_(bacteria|virus)_\d+(?:_\d+)?{_REPEATED}", re.IGNORECASE)
_NORMAL = re.compile(rf"((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?{_REPEATED}", re.IGNORECASE)
_VERSION3 = re.compile(rf"(BACTERIA|NORMAL|VIRUS)-(\d+)-\d+{_REPEATED}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a file lies in its source: its split, if the tree has any, and its class folder."""

    split: PublishedSplit | None
    folder: str | None

    @property
    def part(self) -> Part | None:
        """What is kept of the split: test stays test, train and validation are joined."""
        return "train" if self.split == "val" else self.split


class Naming(IntEnum):
    """Who names a film's patient, the more trusted the higher."""

    NONE = 0
    VERSION2 = 1
    VERSION3 = 2
    HEADER = 3
    PATTERN = 4


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A film's label, and its patient when the name or a pattern tells."""

    label: str
    patient: str | None
    naming: Naming = Naming.NONE


def place(name: str) -> Place:
    """Read the part and the class folder from a path.

    >>> place("chest_xray/test/NORMAL/IM-0001-0001.jpeg")
    Place(split='test', folder='NORMAL')
    >>> place("films/cat/1.png")
    Place(split=None, folder='cat')
    """
    folders = PurePosixPath(name).parts[:-1]
    for index, folder in enumerate(folders):
        if (split := _PARTS.get(folder.lower())) is not None:
            return Place(split=split, folder=folders[index + 1] if index + 1 < len(folders) else None)
    return Place(split=None, folder=folders[-1] if folders else None)


def version2(stem: str) -> Identity | None:
    """Label and patient of a version 2 file name without its suffix, or None.

    >>> version2("person1000_virus_1681").patient
    'virus/person1000'
    >>> version2("IM-0011-0001-0002").patient
    'normal/IM-0011'
    """
    if match := _PNEUMONIA.fullmatch(stem):
        label = match[2].lower()
        return Identity(label=label, patient=f"{label}/{match[1].lower()}", naming=Naming.VERSION2)
    if match := _NORMAL.fullmatch(stem):
        return Identity(label="normal", patient=f"normal/{match[1].upper()}", naming=Naming.VERSION2)
    return None


def version3(stem: str) -> Identity | None:
    """Label and patient of a version 3 file name without its suffix, or None.

    >>> version3("VIRUS-3637528-0002").patient
    '3637528'
    """
    if match := _VERSION3.fullmatch(stem):
        return Identity(label=match[1].lower(), patient=match[2], naming=Naming.VERSION3)
    return None


def published(stem: str) -> Identity | None:
    """Label and patient of a file name of either published version, or None."""
    return version2(stem) or version3(stem)


def follows_archive(names: Iterable[str]) -> bool:
    """Whether a source is the pneumonia archive: most images lie in its folders under its names."""
    images = matched = 0
    for name in names:
        folder = place(name).folder
        images += 1
        matched += (folder or "").lower() in _ARCHIVE_FOLDERS and published(PurePosixPath(name).stem) is not None
    return matched * 2 > images


def class_folders(names: Sequence[str], level: FolderLevel | None) -> list[str | None]:
    """The class folder of each path of a source that is no archive; None for a path in no folder.

    Below `train`, `val` and `test` it is the next folder. Elsewhere it is the innermost one, unless
    `level` is `outermost`: then the first of those that not all paths share.

    >>> class_folders(["ill/p1/a.png", "ill/p2/b.png", "well/p3/c.png", "well/p4/d.png"], "outermost")
    ['ill', 'ill', 'well', 'well']

    Raises:
        UsageError: `level` is not given, and the innermost of folders in folders may be patients.
    """
    places = [place(name) for name in names]
    free = [at for at, found in enumerate(places) if found.split is None and found.folder is not None]
    folders = [found.folder for found in places]
    paths = [PurePosixPath(names[at]).parts[:-1] for at in free]
    first = _outermost(paths)
    if level is None:
        _refuse_two_ways(paths, first)
    outer = dict(zip(free, first, strict=True))
    return [outer.get(at, folder) for at, folder in enumerate(folders)] if level == "outermost" else folders


def _outermost(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The first folder of each path after those that all begin with."""
    deep = 0
    while paths and all(len(path) > deep + 1 and path[deep] == paths[0][deep] for path in paths):
        deep += 1
    return [path[deep] for path in paths]


def _refuse_two_ways(paths: Sequence[tuple[str, ...]], outer: Sequence[str]) -> None:
    """Raise UsageError if folders lie in folders and the innermost hold as few films as those of patients do.

    No folder is named in it: it may be called after a patient.
    """
    if all(path[-1] == one for path, one in zip(paths, outer, strict=True)):
        return
    if len(paths) < _FILMS_OF_A_FOLDER * len(set(paths)):
        inner, each = len({path[-1] for path in paths}), len(paths) / len(set(paths))
        raise UsageError(
            f"the class may be the outermost folder ({len(set(outer)):,} names) or the innermost one ({inner:,} names, "
            f"about {each:.0f} films in each); tell `data prepare` which by --class-folder outermost or innermost, "
            "and patients by --patient-pattern."
        )


def identify(
    name: str, folder: str | None, *, archive: bool, patient_pattern: re.Pattern[str] | None
) -> Identity | str:
    """Label and patient of a file by its path, or the reason why its label is unknown.

    Args:
        name: path inside the source.
        folder: its class folder.
        archive: read the published names (see `follows_archive`); otherwise the folder is the class.
        patient_pattern: searched in the path; its group `patient`, or else its first group or whole
            match, is the patient, whatever the label.
    """
    if folder is None:
        return "unknown label: not inside a class folder"
    identity = _archive_identity(folder, PurePosixPath(name).stem) if archive else Identity(label=folder, patient=None)
    if isinstance(identity, str) or patient_pattern is None:
        return identity
    if (match := patient_pattern.search(name)) is None:
        return f"unknown patient: the path does not match {patient_pattern.pattern!r}"
    number = match["patient"] if "patient" in patient_pattern.groupindex else match[1 if match.re.groups else 0]
    return replace(identity, patient=number, naming=Naming.PATTERN)


def names_patients(headers: Sequence[str | None]) -> bool:
    """Whether the patients of DICOM headers, one a film, tell films apart: a single one names nobody.

    >>> names_patients(["a", "b", None]), names_patients(["anonymous", "anonymous", None])
    (True, False)
    """
    return len(set(headers) - {None}) > 1


def _archive_identity(folder: str, stem: str) -> Identity | str:
    group, named = folder.lower(), published(stem)
    if group not in _ARCHIVE_FOLDERS:
        return f"unknown label: {folder} is not one of the archive's class folders"
    if named is None:
        if group == "pneumonia":
            return "unknown label: the name says neither bacteria nor virus"
        return Identity(label=group, patient=None)
    if group not in (named.label, "pneumonia") or (group == "pneumonia" and named.label == "normal"):
        return f"unknown label: the name says {named.label}, the folder {folder}"
    return named
