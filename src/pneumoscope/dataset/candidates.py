"""The image files of all sources, with label, patient and split by their names, folders or label files."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from pneumoscope.archive import Listing, Member
from pneumoscope.dataset.grammar import Identity, Naming, follows_archive, identify, with_pattern_patient
from pneumoscope.dataset.labels import NO_ROW, Labelling, TableFilm
from pneumoscope.dataset.manifest import MANIFEST_FILE, STRESS, RefusedFile
from pneumoscope.dataset.matching import match_files
from pneumoscope.dataset.places import FolderRules, Place, find_places, place, refuse_unclear
from pneumoscope.dataset.spelling import canonical_spellings
from pneumoscope.errors import ArchiveError, UsageError
from pneumoscope.imaging import ACCEPTED, DICOM_HEAD, DICOM_INDEX, SUFFIXES, UNSUPPORTED_SUFFIXES, is_dicom
from pneumoscope.settings.data import PrepareConfig

_CHEST_FOLDER = "chest_xray"  # of the published archives


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An image file with a known label, not read yet."""

    member: Member
    identity: Identity
    place: Place


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """A source's image files, and those refused, with the reason.

    The counts are of files of the operating system (`junk`), files left out by --exclude (`excluded`), and all other
    files (`other_files`): those that are not images, or not among the films (see `list_films`).
    """

    files: tuple[Candidate, ...]
    refused: tuple[RefusedFile, ...]
    junk: int
    excluded: int
    other_files: int


@dataclass(frozen=True, kw_only=True)
class FilmsFound:
    """The candidates of each source.

    `label_summary` states how label files were read (None: no label files were given). `without_file` is the number of
    images in them that no source has.
    """

    candidates: tuple[Candidates, ...]
    label_summary: str | None
    without_file: int


def find_films(
    listings: Sequence[Listing],
    sources: Sequence[str],
    *,
    pattern: re.Pattern[str] | None,
    config: PrepareConfig,
    labelling: Labelling | None,
) -> FilmsFound:
    """Find label, patient and split of all sources' image files by their names, or by label files.

    Raises:
        UsageError: a name can be read in two ways, classes differ in spelling only, or an option matches nothing.
    """
    listings = _without_excluded(listings, config.exclude)
    splits = {name.casefold(): split for name, split in config.split_folders.items()}
    rules = FolderRules(level=config.class_folder, splits=splits)
    without_file = 0
    _refuse_unused_split_folders(listings, config, labelling)
    if labelling is None:
        candidates = [
            list_films(listing, source, pattern=pattern, rules=rules)
            for listing, source in zip(listings, sources, strict=True)
        ]
    else:
        images = [_sort_members(listing.members) for listing in listings]
        matched = match_files(labelling, [[member.name for member in films] for films, _ in images])
        without_file = len(labelling.films) - sum(film is not None for films in matched for film in films)
        candidates = [
            _by_table(listing, source, list(zip(films, rows, strict=True)), unsupported, pattern=pattern, rules=rules)
            for listing, source, (films, unsupported), rows in zip(listings, sources, images, matched, strict=True)
        ]
    label_summary = None if labelling is None else labelling.label_summary
    return FilmsFound(
        candidates=_merge_classes(candidates, merge=config.merge_classes),
        label_summary=label_summary,
        without_file=without_file,
    )


def _merge_classes(candidates: Sequence[Candidates], *, merge: bool) -> tuple[Candidates, ...]:
    """The candidates with one spelling of each class; see `canonical_spellings`."""
    counts = Counter(each.identity.label for found in candidates for each in found.files)
    spelled = canonical_spellings(counts, merge=merge)
    if all(label == kept for label, kept in spelled.items()):
        return tuple(candidates)
    return tuple(
        replace(found, files=tuple(_with_label(each, spelled) for each in found.files)) for found in candidates
    )


def _with_label(candidate: Candidate, spelled: Mapping[str, str]) -> Candidate:
    identity = candidate.identity
    return replace(candidate, identity=replace(identity, label=spelled[identity.label]))


def list_films(
    listing: Listing, source: str, *, pattern: re.Pattern[str] | None = None, rules: FolderRules | None = None
) -> Candidates:
    """Find label, patient and split of a source's image files by their names.

    If there is a folder `chest_xray`, as in the published archives, only files below it count: version 3 also contains
    OCT scans of the retina, with similar names. The stress split of a prepared data set is skipped, because it
    consists of copies.

    Raises:
        UsageError: see `find_places`.
    """
    rules = rules or FolderRules()
    prepared = any(member.name == MANIFEST_FILE for member in listing.members)
    # A manifest shows that the source is a prepared data set.
    members = [member for member in listing.members if not (prepared and member.name.startswith(f"{STRESS}/"))]
    if chest := [member for member in members if _CHEST_FOLDER in PurePosixPath(member.name).parts[:-1]]:
        members = chest
    images, unsupported = _sort_members(members)
    names = [member.name for member in images]
    # File names that follow the archive's grammar state class and patient; other sources are read by their folders.
    archive = follows_archive(names)
    places = [place(name, rules.splits) for name in names] if archive else find_places(names, rules)
    if archive and rules.strict:
        without_split = [name for name, where in zip(names, places, strict=True) if where.split is None]
        refuse_unclear([name.split("/")[:-1] for name in without_split], rules.splits)
    found = [
        (member, where, identify(member.name, where.folder, archive=archive, patient_pattern=pattern))
        for member, where in zip(images, places, strict=True)
    ]
    return _candidates(listing, source, found, unsupported)


