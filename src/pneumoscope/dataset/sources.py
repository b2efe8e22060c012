"""Reading the sources: which files are films, of what label and patient, and are they whole."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from pneumoscope.archive import Listing, Member, open_source
from pneumoscope.dataset.content import Content, content_of, open_film
from pneumoscope.dataset.grammar import (
    Identity,
    Naming,
    Part,
    Place,
    class_folders,
    follows_archive,
    identify,
    names_patients,
    place,
)
from pneumoscope.dataset.manifest import MANIFEST_FILE, STRESS, RefusedFile
from pneumoscope.errors import ArchiveError
from pneumoscope.imaging import ACCEPTED, DICOM_HEAD, DICOM_INDEX, SUFFIXES, UNREAD_SUFFIXES, Limits, is_dicom
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import Listener
from pneumoscope.settings.data import FolderLevel

_CHEST_FOLDER = "chest_xray"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file that says what it is; not read yet."""

    member: Member
    identity: Identity
    place: Place


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """A source's films, by what their paths say; the files refused, with the reason; and the number of all others."""

    files: tuple[Candidate, ...]
    refused: tuple[RefusedFile, ...]
    other_files: int


@dataclass(frozen=True, kw_only=True)
class SourceFilm:
    """A film of one source, read whole.

    `number` is its source's, `member` its path in there, and `copy` its file until the data set is made.
    """

    number: int
    source: str
    member: str
    label: str
    patient: str
    naming: Naming
    part: Part | None
    content: Content
    copy: Path

    @property
    def name(self) -> str:
        """As the manifest calls it."""
        return f"{self.source}:{self.member}"

    @property
    def file_name(self) -> str:
        """A name that other programs take for an image's, too: torchvision knows no .jfif."""
        name = PurePosixPath(self.member)
        suffix = name.suffix.lower()
        if suffix not in SUFFIXES:
            return f"{name.name}.dcm"
        return name.with_suffix(".jpeg").name if suffix in (".jfif", ".jpe") else name.name


@dataclass(frozen=True, kw_only=True)
class Source:
    """What reading one source gave: `films`, without the `copies` of them that were dropped.

    `lost` are the patients of test films that cannot be read, by each way of naming them.
    """

    name: str
    films: tuple[SourceFilm, ...]
    copies: int
    lost: frozenset[tuple[Naming, str]]
    refused: tuple[RefusedFile, ...]
    junk: int
    other_files: int


@dataclass(frozen=True, kw_only=True)
class _Copied:
    """A candidate that was read; `header` is the patient by a DICOM's header."""

    candidate: Candidate
    copy: Path
    content: Content
    header: str | None


def read_sources(
    sources: Sequence[Path],
    incoming: Path,
    *,
    pattern: re.Pattern[str] | None,
    level: FolderLevel | None,
    headers: bool,
    limits: Limits,
    listener: Listener,
) -> list[Source]:
    """Read and check every film of every source once, copying it into the folder `incoming`.

    Raises:
        ArchiveError: a source is neither a folder nor a readable ZIP archive.
        UsageError: see `class_folders`.
    """
    read = []
    for number, (path, source) in enumerate(zip(sources, _source_names(sources), strict=True)):
        folder = incoming / str(number)
        folder.mkdir(parents=True)
        with open_source(path, max_bytes=limits.max_bytes) as listing:
            found = list_films(listing, source, pattern=pattern, level=level)
            jobs = [(each, folder / f"{at:07d}") for at, each in enumerate(found.files)]
            work = map_ordered(partial(_copy, limits=limits), jobs)
            results = list(listener.track(f"reading {source}", work, len(jobs)))
        copied = [each for each in results if isinstance(each, _Copied)]
        lost = [(each, result) for (each, _), result in zip(jobs, results, strict=True) if isinstance(result, str)]
        by_header = headers and names_patients([each.header for each in copied])
        films = _drop_copies(_film(each, source, number, by_header=by_header) for each in copied)
        unread = (RefusedFile(source=source, name=each.member.name, reason=reason) for each, reason in lost)
        tested = [each.identity for each, _ in lost if each.place.part == "test"]
        read.append(
            Source(
                name=source,
                films=films,
                copies=len(copied) - len(films),
                lost=frozenset((each.naming, each.patient) for each in tested if each.patient),
                refused=(*found.refused, *unread),
                junk=listing.junk,
                other_files=found.other_files,
            )
        )
    return read


