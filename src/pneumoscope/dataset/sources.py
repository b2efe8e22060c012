"""Reading the sources: which files are films, of what label and patient, and are they whole."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from pneumoscope.archive import Listing, Member, Problem, open_source
from pneumoscope.dataset.grammar import (
    Naming,
    Part,
    PublishedSplit,
    class_folders,
    follows_archive,
    identify,
    names_patients,
    place,
)
from pneumoscope.dataset.likeness import perceptual_hash
from pneumoscope.dataset.manifest import MANIFEST_FILE, STRESS, Film, RefusedFile
from pneumoscope.errors import ArchiveError, ImageError
from pneumoscope.imaging import (
    ACCEPTED,
    DICOM_HEAD,
    DICOM_INDEX,
    SUFFIXES,
    UNREAD_SUFFIXES,
    Limits,
    describe,
    is_dicom,
    luma_sha256,
    read_luma,
)
from pneumoscope.parallel import available_cores, map_ordered
from pneumoscope.progress import Listener
from pneumoscope.settings.data import FolderLevel

_CHEST_FOLDER = "chest_xray"


@dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """What one source gave.

    `films` were read; `matched` of them are films of an earlier source; `added` are in the data set.
    """

    name: str
    films: int
    refused: int
    junk: int
    other_files: int
    copies: int
    matched: int
    added: int
    patients_named: bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file that says what it is; not read yet. `number` is its source's."""

    member: Member
    source: str
    number: int
    label: str
    patient: str
    naming: Naming
    split: PublishedSplit | None

    @property
    def part(self) -> Part | None:
        """See `Place.part`."""
        return "train" if self.split == "val" else self.split


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A file that was read and lies in the incoming folder; `header` is the patient by a DICOM's header."""

    candidate: Candidate
    film: Film
    incoming: Path
    header: str | None = None


@dataclass(frozen=True, kw_only=True)
class Films:
    """A source's files that say what they are, and what is said of the others."""

    candidates: list[Candidate]
    refused: list[RefusedFile]
    other_files: int


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """What all sources gave: films read, files refused, and a summary of each source.

    `lost` are the files that say what they are but cannot be read.
    """

    taken: list[Taken]
    lost: list[Candidate]
    refused: list[RefusedFile]
    summaries: list[SourceSummary]


def source_names(sources: Sequence[Path]) -> list[str]:
    """A short name of each source; a number is added to one that occurs twice."""
    names = [path.resolve().name for path in sources]
    return [f"{name}#{names[:at].count(name) + 1}" if name in names[:at] else name for at, name in enumerate(names)]


def read_sources(
    sources: Sequence[Path],
    incoming: Path,
    *,
    pattern: re.Pattern[str] | None,
    level: FolderLevel | None,
    headers: bool,
    limits: Limits,
    listener: Listener,
) -> Harvest:
    """Read and check every film of every source once, copying it into the folder `incoming`.

    Raises:
        ArchiveError: a source is neither a folder nor a readable ZIP archive.
        UsageError: see `class_folders`.
    """
    harvest = Harvest(taken=[], lost=[], refused=[], summaries=[])
    for number, (path, name) in enumerate(zip(sources, source_names(sources), strict=True)):
        folder = incoming / str(number)
        folder.mkdir(parents=True)
        with open_source(path, max_bytes=limits.max_bytes) as listing:
            films = list_films(listing, name, number=number, pattern=pattern, level=level)
            taken, lost = _take_all(films.candidates, name, folder, limits, listener)
            taken = _by_header(taken) if headers else taken
        refused = films.refused + [
            RefusedFile(source=name, name=problem.name, reason=problem.reason) for _, problem in lost
        ]
        harvest.taken.extend(taken)
        harvest.lost.extend(candidate for candidate, _ in lost)
        harvest.refused.extend(refused)
        harvest.summaries.append(
            SourceSummary(
                name=name,
                films=len(taken),
                refused=len(refused),
                junk=listing.junk,
                other_files=films.other_files,
                copies=0,
                matched=0,
                added=0,
                patients_named=all(each.candidate.naming for each in taken),
            )
        )
    return harvest


