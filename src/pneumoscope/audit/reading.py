"""Reading the subject of an audit: every image file that is there, in the manifest or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pneumoscope.archive import Listing, Member, is_junk, open_source, printable
from pneumoscope.audit.features import RULE, Measures, measure
from pneumoscope.dataset import SPLITS, Dataset, Record, grammar, load_dataset
from pneumoscope.dataset.candidates import list_films
from pneumoscope.dataset.content import Content, content_of, open_film
from pneumoscope.dataset.manifest import MANIFEST_FILE, SOURCE_SEPARATOR, STRESS, RefusedFile
from pneumoscope.dataset.places import FolderRules
from pneumoscope.imaging import SUFFIXES, ImageFacts, Limits, Luma, to_input
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import Listener

#: The split of films in a source without splits.
UNSPLIT = "all"
NO_CLASS = "(no class folder)"
#: Version 2's `personN` without the class: a rule that is often used, although it joins different children.
NAIVE = "version 2 numbers without the class"
#: The rule that names patients in a prepared data set.
BY_MANIFEST = "the manifest"
_HEADERS = "DICOM headers"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is known of a file before it is read: by the manifest, or by its name and folder.

    `patients` is the patient by each rule that names one; `file_sha256` is None if no manifest lists the file.
    `listed` is false for a file in a data set's folders that is not in its manifest.
    """

    name: str
    label: str
    split: str
    patients: dict[str, str]
    member: Member
    file_sha256: str | None = None
    listed: bool = True


@dataclass(frozen=True, kw_only=True)
class ExaminedFilm:
    """A film that has been read and measured."""

    claim: Claim
    facts: ImageFacts
    content: Content
    measures: Measures


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The subject of an audit: a prepared data set, or a published archive or folder.

    `groups` are classes that are reported together; `fingerprint` is a prepared data set's, else empty.
    """

    name: str
    groups: dict[str, tuple[str, ...]]
    claims: list[Claim]
    limits: Limits
    fingerprint: str = ""
    refused: tuple[RefusedFile, ...] = ()


@contextmanager
def open_subject(path: Path, *, name_encoding: str | None = None) -> Iterator[Subject]:
    """Open a prepared data set, or an archive or folder of class folders as it was published.

    Args:
        path: the data set, archive or folder.
        name_encoding: see `open_source`.

    Raises:
        ArchiveError, DatasetError: it is not one of these, or is damaged.
    """
    if path.is_dir() and (path / MANIFEST_FILE).exists():
        yield _prepared(load_dataset(path))
        return
    limits = Limits()
    with open_source(path, max_bytes=limits.max_bytes, name_encoding=name_encoding) as listing:
        yield _raw(path, listing, limits)


def examine(claims: list[Claim], limits: Limits, listener: Listener) -> Iterator[tuple[ExaminedFilm, Luma] | str]:
    """Read every film once, in order.

    Returns:
        Each film with its pixels, `uint8 [224, 224]`, or the reason why it cannot be read. The pixels are not kept in
        the film, so that they can be dropped.
    """
    results = map_ordered(partial(_examine, limits=limits), claims)
    return listener.track("reading films", results, len(claims))


def name_by_header(films: list[ExaminedFilm]) -> list[ExaminedFilm]:
    """Add to each film the patient that its DICOM header names, unless all headers name the same one."""
    if not grammar.distinguishes_patients([film.facts.patient for film in films]):
        return films
    return [
        replace(film, claim=replace(film.claim, patients=film.claim.patients | {_HEADERS: film.facts.patient}))
        if film.facts.patient
        else film
        for film in films
    ]


def _prepared(dataset: Dataset) -> Subject:
    archive = grammar.follows_archive(film.source for film in dataset.films)
    claims = [claim_of(dataset, film, archive=archive) for film in dataset.films]
    named = {film.path for film in dataset.films}
    for split in (*SPLITS, STRESS):
        for path in sorted((dataset.root / split).rglob("*")):
            name = path.relative_to(dataset.root).as_posix()
            if name not in named and path.suffix.lower() in SUFFIXES and path.is_file() and not is_junk(name):
                claims.append(_unlisted(path, printable(name), split, archive=archive))
    return Subject(
        name=dataset.root.resolve().name,
        fingerprint=dataset.fingerprint,
        groups=dataset.groups,
        claims=claims,
        limits=dataset.limits,
    )


def claim_of(dataset: Dataset, film: Record, *, archive: bool = False) -> Claim:
    """The claim of a record; `archive`: the names in its sources follow the published archive's grammar."""
    patients = {BY_MANIFEST: film.patient}
    for source in film.source.split(SOURCE_SEPARATOR) if archive else ():
        patients |= _by_name(source)
    path = dataset.root / film.path
    return Claim(
        name=film.path,
        label=film.label,
        split=film.split,
        patients=patients,
        file_sha256=film.file_sha256,
        member=Member.of_file(film.path, path),
    )


def _unlisted(path: Path, name: str, split: str, *, archive: bool) -> Claim:
    return Claim(
        name=name,
        label=Path(name).parts[1] if len(Path(name).parts) > 2 else NO_CLASS,
        split=split,
        patients=_by_name(name) if archive else {},
        member=Member.of_file(name, path),
        listed=False,
    )


def _raw(path: Path, listing: Listing, limits: Limits) -> Subject:
    name = path.resolve().name
    films = list_films(listing, name, rules=FolderRules(strict=False))
    has_splits = any(each.place.split for each in films.files)
    claims = [
        Claim(
            name=each.member.name,
            label=each.identity.label,
            # Beside split folders, a film outside them counts as train.
            split=(each.place.split or "train") if has_splits else UNSPLIT,
            patients=_by_name(each.member.name) if each.identity.naming is not grammar.Naming.NONE else {},
            member=each.member,
        )
        for each in films.files
    ]
    labels = {claim.label for claim in claims}
    return Subject(
        name=name,
        groups=grammar.KERMANY_GROUPS if labels == set(grammar.KERMANY_CLASSES) else {},
        claims=claims,
        refused=films.refused,
        limits=limits,
    )


def _by_name(name: str) -> dict[str, str]:
    """The patient by each of the published grammars that the name follows."""
    stem = Path(name).stem
    rules = {"version 2 names": grammar.parse_version2(stem), "version 3 names": grammar.parse_version3(stem)}
    patients = {rule: found.patient for rule, found in rules.items() if found and found.patient}
    if "version 2 names" in patients:
        patients[NAIVE] = patients["version 2 names"].partition("/")[2]
    return patients


def _examine(claim: Claim, *, limits: Limits) -> tuple[ExaminedFilm, Luma] | str:
    opened = open_film(claim.member, limits)
    if isinstance(opened, str):
        return opened
    data, radiograph = opened
    small = to_input(radiograph.luma, RULE)[0]
    film = ExaminedFilm(
        claim=claim,
        facts=radiograph.facts,
        content=content_of(data, radiograph),
        measures=measure(radiograph.facts, len(data), small),
    )
    return film, small