def list_films(
    listing: Listing, source: str, *, pattern: re.Pattern[str] | None = None, level: FolderLevel | None = None
) -> Candidates:
    """Read labels, patients and parts from the names of a source's files.

    Where there is a folder `chest_xray`, as in the published archives, films are what lies below it:
    version 3 holds photographs of the retina, too, under names alike. The stress split of a prepared
    data set is no film of its own. Both are passed over.

    Raises:
        UsageError: see `class_folders`.
    """
    prepared = any(member.name == MANIFEST_FILE for member in listing.members)
    members = [m for m in listing.members if not (prepared and m.name.startswith(f"{STRESS}/"))]
    if chest := [member for member in members if _CHEST_FOLDER in PurePosixPath(member.name).parts[:-1]]:
        members = chest
    unread = {member.name for member in members if PurePosixPath(member.name).suffix.lower() in UNREAD_SUFFIXES}
    images = [member for member in members if member.name not in unread and _is_image(member)]
    names = [member.name for member in images]
    archive = follows_archive(names)
    folders = [place(name).folder for name in names] if archive else class_folders(names, level)
    found = [
        (member, identify(member.name, folder, archive=archive, patient_pattern=pattern))
        for member, folder in zip(images, folders, strict=True)
    ]
    reasons = [(each.name, each.reason) for each in listing.problems]
    reasons += [(name, f"accepted are {ACCEPTED}") for name in sorted(unread)]
    reasons += [(member.name, identity) for member, identity in found if isinstance(identity, str)]
    return Candidates(
        files=tuple(
            Candidate(member=member, identity=identity, place=place(member.name))
            for member, identity in found
            if isinstance(identity, Identity)
        ),
        refused=tuple(RefusedFile(source=source, name=name, reason=reason) for name, reason in reasons),
        other_files=len(listing.members) - len(images) - len(unread),
    )


def _source_names(sources: Sequence[Path]) -> list[str]:
    """A short name of each source; a number is added to one that occurs twice."""
    names = [path.resolve().name for path in sources]
    return [f"{name}#{names[:at].count(name) + 1}" if name in names[:at] else name for at, name in enumerate(names)]


def _copy(job: tuple[Candidate, Path], *, limits: Limits) -> _Copied | str:
    """Read, check and copy one file, or say why that cannot be done."""
    candidate, copy = job
    opened = open_film(candidate.member, limits)
    if isinstance(opened, str):
        return opened
    data, radiograph = opened
    copy.write_bytes(data)
    content, header = content_of(data, radiograph), radiograph.facts.patient
    return _Copied(candidate=candidate, copy=copy, content=content, header=header)


def _film(copied: _Copied, source: str, number: int, *, by_header: bool) -> SourceFilm:
    """A film, with the patient of its DICOM header where its path names none."""
    member, identity = copied.candidate.member.name, copied.candidate.identity
    patient, naming = identity.patient, identity.naming
    if by_header and copied.header is not None and naming is Naming.NONE:
        patient, naming = copied.header, Naming.HEADER
    return SourceFilm(
        number=number,
        source=source,
        member=member,
        label=identity.label,
        patient=patient or f"{identity.label}/{source}:{member}",
        naming=naming,
        part=copied.candidate.place.part,
        content=copied.content,
        copy=copied.copy,
    )


def _drop_copies(films: Iterable[SourceFilm]) -> tuple[SourceFilm, ...]:
    """Keep one of the files that share name, label and bytes; one of a test part if any."""
    kept: dict[tuple[object, ...], SourceFilm] = {}
    for film in films:
        patient = film.patient if film.naming else None  # two named patients are two witnesses
        key = (film.file_name, film.label, patient, film.content.file_sha256)
        if key not in kept or (film.part == "test" and kept[key].part != "test"):
            kept[key] = film
    return tuple(kept.values())


def _is_image(member: Member) -> bool:
    """By its suffix; files from a hospital's archive often have none, and are DICOMs inside."""
    if PurePosixPath(member.name).suffix.lower() in SUFFIXES:
        return True
    if PurePosixPath(member.name).name.upper() == DICOM_INDEX:
        return False
    try:
        return is_dicom(member.head(DICOM_HEAD))
    except ArchiveError:
        return False
