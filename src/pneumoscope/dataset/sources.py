"""Reading the sources: which files are films, of what label and patient, and are they whole."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath

from pneumoscope.archive import Listing, Member, open_source
from pneumoscope.dataset.content import Content, content_of, open_film
from pneumoscope.dataset.grammar import Identity, Naming, by_pattern, follows_archive, identify, names_patients
from pneumoscope.dataset.labels import NO_ROW, Labelling, TableFilm, read_labels
from pneumoscope.dataset.manifest import MANIFEST_FILE, STRESS, RefusedFile
from pneumoscope.dataset.matching import match_files
from pneumoscope.dataset.places import FolderRules, Part, Place, find_places, place, refuse_unclear
from pneumoscope.dataset.spelling import merged_spellings
from pneumoscope.errors import ArchiveError, UsageError
from pneumoscope.imaging import ACCEPTED, DICOM_HEAD, DICOM_INDEX, SUFFIXES, UNREAD_SUFFIXES, Limits, is_dicom
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import Listener
from pneumoscope.settings.data import PrepareConfig

_CHEST_FOLDER = "chest_xray"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file that says what it is; not read yet."""

    member: Member
    identity: Identity
    place: Place


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """A source's films, by what their paths say; the files refused, with the reason; and how many others there are."""

    files: tuple[Candidate, ...]
    refused: tuple[RefusedFile, ...]
    junk: int
    excluded: int
    other_files: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """What all sources' names and the label files say.

    `described` is how label files were read, and `without_file` how many of their images no source has.
    """

    candidates: tuple[Candidates, ...]
    described: str | None
    without_file: int


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

    `lost` are the patients of test films that cannot be read, by each way of naming them. `excluded` counts files
    left out by --exclude.
    """

    name: str
    films: tuple[SourceFilm, ...]
    copies: int
    lost: frozenset[tuple[Naming, str]]
    refused: tuple[RefusedFile, ...]
    junk: int
    excluded: int
    other_files: int


@dataclass(frozen=True, kw_only=True)
class _Copied:
    """A candidate that was read; `header` is the patient by a DICOM's header."""

    candidate: Candidate
    copy: Path
    content: Content
    header: str | None


