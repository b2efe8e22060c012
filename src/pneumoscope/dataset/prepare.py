"""From sources to a prepared data set, in one pass over the files and all or nothing."""

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pneumoscope.contract import check_classes
from pneumoscope.dataset.grammar import KERMANY_CLASSES, KERMANY_GROUPS
from pneumoscope.dataset.manifest import (
    CARD_FILE,
    MANIFEST_FILE,
    SPLITS,
    DatasetCard,
    Film,
    PrepareConfig,
    RefusedFile,
    format_manifest,
)
from pneumoscope.dataset.sources import Harvest, SourceSummary, Taken, read_sources
from pneumoscope.dataset.split import Labelled, cut_patients, join_identical
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.files import whole_directory, write_text
from pneumoscope.imaging import Limits
from pneumoscope.progress import SILENT, Listener

_INCOMING = ".incoming"


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What `prepare` made. `counts[split][label]` is (films, patients)."""

    classes: tuple[str, ...]
    counts: dict[str, dict[str, tuple[int, int]]]
    sources: list[SourceSummary]
    refused: tuple[RefusedFile, ...]
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

    A source's test part stays test; its train and validation parts are joined and validation is cut
    anew by patient. A patient of a test part is never in train or validation. Two files of the same
    name, label and bytes are one film. The same sources and configuration give the same manifest,
    byte for byte.

    Raises:
        ArchiveError, DatasetError, UsageError: nothing is then left at `out`.
    """
    started = time.monotonic()
    pattern = _compile(config.patient_pattern)
    _refuse_output_in_source(out, sources)
    with whole_directory(out, overwrite=overwrite, holding=MANIFEST_FILE) as folder:
        limits = Limits(max_pixels=config.max_pixels)
        incoming = folder / _INCOMING
        harvest = read_sources(sources, incoming, pattern=pattern, limits=limits, listener=listener)
        kept = _drop_copies(harvest.taken)
        films = _split_or_explain(kept, config, harvest.refused)
        card = _card(films, config, harvest)
        named = _settle(films, folder)
        write_text(folder / MANIFEST_FILE, format_manifest(named))
        write_text(folder / CARD_FILE, card.model_dump_json(indent=2) + "\n")
    copies = Counter(each.candidate.source for each in harvest.taken)
    copies.subtract(each.candidate.source for each in kept)
    return PrepareSummary(
        classes=card.classes,
        counts=_counts(named, card.classes),
        sources=[replace(summary, copies=copies[summary.name]) for summary in harvest.summaries],
        refused=card.refused,
        seconds=time.monotonic() - started,
    )


def _refuse_output_in_source(out: Path, sources: Sequence[Path]) -> None:
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            raise UsageError(f"--out {out} lies inside the source {source}; choose a folder beside it.")


def _split_or_explain(kept: list[Taken], config: PrepareConfig, refused: list[RefusedFile]) -> list[tuple[Film, Path]]:
    """Films with their splits; a failure names what was refused, which is often why."""
    try:
        films = _assign_splits(kept, config, refused)
    except DatasetError as failure:
        raise DatasetError(f"{failure}{_listing(refused)}") from failure
    if config.strict and refused:
        raise DatasetError(f"--strict: nothing was made.{_listing(refused)}")
    return films


def _card(films: list[tuple[Film, Path]], config: PrepareConfig, harvest: Harvest) -> DatasetCard:
    classes = tuple(sorted({film.label for film, _ in films}))
    return DatasetCard(
        schema_version=1,
        classes=classes,
        groups=_groups(classes, config),
        sources=tuple(summary.name for summary in harvest.summaries),
        config=config,
        refused=tuple(harvest.refused),
    )


def _drop_copies(taken: list[Taken]) -> list[Taken]:
    """Keep one of the files that share name, label and bytes; one of a test part if any."""
    kept: dict[tuple[str, str, str], Taken] = {}
    for each in taken:
        key = (each.film.path, each.film.label, each.film.file_sha256)
        if key not in kept or (each.candidate.part == "test" and kept[key].candidate.part != "test"):
            kept[key] = each
    return list(kept.values())


def _assign_splits(taken: list[Taken], config: PrepareConfig, refused: list[RefusedFile]) -> list[tuple[Film, Path]]:
    """Give every film its split; leave out train films of test patients.

    Patients with a pixel-identical film in common are cut as one.
    """
    _require_classes(taken, {each.film.label for each in taken})
    group = join_identical((each.film.patient, each.film.luma_sha256) for each in taken)
    tested = {group[each.film.patient] for each in taken if each.candidate.part == "test"}
    split = {each.incoming: "test" for each in taken if each.candidate.part == "test"}
    pool = []
    for each in taken:
        if each.candidate.part != "test" and group[each.film.patient] not in tested:
            pool.append(each)
        elif each.candidate.part != "test":
            reason = "its patient, or an identical film, is also in a test part"
            refused.append(RefusedFile(source=each.candidate.source, name=each.candidate.member.name, reason=reason))
    _require_classes(pool, {each.film.label for each in taken})
    if not tested:
        chosen = cut_patients(_labelled(pool, group), fraction=config.test_fraction, seed=config.seed)
        split |= {each.incoming: "test" for each in pool if group[each.film.patient] in chosen}
        pool = [each for each in pool if each.incoming not in split]
    validation = cut_patients(_labelled(pool, group), fraction=config.val_fraction, seed=config.seed)
    split |= {each.incoming: "val" if group[each.film.patient] in validation else "train" for each in pool}
    return [(replace(each.film, split=split[each.incoming]), each.incoming) for each in taken if each.incoming in split]


def _labelled(taken: list[Taken], group: dict[str, str]) -> list[Labelled]:
    return [Labelled(label=each.film.label, patient=group[each.film.patient]) for each in taken]


def _require_classes(pool: list[Taken], labels: set[str]) -> None:
    """At least two classes, and films of each to train on."""
    if not labels:
        raise DatasetError(
            "no usable image found; give the archive as downloaded, or a folder with one folder of images a class."
        )
    if len(labels) < 2:
        raise DatasetError(f"only one class found ({min(labels)}); at least 2 class folders are needed.")
    if missing := labels - {each.film.label for each in pool}:
        raise DatasetError(f"class {', '.join(sorted(missing))} has films in the test part only; add train films.")


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
    for split in SPLITS:
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
