"""Reading the sources: every image file once, with its content and its patient."""

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from pneumoscope.archive import open_source
from pneumoscope.dataset.candidates import Candidate, Candidates, find_films
from pneumoscope.dataset.content import Content, content_of, open_film
from pneumoscope.dataset.grammar import Naming, distinguishes_patients
from pneumoscope.dataset.labels import read_labels
from pneumoscope.dataset.manifest import RefusedFile
from pneumoscope.dataset.places import Part
from pneumoscope.imaging import SUFFIXES, Limits
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import Listener
from pneumoscope.settings.data import PrepareConfig


@dataclass(frozen=True, kw_only=True)
class SourceFilm:
    """A film of one source that has been read.

    `source_index` is its source's position among the sources, `member` its path in the source, and `part` the part of
    the source that it is in (`train` includes validation). `incoming_file` holds its bytes until the data set is
    written.
    """

    source_index: int
    source: str
    member: str
    label: str
    patient: str
    naming: Naming
    part: Part | None
    content: Content
    incoming_file: Path

    @property
    def name(self) -> str:
        """Its name in the manifest's column `source`."""
        return f"{self.source}:{self.member}"

    @property
    def file_name(self) -> str:
        """A file name with a suffix that other programs know; torchvision, for one, does not know .jfif."""
        name = PurePosixPath(self.member)
        suffix = name.suffix.lower()
        if suffix not in SUFFIXES:
            return f"{name.name}.dcm"
        return name.with_suffix(".jpeg").name if suffix in (".jfif", ".jpe") else name.name


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source that has been read.

    `copies` is the number of films that were dropped because they repeat one of `films` (see `_drop_copies`).
    `unreadable_test_patients` are the patients of test films that cannot be read, each with its `Naming`. The other
    counts are those of `Candidates`.
    """

    name: str
    films: tuple[SourceFilm, ...]
    copies: int
    unreadable_test_patients: frozenset[tuple[Naming, str]]
    refused: tuple[RefusedFile, ...]
    junk: int
    excluded: int
    other_files: int


@dataclass(frozen=True, kw_only=True)
class _CopiedFile:
    """A candidate that has been read and copied; `header_patient` is a pseudonym from a DICOM header."""

    candidate: Candidate
    incoming_file: Path
    content: Content
    header_patient: str | None


@dataclass(frozen=True, kw_only=True)
class ReadSources:
    """All sources, read; `label_summary` and `without_file` are those of `FilmsFound`."""

    sources: tuple[Source, ...]
    label_summary: str | None
    without_file: int


def read_sources(
    sources: Sequence[Path],
    incoming: Path,
    *,
    pattern: re.Pattern[str] | None,
    config: PrepareConfig,
    limits: Limits,
    listener: Listener,
) -> ReadSources:
    """Read and check every film of every source once, copying it into the folder `incoming`.

    Raises:
        ArchiveError: a source is neither a folder nor a readable archive.
        UsageError: names, folders or label files can be read in several ways; see `find_films`.
    """
    labelling = read_labels(config)
    names = _source_names(sources)
    with ExitStack() as stack:
        listings = [
            stack.enter_context(open_source(path, max_bytes=limits.max_bytes, name_encoding=config.name_encoding))
            for path in sources
        ]
        found = find_films(listings, names, pattern=pattern, config=config, labelling=labelling)
        read = tuple(
            _read_source(
                candidates,
                source,
                incoming / str(index),
                source_index=index,
                use_headers=config.dicom_patients,
                limits=limits,
                listener=listener,
            )
            for index, (source, candidates) in enumerate(zip(names, found.candidates, strict=True))
        )
    return ReadSources(sources=read, label_summary=found.label_summary, without_file=found.without_file)


def _read_source(
    candidates: Candidates,
    source: str,
    folder: Path,
    *,
    source_index: int,
    use_headers: bool,
    limits: Limits,
    listener: Listener,
) -> Source:
    """Read every film of one source, copying it into the new folder `folder`."""
    folder.mkdir(parents=True)
    jobs = [(each, folder / f"{at:07d}") for at, each in enumerate(candidates.files)]
    work = map_ordered(partial(_copy, limits=limits), jobs)
    results = list(listener.track(f"reading {source}", work, len(jobs)))
    copied = [each for each in results if isinstance(each, _CopiedFile)]
    failed = [(each, result) for (each, _), result in zip(jobs, results, strict=True) if isinstance(result, str)]
    # De-identification can leave the same Patient ID on all films, which would make the whole source one patient.
    by_header = use_headers and distinguishes_patients([each.header_patient for each in copied])
    films = _drop_copies(_film(each, source, source_index, by_header=by_header) for each in copied)
    unreadable = (RefusedFile(source=source, name=each.member.name, reason=reason) for each, reason in failed)
    # The patient of a test film that cannot be read is still a test patient, whose other films must not be trained on.
    test_identities = [each.identity for each, _ in failed if each.place.part == "test"]
    return Source(
        name=source,
        films=films,
        copies=len(copied) - len(films),
        unreadable_test_patients=frozenset((each.naming, each.patient) for each in test_identities if each.patient),
        refused=(*candidates.refused, *unreadable),
        junk=candidates.junk,
        excluded=candidates.excluded,
        other_files=candidates.other_files,
    )


def _source_names(sources: Sequence[Path]) -> list[str]:
    """A short name of each source; a name that occurs again gets a number."""
    names = [path.resolve().name for path in sources]
    # The manifest names films by source, so two folders that are both called `images` need different names.
    return [f"{name}#{names[:at].count(name) + 1}" if name in names[:at] else name for at, name in enumerate(names)]


def _copy(job: tuple[Candidate, Path], *, limits: Limits) -> _CopiedFile | str:
    """Read, check and copy one file, or return the reason why that is not possible."""
    candidate, incoming_file = job
    opened = open_film(candidate.member, limits)
    if isinstance(opened, str):
        return opened
    data, radiograph = opened
    # The bytes that were checked and hashed are kept: the source is read once, and may change afterwards.
    incoming_file.write_bytes(data)
    return _CopiedFile(
        candidate=candidate,
        incoming_file=incoming_file,
        content=content_of(data, radiograph),
        header_patient=radiograph.facts.patient,
    )


def _film(copied: _CopiedFile, source: str, source_index: int, *, by_header: bool) -> SourceFilm:
    """A film, with the patient of its DICOM header if neither a table nor its path names one.

    A film without a known patient counts as a patient of its own, named by its class, source and path.
    """
    member, identity = copied.candidate.member.name, copied.candidate.identity
    patient, naming = identity.patient, identity.naming
    if by_header and copied.header_patient is not None and naming is Naming.NONE:
        patient, naming = copied.header_patient, Naming.HEADER
    return SourceFilm(
        source_index=source_index,
        source=source,
        member=member,
        label=identity.label,
        patient=patient or f"{identity.label}/{source}:{member}",
        naming=naming,
        part=copied.candidate.place.part,
        content=copied.content,
        incoming_file=copied.incoming_file,
    )


def _drop_copies(films: Iterable[SourceFilm]) -> tuple[SourceFilm, ...]:
    """Keep one of several files with the same name, label, named patient and bytes, preferably one of a test part."""
    kept: dict[tuple[object, ...], SourceFilm] = {}
    for film in films:
        patient = film.patient if film.naming else None  # files that name different patients are all kept
        key = (film.file_name, film.label, patient, film.content.file_sha256)
        if key not in kept or (film.part == "test" and kept[key].part != "test"):
            kept[key] = film
    return tuple(kept.values())