@dataclass(frozen=True, kw_only=True)
class _Unreadable:
    candidate: Candidate
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All sources, read, with what was found of label files: see `Found`."""

    sources: tuple[Source, ...]
    described: str | None
    without_file: int


def read_sources(
    sources: Sequence[Path],
    incoming: Path,
    *,
    pattern: re.Pattern[str] | None,
    config: PrepareConfig,
    limits: Limits,
    listener: Listener,
) -> Reading:
    """Read and check every film of every source once, copying it into the folder `incoming`.

    Raises:
        ArchiveError: a source is neither a folder nor a readable archive.
        UsageError: names, folders or label files leave a question open; see `find_films`.
    """
    labelling = read_labels(config)
    names = _source_names(sources)
    with ExitStack() as stack:
        listings = [
            stack.enter_context(open_source(path, max_bytes=limits.max_bytes, name_encoding=config.name_encoding))
            for path in sources
        ]
        _refuse_idle_patterns(listings, config.exclude)
        kept = [_without_excluded(listing, config.exclude) for listing in listings]
        found = find_films(kept, names, pattern=pattern, config=config, labelling=labelling)
        read = tuple(
            _read_source(
                candidates,
                source,
                incoming / str(number),
                number=number,
                headers=config.dicom_patients,
                limits=limits,
                listener=listener,
            )
            for number, (source, candidates) in enumerate(zip(names, found.candidates, strict=True))
        )
    return Reading(sources=read, described=found.described, without_file=found.without_file)


def _read_source(
    candidates: Candidates,
    source: str,
    folder: Path,
    *,
    number: int,
    headers: bool,
    limits: Limits,
    listener: Listener,
) -> Source:
    """Read every film of one source, copying it into a folder to be made."""
    folder.mkdir(parents=True)
    jobs = [(each, folder / f"{at:07d}") for at, each in enumerate(candidates.files)]
    work = map_ordered(partial(_copy, limits=limits), jobs)
    results = list(listener.track(f"reading {source}", work, len(jobs)))
    copied = [each for each in results if isinstance(each, _Copied)]
    lost = [each for each in results if isinstance(each, _Unreadable)]
    by_header = headers and names_patients([each.header for each in copied])
    films = _drop_copies(_film(each, source, number, by_header=by_header) for each in copied)
    unread = (RefusedFile(source=source, name=each.candidate.member.name, reason=each.reason) for each in lost)
    tested = [each.candidate.identity for each in lost if each.candidate.place.part == "test"]
    return Source(
        name=source,
        films=films,
        copies=len(copied) - len(films),
        lost=frozenset((each.naming, each.patient) for each in tested if each.patient),
        refused=(*candidates.refused, *unread),
        junk=candidates.junk,
        excluded=candidates.excluded,
        other_files=candidates.other_files,
    )


def find_films(
    listings: Sequence[Listing],
    sources: Sequence[str],
    *,
    pattern: re.Pattern[str] | None,
    config: PrepareConfig,
    labelling: Labelling | None,
) -> Found:
    """Read labels, patients and parts from the names of all sources' files, or from label files.

    Raises:
        UsageError: a name can be read in two ways, classes differ in spelling only, or an option fits nothing.
    """
    splits = {name.casefold(): split for name, split in config.split_folders.items()}
    rules = FolderRules(level=config.class_folder, splits=splits)
    without_file = 0
    if labelling is None:
        _refuse_idle_splits(listings, config)
        candidates = [
            list_films(listing, source, pattern=pattern, rules=rules)
            for listing, source in zip(listings, sources, strict=True)
        ]
    else:
        images = [_sort_members(listing.members) for listing in listings]
        matched = match_files(labelling, [[member.name for member in films] for films, _ in images])
        without_file = len(labelling.films) - sum(film is not None for films in matched for film in films)
        candidates = [
            _by_table(listing, source, list(zip(films, rows, strict=True)), unread, pattern=pattern, rules=rules)
            for listing, source, (films, unread), rows in zip(listings, sources, images, matched, strict=True)
        ]
    described = None if labelling is None else labelling.described
    return Found(
        candidates=_merge_classes(candidates, merge=config.merge_classes),
        described=described,
        without_file=without_file,
    )


def _merge_classes(candidates: Sequence[Candidates], *, merge: bool) -> tuple[Candidates, ...]:
    """The candidates under one spelling of each class; see `merged_spellings`."""
    counts = Counter(each.identity.label for found in candidates for each in found.files)
    spelled = merged_spellings(counts, merge=merge)
    if all(label == kept for label, kept in spelled.items()):
        return tuple(candidates)
    return tuple(replace(found, files=tuple(_spelled(each, spelled) for each in found.files)) for found in candidates)


def _spelled(candidate: Candidate, spelled: Mapping[str, str]) -> Candidate:
    identity = candidate.identity
    return replace(candidate, identity=replace(identity, label=spelled[identity.label]))


def list_films(
    listing: Listing, source: str, *, pattern: re.Pattern[str] | None = None, rules: FolderRules | None = None
) -> Candidates:
    """Read labels, patients and parts from the names of a source's files.

    Where there is a folder `chest_xray`, as in the published archives, films are what lies below it:
    version 3 holds photographs of the retina, too, under names alike. The stress split of a prepared
    data set is no film of its own. Both are passed over.

    Raises:
        UsageError: see `find_places`.
    """
    rules = rules or FolderRules()
    prepared = any(member.name == MANIFEST_FILE for member in listing.members)
    members = [m for m in listing.members if not (prepared and m.name.startswith(f"{STRESS}/"))]
    if chest := [member for member in members if _CHEST_FOLDER in PurePosixPath(member.name).parts[:-1]]:
        members = chest
    images, unread = _sort_members(members)
    names = [member.name for member in images]
    archive = follows_archive(names)
    places = [place(name, rules.splits) for name in names] if archive else find_places(names, rules)
    found = [
        (member, where, identify(member.name, where.folder, archive=archive, patient_pattern=pattern))
        for member, where in zip(images, places, strict=True)
    ]
    return _candidates(listing, source, found, unread)


def _by_table(
    listing: Listing,
    source: str,
    films: Sequence[tuple[Member, TableFilm | None]],
    unread: Sequence[str],
    *,
    pattern: re.Pattern[str] | None,
    rules: FolderRules,
) -> Candidates:
    """What label files say of a source's files; where they say no split, the folders do."""
    found: list[tuple[Member, Place, Identity | str]] = []
    unsaid = []
    for member, film in films:
        if film is None or film.reason is not None:
            found.append((member, Place(split=None, folder=None), NO_ROW if film is None else film.reason or ""))
            continue
        split = film.split or place(member.name, rules.splits).split
        if split is None:
            unsaid.append(member.name.split("/")[:-1])
        naming = Naming.NONE if film.patient is None else Naming.TABLE
        identity = Identity(label=film.label, patient=film.patient, naming=naming)
        found.append((member, Place(split=split, folder=None), by_pattern(identity, member.name, pattern)))
    refuse_unclear(unsaid, rules.splits)
    return _candidates(listing, source, found, unread)