def _by_table(
    listing: Listing,
    source: str,
    films: Sequence[tuple[Member, TableFilm | None]],
    unsupported: Sequence[str],
    *,
    pattern: re.Pattern[str] | None,
    rules: FolderRules,
) -> Candidates:
    """A source's candidates by label files; the split is that of the folders if the label files state none."""
    found: list[tuple[Member, Place, Identity | str]] = []
    without_split = []
    for member, film in films:
        if film is None or film.reason is not None:
            found.append((member, Place(split=None, folder=None), NO_ROW if film is None else film.reason or ""))
            continue
        # The table is the publisher's own statement; folders are read only where it states no split.
        split = film.split or place(member.name, rules.splits).split
        if split is None:
            without_split.append(member.name.split("/")[:-1])
        naming = Naming.NONE if film.patient is None else Naming.TABLE
        identity = Identity(label=film.label, patient=film.patient, naming=naming)
        found.append((member, Place(split=split, folder=None), with_pattern_patient(identity, member.name, pattern)))
    refuse_unclear(without_split, rules.splits)
    return _candidates(listing, source, found, unsupported)


def _candidates(
    listing: Listing, source: str, found: Sequence[tuple[Member, Place, Identity | str]], unsupported: Sequence[str]
) -> Candidates:
    """Sort a source's images into candidates and refused files; `unsupported` have a format that is not read."""
    reasons = [(each.name, each.reason) for each in listing.problems]
    reasons += [(name, f"not an accepted format; accepted are {ACCEPTED}") for name in sorted(unsupported)]
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
        other_files=len(listing.members) - len(found) - len(unsupported),
    )


def _sort_members(members: Sequence[Member]) -> tuple[list[Member], list[str]]:
    """The images of a source, and the names of images in formats that are not read."""
    unsupported = {
        member.name for member in members if PurePosixPath(member.name).suffix.lower() in UNSUPPORTED_SUFFIXES
    }
    return [member for member in members if member.name not in unsupported and _is_image(member)], sorted(unsupported)


def _without_excluded(listings: Sequence[Listing], patterns: Sequence[str]) -> list[Listing]:
    """The listings without the files that match a pattern of --exclude.

    Raises:
        UsageError: a pattern matches no file.
    """
    unused = set(patterns)
    kept = []
    for listing in listings:
        members = [each for each in listing.members if not _excluding(each.name, patterns, unused)]
        problems = [each for each in listing.problems if not _excluding(each.name, patterns, unused)]
        # Problems are excluded as well: an unreadable file that the user leaves out should not fail the command.
        excluded = len(listing.members) + len(listing.problems) - len(members) - len(problems)
        kept.append(replace(listing, members=members, problems=problems, excluded=excluded))
    if unused:
        raise UsageError(f"--exclude {min(unused)!r} matches no file; give a folder's name, or a pattern of a path.")
    return kept


def _excluding(name: str, patterns: Sequence[str], unused: set[str]) -> set[str]:
    """The patterns that match a path, or the name of a folder or file in it; they are removed from `unused`."""
    parts = (name, *name.split("/"))
    # `fnmatch` would follow the operating system's rules about case.
    matching = {pattern for pattern in patterns if any(fnmatchcase(part, pattern) for part in parts)}
    unused -= matching
    return matching


def _refuse_unused_split_folders(
    listings: Sequence[Listing], config: PrepareConfig, labelling: Labelling | None
) -> None:
    """Raise UsageError if neither a source nor a label file has a folder that --split-folder names."""
    if not config.split_folders:
        return
    there = {part.casefold() for listing in listings for each in listing.members for part in each.name.split("/")}
    in_tables = "" if labelling is None else ", and no label file names it as a split or a folder"
    for name in config.split_folders:
        if name.casefold() not in there | (set() if labelling is None else labelling.split_names):
            raise UsageError(f"--split-folder {name!r}: no source has a folder of this name{in_tables}.")


def _is_image(member: Member) -> bool:
    """Whether a file is an image by its suffix, or else is a DICOM: a hospital's files often have no suffix."""
    if PurePosixPath(member.name).suffix.lower() in SUFFIXES:
        return True
    if PurePosixPath(member.name).name.upper() == DICOM_INDEX:
        return False
    try:
        return is_dicom(member.head(DICOM_HEAD))
    except ArchiveError:
        return False