def list_films(
    listing: Listing,
    source: str,
    *,
    number: int = 0,
    pattern: re.Pattern[str] | None = None,
    level: FolderLevel | None = None,
) -> Films:
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
    refused = [RefusedFile(source=source, name=each.name, reason=each.reason) for each in listing.problems]
    refused += [RefusedFile(source=source, name=name, reason=f"accepted are {ACCEPTED}") for name in sorted(unread)]
    archive = follows_archive(member.name for member in images)
    candidates = []
    names = [member.name for member in images]
    folders = [place(name).folder for name in names] if archive else class_folders(names, level)
    for member, folder in zip(images, folders, strict=True):
        identity = identify(member.name, folder, archive=archive, patient_pattern=pattern)
        if isinstance(identity, str):
            refused.append(RefusedFile(source=source, name=member.name, reason=identity))
            continue
        candidates.append(
            Candidate(
                member=member,
                source=source,
                number=number,
                label=identity.label,
                patient=identity.patient or f"{identity.label}/{source}:{member.name}",
                naming=identity.naming,
                split=place(member.name).split,
            )
        )
    others = len(listing.members) - len(images) - len(unread)
    return Films(candidates=candidates, refused=refused, other_files=others)


def _take_all(
    candidates: Sequence[Candidate], source: str, folder: Path, limits: Limits, listener: Listener
) -> tuple[list[Taken], list[tuple[Candidate, Problem]]]:
    taken, lost = [], []
    with listener.progress(f"reading {source}", len(candidates), "images"):
        numbered = ((folder / f"{number:07d}", each) for number, each in enumerate(candidates))
        cores = available_cores()
        results = map_ordered(partial(_take, limits=limits), numbered, workers=cores, ahead=4 * cores)
        for candidate, result in zip(candidates, results, strict=True):
            if isinstance(result, Problem):
                lost.append((candidate, result))
            else:
                taken.append(result)
            listener.advance(1)
    return taken, lost


def _take(numbered: tuple[Path, Candidate], *, limits: Limits) -> Taken | Problem:
    """Read, check and copy one file."""
    incoming, candidate = numbered
    try:
        data = candidate.member.read()
        facts = describe(data, limits=limits)
        luma = read_luma(data, limits=limits)
    except (ImageError, ArchiveError) as failure:
        return Problem(name=candidate.member.name, reason=str(failure))
    except OSError as failure:
        return Problem(name=candidate.member.name, reason=f"cannot be read ({failure.strerror})")
    incoming.write_bytes(data)
    film = Film(
        path=_plain_suffix(PurePosixPath(candidate.member.name)),
        label=candidate.label,
        split="",
        patient=candidate.patient,
        source=f"{candidate.source}:{candidate.member.name}",
        file_sha256=hashlib.sha256(data).hexdigest(),
        luma_sha256=luma_sha256(luma),
        phash=perceptual_hash(luma),
        width=facts.width,
        height=facts.height,
        bytes=len(data),
        mode=facts.mode,
    )
    return Taken(candidate=candidate, film=film, incoming=incoming, header=facts.patient)


def _by_header(taken: list[Taken]) -> list[Taken]:
    """A source's films with the patients of DICOM headers where paths name none."""
    if not names_patients([each.header for each in taken]):
        return taken
    return [
        replace(
            each,
            candidate=replace(each.candidate, patient=each.header, naming=Naming.HEADER),
            film=replace(each.film, patient=each.header),
        )
        if each.header is not None and each.candidate.naming is Naming.NONE
        else each
        for each in taken
    ]


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


def _plain_suffix(name: PurePosixPath) -> str:
    """A file name that other programs take for an image, too: torchvision knows no .jfif."""
    suffix = name.suffix.lower()
    if suffix not in SUFFIXES:
        return f"{name.name}.dcm"
    return name.with_suffix(".jpeg").name if suffix in (".jfif", ".jpe") else name.name