def _candidates(
    listing: Listing, source: str, found: Sequence[tuple[Member, Place, Identity | str]], unread: Sequence[str]
) -> Candidates:
    """What is known of a source's images; `unread` are images of formats that are not read."""
    reasons = [(each.name, each.reason) for each in listing.problems]
    reasons += [(name, f"accepted are {ACCEPTED}") for name in sorted(unread)]
    reasons += [(member.name, identity) for member, _, identity in found if isinstance(identity, str)]
    return Candidates(
        files=tuple(
            Candidate(member=member, identity=identity, place=where)
            for member, where, identity in found
            if isinstance(identity, Identity)
        ),
        refused=tuple(RefusedFile(source=source, name=name, reason=reason) for name, reason in reasons),
        junk=listing.junk,
        excluded=listing.excluded,
        other_files=len(listing.members) - len(found) - len(unread),
    )


def _sort_members(members: Sequence[Member]) -> tuple[list[Member], list[str]]:
    """The images, and the names of those of formats that are not read."""
    unread = {member.name for member in members if PurePosixPath(member.name).suffix.lower() in UNREAD_SUFFIXES}
    return [member for member in members if member.name not in unread and _is_image(member)], sorted(unread)


def _without_excluded(listing: Listing, patterns: Sequence[str]) -> Listing:
    """The listing without the files that a pattern leaves out."""
    if not patterns:
        return listing
    members = [each for each in listing.members if not _is_excluded(each.name, patterns)]
    problems = [each for each in listing.problems if not _is_excluded(each.name, patterns)]
    excluded = len(listing.members) + len(listing.problems) - len(members) - len(problems)
    return replace(listing, members=members, problems=problems, excluded=excluded)


def _is_excluded(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern fits the path, or one folder's or the file's own name."""
    return any(fnmatchcase(each, pattern) for pattern in patterns for each in (name, *name.split("/")))


def _refuse_idle_patterns(listings: Sequence[Listing], patterns: Sequence[str]) -> None:
    """Raise UsageError if a pattern leaves nothing out."""
    if not patterns:
        return
    names = [each.name for listing in listings for each in listing.members]
    names += [each.name for listing in listings for each in listing.problems]
    for pattern in patterns:
        if not any(_is_excluded(name, [pattern]) for name in names):
            raise UsageError(f"--exclude {pattern!r} fits no file; give a folder's name, or a pattern of a path.")


def _refuse_idle_splits(listings: Sequence[Listing], config: PrepareConfig) -> None:
    """Raise UsageError if --split-folder names a folder that is not there."""
    if config.split_folders:
        there = {part.casefold() for listing in listings for each in listing.members for part in each.name.split("/")}
        for name in config.split_folders:
            if name.casefold() not in there:
                raise UsageError(f"--split-folder {name!r}: no source has a folder of this name.")


def _source_names(sources: Sequence[Path]) -> list[str]:
    """A short name of each source; a number is added to one that occurs twice."""
    names = [path.resolve().name for path in sources]
    return [f"{name}#{names[:at].count(name) + 1}" if name in names[:at] else name for at, name in enumerate(names)]


def _copy(job: tuple[Candidate, Path], *, limits: Limits) -> _Copied | _Unreadable:
    """Read, check and copy one file."""
    candidate, copy = job
    opened = open_film(candidate.member, limits)
    if isinstance(opened, str):
        return _Unreadable(candidate=candidate, reason=opened)
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
