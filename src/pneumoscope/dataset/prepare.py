"""From sources to a prepared data set, whole or not at all: read every image file once, match, split, write."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from pneumoscope.contract import check_classes
from pneumoscope.dataset.grammar import KERMANY_CLASSES, KERMANY_GROUPS
from pneumoscope.dataset.manifest import (
    CARD_FILE,
    MANIFEST_FILE,
    SPLITS,
    STRESS,
    DatasetCard,
    DuplicateFilms,
    NearFilms,
    Record,
    RefusedFile,
    format_manifest,
)
from pneumoscope.dataset.places import TABLE_ADVICE
from pneumoscope.dataset.sources import Source, read_sources
from pneumoscope.dataset.split import LabelledFilm, cut_patients
from pneumoscope.dataset.stress import write_stress
from pneumoscope.dataset.union import Entry, Union, name_patients, unite
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.files import whole_directory, write_text
from pneumoscope.imaging import Limits
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.data import PrepareConfig

_INCOMING = ".incoming"


@dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """Counts of one source.

    `films` were read; `matched` of them are films of an earlier source; `added` are in the data set. `patients_named`:
    every film has a named patient. The other counts are those of `Source`.
    """

    name: str
    films: int
    refused: int
    junk: int
    excluded: int
    other_files: int
    copies: int
    matched: int
    added: int
    patients_named: bool


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """The result of `prepare`. `counts[split][label]` is (films, patients).

    `labels` states how label files were read (None: no label files were given). `without_file` is the number of images
    in them that no source has.
    """

    classes: tuple[str, ...]
    counts: dict[str, dict[str, tuple[int, int]]]
    sources: list[SourceSummary]
    refused: tuple[RefusedFile, ...]
    duplicates: tuple[DuplicateFilms, ...]
    near_duplicates: tuple[NearFilms, ...]
    labels: str | None
    without_file: int


@dataclass(frozen=True, kw_only=True)
class AssignedFilm:
    """A film of the data set with its split and patient."""

    entry: Entry
    split: str
    patient: str


def prepare(
    sources: Sequence[Path], out: Path, config: PrepareConfig, *, overwrite: bool = False, listener: Listener = SILENT
) -> PrepareSummary:
    """Make the data set `out` from archives and folders that are labelled by class folders or by tables.

    A source's test part stays test; its train and validation parts are joined, and validation is split off again
    by patient. A film or patient of any source's test part is never in train or validation. Films of
    several sources are matched one to one by their pixels; within a source, two files of the same name,
    label, named patient and bytes are one film. With `test_only` every film is test, with `train_only` every film is
    train. The same sources and configuration give the same manifest, byte for byte.

    Raises:
        ArchiveError, DatasetError, UsageError: no data set can be made; `out` is left as it was.
    """
    pattern = _compile(config.patient_pattern)
    _check_options(config, out, sources)
    with whole_directory(out, overwrite=overwrite, holding=MANIFEST_FILE) as folder:
        limits = Limits(max_pixels=config.max_pixels)
        read = read_sources(
            sources,
            folder / _INCOMING,
            pattern=pattern,
            config=config,
            limits=limits,
            listener=listener,
        )
        union = unite(read.sources, config)
        assigned, refused = _assign_splits(union, config)
        classes = tuple(sorted({film.entry.label for film in assigned}))
        card = DatasetCard(
            schema_version=2,
            classes=classes,
            groups=_groups(classes, config),
            sources=tuple(source.name for source in read.sources),
            config=config,
            refused=refused,
            duplicates=union.duplicates,
            near_duplicates=union.near_duplicates,
        )
        films = _write_films(assigned, folder)
        if config.stress:
            # Made from the validation films as written, so only after them.
            films += write_stress(films, folder, seed=config.seed, limits=limits, listener=listener)
        write_text(folder / MANIFEST_FILE, format_manifest(films))
        write_text(folder / CARD_FILE, card.model_dump_json(indent=2) + "\n")
    return PrepareSummary(
        classes=card.classes,
        counts=_counts(films, card.classes),
        sources=_summaries(read.sources, union, assigned),
        refused=card.refused,
        duplicates=card.duplicates,
        near_duplicates=card.near_duplicates,
        labels=read.label_summary,
        without_file=read.without_file,
    )


def _check_options(config: PrepareConfig, out: Path, sources: Sequence[Path]) -> None:
    """Raise UsageError for a data set inside one of its sources, and for options that contradict each other."""
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            raise UsageError(f"--out {out} is inside the source {source}; choose a folder beside it.")
    if config.test_only and config.train_only:
        raise UsageError("--test-only and --train-only contradict each other; drop one of them.")
    only = "--test-only" if config.test_only else "--train-only" if config.train_only else None
    if config.stress and only:
        raise UsageError(f"the stress split is made of validation films, and {only} makes none; drop one of them.")


def _assign_splits(union: Union, config: PrepareConfig) -> tuple[list[AssignedFilm], tuple[RefusedFile, ...]]:
    """Assign split and patient to every film, and leave out train films of test patients.

    Returns:
        The films, and all files refused so far.
    """
    entries, refused = union.entries, union.refused
    try:
        _require_two_classes({entry.label for entry in entries}, "" if config.labels else f" {TABLE_ADVICE}")
        if config.test_only or config.train_only:
            splits: list[str | None] = ["test" if config.test_only else "train"] * len(entries)
        else:
            left_out = [
                entry for entry in entries if union.groups[entry.pixels] in union.test_groups and not entry.in_test_part
            ]
            reason = "its patient, or an identical or nearly identical film, is also in a test part"
            refused += tuple(each for entry in left_out for each in entry.refusals(reason))
            splits = _cut_splits(union, config)
    except DatasetError as failure:  # the refused files are often the cause
        raise DatasetError(f"{failure}{_refusal_lines(refused)}") from failure
    if config.strict and refused:
        raise DatasetError(f"--strict: nothing was made.{_refusal_lines(refused)}")
    films = [
        AssignedFilm(entry=entry, split=split, patient=patient)
        for entry, split, patient in zip(entries, splits, name_patients(entries), strict=True)
        if split is not None
    ]
    return films, refused


def _cut_splits(union: Union, config: PrepareConfig) -> list[str | None]:
    """The split of each entry, or None for a train film of a test patient; groups are never divided."""
    groups = [union.groups[entry.pixels] for entry in union.entries]
    train = [
        LabelledFilm(label=entry.label, patient=group)  # a group counts as a patient, so that it is never divided
        for entry, group in zip(union.entries, groups, strict=True)
        if group not in union.test_groups
    ]
    if missing := {entry.label for entry in union.entries} - {film.label for film in train}:
        raise DatasetError(
            f"class {', '.join(sorted(missing))} has films in the test part only; add train films, or pass --test-only."
        )
    parts: dict[str, str] = {}
    # Without a published test part, one is split off first.
    if not any(entry.in_test_part for entry in union.entries):
        parts |= dict.fromkeys(cut_patients(train, fraction=config.test_fraction, seed=config.seed), "test")
        train = [film for film in train if film.patient not in parts]
    # `val_fraction` is a share of the films that are left after a test part was split off.
    parts |= dict.fromkeys(cut_patients(train, fraction=config.val_fraction, seed=config.seed), "val")
    return [
        "test" if entry.in_test_part else None if group in union.test_groups else parts.get(group, "train")
        for entry, group in zip(union.entries, groups, strict=True)
    ]


def _require_two_classes(labels: set[str], advice: str) -> None:
    if not labels:
        raise DatasetError(
            "no usable image found; give the archive as downloaded, or a folder with one folder of images per class."
            f"{advice}"
        )
    if len(labels) < 2:
        raise DatasetError(f"only one class found ({min(labels)}); at least 2 are needed.{advice}")


def _refusal_lines(refused: Sequence[RefusedFile], most: int = 20) -> str:
    """The end of an error message: the refused files, one per line."""
    lines = [f"\n  {each.source}:{each.name}: {each.reason}" for each in refused[:most]]
    more = f"\n  and {len(refused) - most} more" if len(refused) > most else ""
    return f" {len(refused)} inputs were refused:{''.join(lines)}{more}" if refused else ""


def _write_films(films: Sequence[AssignedFilm], folder: Path) -> list[Record]:
    """Move every film from the incoming folder to `{split}/{label}/{name}`, and return their records."""
    for split in SPLITS:
        for label in {film.entry.label for film in films}:
            (folder / split / label).mkdir(parents=True, exist_ok=True)
    rows, used = [], set()
    for film in films:
        kept = film.entry.kept
        preferred = f"{film.split}/{kept.label}/{kept.file_name}"
        # Names are compared in lower case, for file systems without regard to case.
        path = next(name for name in _names(preferred, kept.content.file_sha256) if name.lower() not in used)
        used.add(path.lower())
        # Moved, not copied again: the incoming folder is inside the data set, so on the same file system.
        kept.incoming_file.rename(folder / path)
        rows.append(
            Record(
                path=path,
                label=kept.label,
                split=film.split,
                patient=film.patient,
                source=film.entry.name,
                **asdict(kept.content),
            )
        )
    shutil.rmtree(folder / _INCOMING)
    return rows


def _names(path: str, sha256: str) -> Iterator[str]:
    """The preferred path, then paths with a suffix from the file's hash, counted up for equal files."""
    preferred = PurePosixPath(path)
    yield path
    count = int(sha256[:8], 16)
    while True:
        # Shortened, so that a long name still fits the file system's limit with the suffix.
        yield str(preferred.with_name(f"{preferred.stem[:60]}~{count:08x}{preferred.suffix}"))
        count = (count + 1) % 2**32


