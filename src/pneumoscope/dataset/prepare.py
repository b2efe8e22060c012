"""From sources to a prepared data set, in one pass over the files and all or nothing."""

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pneumoscope.contract import check_classes
from pneumoscope.dataset.grammar import KERMANY_CLASSES, KERMANY_GROUPS, Naming
from pneumoscope.dataset.manifest import (
    CARD_FILE,
    MANIFEST_FILE,
    SPLITS,
    STRESS,
    DatasetCard,
    DuplicateFilms,
    Film,
    NearFilms,
    RefusedFile,
    format_manifest,
)
from pneumoscope.dataset.sources import Harvest, SourceSummary, Taken, read_sources
from pneumoscope.dataset.split import Labelled, cut_patients
from pneumoscope.dataset.stress import write_stress
from pneumoscope.dataset.union import (
    Entry,
    United,
    group_patients,
    name_patients,
    unite,
)
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.files import whole_directory, write_text
from pneumoscope.imaging import Limits
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.data import PrepareConfig

_INCOMING = ".incoming"


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What `prepare` made. `counts[split][label]` is (films, patients)."""

    classes: tuple[str, ...]
    counts: dict[str, dict[str, tuple[int, int]]]
    sources: list[SourceSummary]
    refused: tuple[RefusedFile, ...]
    duplicates: tuple[DuplicateFilms, ...]
    near_duplicates: tuple[NearFilms, ...]
    seconds: float


def prepare(
    sources: Sequence[Path],
    out: Path,
    config: PrepareConfig,
    *,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> PrepareSummary:
    """Make the data set `out` from ZIP archives and folders.

    A source's test part stays test; its train and validation parts are joined and validation is cut anew
    by patient. A film or patient of any source's test part is never in train or validation. Films of
    several sources are matched one to one by their pixels; within a source, two files of the same name,
    label and bytes are one film. With `test_only` every film is test, with `train_only` every film is
    train. The same sources and configuration give the same manifest, byte for byte.

    Raises:
        ArchiveError, DatasetError, UsageError: nothing is then left at `out`.
    """
    started = time.monotonic()
    pattern = _compile(config.patient_pattern)
    _refuse_output_in_source(out, sources)
    if config.test_only and config.train_only:
        raise UsageError("--test-only and --train-only contradict each other; drop one of them.")
    if config.stress and (config.test_only or config.train_only):
        only = "--test-only" if config.test_only else "--train-only"
        raise UsageError(f"the stress split is made of validation films, and {only} makes none; drop one of them.")
    with whole_directory(out, overwrite=overwrite, holding=MANIFEST_FILE) as folder:
        limits = Limits(max_pixels=config.max_pixels)
        harvest = read_sources(
            sources,
            folder / _INCOMING,
            pattern=pattern,
            level=config.class_folder,
            headers=config.dicom_patients,
            limits=limits,
            listener=listener,
        )
        kept = _drop_copies(harvest.taken)
        united = unite(kept, config, harvest.refused)
        films = _split_or_explain(united, config, harvest)
        card = _card(films, config, harvest, united)
        named = _settle(films, folder)
        if config.stress:
            named += write_stress(named, folder, seed=config.seed, limits=limits, listener=listener)
        write_text(folder / MANIFEST_FILE, format_manifest(named))
        write_text(folder / CARD_FILE, card.model_dump_json(indent=2) + "\n")
    return PrepareSummary(
        classes=card.classes,
        counts=_counts(named, card.classes),
        sources=_summaries(harvest, kept, united, films),
        refused=card.refused,
        duplicates=card.duplicates,
        near_duplicates=card.near_duplicates,
        seconds=time.monotonic() - started,
    )


def _refuse_output_in_source(out: Path, sources: Sequence[Path]) -> None:
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            raise UsageError(f"--out {out} lies inside the source {source}; choose a folder beside it.")


def _drop_copies(taken: list[Taken]) -> list[Taken]:
    """Keep one of the files of a source that share name, label and bytes; one of a test part if any."""
    kept: dict[tuple[object, ...], Taken] = {}
    for each in taken:
        patient = each.film.patient if each.candidate.naming else None  # two named patients are two witnesses
        key = (each.candidate.number, each.film.path, each.film.label, patient, each.film.file_sha256)
        if key not in kept or (each.candidate.part == "test" and kept[key].candidate.part != "test"):
            kept[key] = each
    return list(kept.values())


def _split_or_explain(united: United, config: PrepareConfig, harvest: Harvest) -> list[tuple[Film, Path]]:
    """Films with their splits; a failure names what was refused, which is often why."""
    lost = {(each.naming, each.patient) for each in harvest.lost if each.part == "test"}
    try:
        films = _assign_splits(united, config, harvest.refused, lost)
    except DatasetError as failure:
        raise DatasetError(f"{failure}{_listing(harvest.refused)}") from failure
    if config.strict and harvest.refused:
        raise DatasetError(f"--strict: nothing was made.{_listing(harvest.refused)}")
    return films


def _assign_splits(
    united: United, config: PrepareConfig, refused: list[RefusedFile], lost: set[tuple[Naming, str]]
) -> list[tuple[Film, Path]]:
    """Give every film its split; leave out train films of test patients.

    Patients that share a film are cut as one, and so are patients of nearly identical films. A patient
    of a test part stays one when its film there is not used, or is `lost`: not readable.
    """
    entries, labels = united.entries, {entry.film.label for entry in united.entries}
    _require_classes(entries, labels)
    if config.test_only or config.train_only:
        return _all_in(entries, "test" if config.test_only else "train")
    of_known = group_patients(united.known, united.likeness)
    group = {id(entry): name for entry, name in zip(united.known, of_known, strict=True)}
    tested = {group[id(entry)] for entry in united.known if entry.tested or entry.patients & lost}
    split = []
    for entry in entries:
        split.append("test" if entry.tested else "left out" if group[id(entry)] in tested else "train")
        if split[-1] == "left out":
            refused += entry.refusals("its patient, or an identical or nearly identical film, is also in a test part")
    _require_classes([entry for entry, part in zip(entries, split, strict=True) if part == "train"], labels)
    groups = [group[id(entry)] for entry in entries]
    if "test" not in split:
        _cut(entries, groups, split, "test", config.test_fraction, config.seed)
    _cut(entries, groups, split, "val", config.val_fraction, config.seed)
    patients = name_patients(entries, group_patients(entries))
    return [
        (replace(entry.film, split=part, patient=patient), entry.kept.incoming)
        for entry, part, patient in zip(entries, split, patients, strict=True)
        if part in SPLITS
    ]


def _all_in(entries: list[Entry], split: str) -> list[tuple[Film, Path]]:
    patients = name_patients(entries, group_patients(entries))
    return [
        (replace(entry.film, split=split, patient=patient), entry.kept.incoming)
        for entry, patient in zip(entries, patients, strict=True)
    ]


def _cut(entries: list[Entry], groups: list[str], split: list[str], part: str, fraction: float, seed: int) -> None:
    """Move a share of the train films to `part`, group by group."""
    pool = [place for place, held in enumerate(split) if held == "train"]
    films = [Labelled(label=entries[place].film.label, patient=groups[place]) for place in pool]
    chosen = cut_patients(films, fraction=fraction, seed=seed)
    for place in pool:
        if groups[place] in chosen:
            split[place] = part


def _require_classes(pool: list[Entry], labels: set[str]) -> None:
    """At least two classes, and films of each to train on."""
    if not labels:
        raise DatasetError(
            "no usable image found; give the archive as downloaded, or a folder with one folder of images a class."
        )
    if len(labels) < 2:
        raise DatasetError(f"only one class found ({min(labels)}); at least 2 class folders are needed.")
    if missing := labels - {entry.film.label for entry in pool}:
        raise DatasetError(
            f"class {', '.join(sorted(missing))} has films in the test part only; add train films, or pass --test-only."
        )


def _card(films: list[tuple[Film, Path]], config: PrepareConfig, harvest: Harvest, united: United) -> DatasetCard:
    classes = tuple(sorted({film.label for film, _ in films}))
    return DatasetCard(
        schema_version=2,
        classes=classes,
        groups=_groups(classes, config),
        sources=tuple(summary.name for summary in harvest.summaries),
        config=config,
        refused=tuple(harvest.refused),
        duplicates=united.duplicates,
        near_duplicates=united.near_duplicates,
    )


def _summaries(
    harvest: Harvest, kept: list[Taken], united: United, films: list[tuple[Film, Path]]
) -> list[SourceSummary]:
    """What each source gave; a film is added by the first source that has it."""
    copies = Counter(each.candidate.source for each in harvest.taken)
    copies.subtract(each.candidate.source for each in kept)
    added = Counter(incoming.parent.name for _, incoming in films)  # named by the source's number
    return [
        replace(summary, copies=copies[summary.name], matched=united.matched[summary.name], added=added[str(number)])
        for number, summary in enumerate(harvest.summaries)
    ]


def _settle(films: list[tuple[Film, Path]], folder: Path) -> list[Film]:
    """Move every film from the incoming folder to `{split}/{label}/{name}`."""
    for split in SPLITS:
        for label in {film.label for film, _ in films}:
            (folder / split / label).mkdir(parents=True, exist_ok=True)
    settled, used = [], set()
    for film, incoming in films:
        wished = f"{film.split}/{film.label}/{film.path}"
        path = next(name for name in _names(wished, film.file_sha256) if name.lower() not in used)
        used.add(path.lower())
        incoming.rename(folder / path)
        settled.append(replace(film, path=path))
    shutil.rmtree(folder / _INCOMING)
    return settled


def _names(path: str, sha256: str) -> Iterator[str]:
    """The wished name, then ones made distinct by the hash and, for equal files, a count."""
    wished = PurePosixPath(path)
    yield path
    count = int(sha256[:8], 16)
    while True:
        yield str(wished.with_name(f"{wished.stem[:60]}~{count:08x}{wished.suffix}"))
        count = (count + 1) % 2**32


def _groups(classes: tuple[str, ...], config: PrepareConfig) -> dict[str, tuple[str, ...]]:
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


def _counts(films: list[Film], classes: tuple[str, ...]) -> dict[str, dict[str, tuple[int, int]]]:
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for split in (*SPLITS, *sorted({STRESS} & {film.split for film in films})):
        counts[split] = {}
        for label in classes:
            chosen = [film for film in films if film.split == split and film.label == label]
            counts[split][label] = len(chosen), len({film.patient for film in chosen})
    return counts


def _listing(refused: list[RefusedFile], most: int = 20) -> str:
    """What was refused, one a line, to end an error message with."""
    lines = [f"\n  {each.source}:{each.name}: {each.reason}" for each in refused[:most]]
    more = f"\n  and {len(refused) - most} more" if len(refused) > most else ""
    return f" {len(refused)} inputs were refused:{''.join(lines)}{more}" if refused else ""
