"""Which files of all sources are films, and what their names, their folders or label files say of them."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from pneumoscope.archive import Listing, Member
from pneumoscope.dataset.grammar import Identity, Naming, by_pattern, follows_archive, identify
from pneumoscope.dataset.labels import NO_ROW, Labelling, TableFilm
from pneumoscope.dataset.manifest import MANIFEST_FILE, STRESS, RefusedFile
from pneumoscope.dataset.matching import match_files
from pneumoscope.dataset.places import FolderRules, Place, find_places, place, refuse_unclear
from pneumoscope.dataset.spelling import merged_spellings
from pneumoscope.errors import ArchiveError, UsageError
from pneumoscope.imaging import ACCEPTED, DICOM_HEAD, DICOM_INDEX, SUFFIXES, UNREAD_SUFFIXES, is_dicom
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
    listings = _without_excluded(listings, config.exclude)
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
    if archive and rules.ask:
        unsaid = [name for name, where in zip(names, places, strict=True) if where.split is None]
        refuse_unclear([name.split("/")[:-1] for name in unsaid], rules.splits)
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


def _without_excluded(listings: Sequence[Listing], patterns: Sequence[str]) -> list[Listing]:
    """The listings without the files that a pattern leaves out.

    Raises:
        UsageError: a pattern leaves nothing out.
    """
    idle = set(patterns)
    kept = []
    for listing in listings:
        members = [each for each in listing.members if not _excluding(each.name, patterns, idle)]
        problems = [each for each in listing.problems if not _excluding(each.name, patterns, idle)]
        excluded = len(listing.members) + len(listing.problems) - len(members) - len(problems)
        kept.append(replace(listing, members=members, problems=problems, excluded=excluded))
    if idle:
        raise UsageError(f"--exclude {min(idle)!r} fits no file; give a folder's name, or a pattern of a path.")
    return kept


def _excluding(name: str, patterns: Sequence[str], idle: set[str]) -> set[str]:
    """The patterns that fit a path, or one folder's or the file's own name; they are taken from the idle ones."""
    parts = (name, *name.split("/"))
    fitting = {pattern for pattern in patterns if any(fnmatchcase(part, pattern) for part in parts)}
    idle -= fitting
    return fitting


def _refuse_idle_splits(listings: Sequence[Listing], config: PrepareConfig) -> None:
    """Raise UsageError if --split-folder names a folder that is not there."""
    if config.split_folders:
        there = {part.casefold() for listing in listings for each in listing.members for part in each.name.split("/")}
        for name in config.split_folders:
            if name.casefold() not in there:
                raise UsageError(f"--split-folder {name!r}: no source has a folder of this name.")


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