def _groups(classes: tuple[str, ...], config: PrepareConfig) -> dict[str, tuple[str, ...]]:
    # Bacterial and viral pneumonia are a group only if the classes are exactly the archive's.
    default = KERMANY_GROUPS if classes == KERMANY_CLASSES else {}
    groups = default if config.groups is None else config.groups
    try:
        check_classes(classes, groups)
    except ValueError as failure:
        raise UsageError(f"--group: {failure}.") from failure
    return groups


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as failure:
        raise UsageError(f"--patient-pattern {pattern!r} is not a regular expression ({failure}).") from failure


def _summaries(read: Sequence[Source], union: Union, films: Sequence[AssignedFilm]) -> list[SourceSummary]:
    """The summary of each source; a film is added by the first source that has it."""
    added = Counter(film.entry.kept.source_index for film in films)
    return [
        SourceSummary(
            name=source.name,
            films=len(source.films) + source.copies,
            refused=len(source.refused),
            junk=source.junk,
            excluded=source.excluded,
            other_files=source.other_files,
            copies=source.copies,
            matched=union.matched[number],
            added=added[number],
            patients_named=all(film.naming for film in source.films),
        )
        for number, source in enumerate(read)
    ]


def _counts(films: list[Record], classes: tuple[str, ...]) -> dict[str, dict[str, tuple[int, int]]]:
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for split in (*SPLITS, *sorted({STRESS} & {film.split for film in films})):
        counts[split] = {}
        for label in classes:
            chosen = [film for film in films if film.split == split and film.label == label]
            counts[split][label] = len(chosen), len({film.patient for film in chosen})
    return counts
