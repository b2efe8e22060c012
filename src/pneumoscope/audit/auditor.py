"""The audit: read every film once, measure it, and report findings."""

import itertools
import time
from collections import Counter, defaultdict
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from pneumoscope import __version__
from pneumoscope.audit import distributions, findings
from pneumoscope.audit.document import Audit, Oddity
from pneumoscope.audit.features import SIDE
from pneumoscope.audit.leaks import identical, nearly_identical, patient_of_each, shared_patients
from pneumoscope.audit.oddities import oddities
from pneumoscope.audit.page import Pictures, draw_page
from pneumoscope.audit.reading import ExaminedFilm, Subject, examine, name_by_header, open_subject
from pneumoscope.audit.shortcuts import NOT_REQUESTED, Pool, measure_shortcuts
from pneumoscope.contract import DISCLAIMER
from pneumoscope.dataset.likeness import NEAR_DISTANCE
from pneumoscope.errors import DatasetError
from pneumoscope.files import whole_directory, write_text
from pneumoscope.imaging import Luma
from pneumoscope.metrics import Floats
from pneumoscope.progress import SILENT, Listener

AUDIT_FILE, PAGE_FILE = "audit.json", "audit.html"


def audit(
    path: Path,
    out: Path | None = None,
    *,
    shortcuts: bool = True,
    overwrite: bool = False,
    name_encoding: str | None = None,
    listener: Listener = SILENT,
) -> Audit:
    """Audit a prepared data set, or an archive or folder as published.

    Args:
        path: the data set, archive or folder.
        out: a folder to make, with `audit.json` and `audit.html`; None to write nothing.
        shortcuts: also measure the shortcut baselines and shifts, which takes most of the time.
        overwrite: replace an earlier audit at `out`.
        name_encoding: text codec of file names in an archive that are not UTF-8.
        listener: receives progress.

    Raises:
        ArchiveError, DatasetError, UsageError: there is nothing to audit, or `out` exists.
    """
    started = time.monotonic()
    target: AbstractContextManager[Path | None]
    target = nullcontext() if out is None else whole_directory(out, overwrite=overwrite, holding=AUDIT_FILE)
    with target as folder, open_subject(path, name_encoding=name_encoding) as subject:
        films, unreadable, means = _read(subject, listener)
        if not films:
            raise DatasetError(f"{path} contains no readable film; give a data set, an archive or class folders.")
        document = _document(subject, films, unreadable, listener, shortcuts=shortcuts, started=started)
        if folder is not None:
            members = {claim.name: claim.member for claim in subject.claims}
            write_text(folder / AUDIT_FILE, document.model_dump_json(indent=2) + "\n")
            write_text(folder / PAGE_FILE, draw_page(document, Pictures(members, means, subject.limits)))
    return document


def _read(subject: Subject, listener: Listener) -> tuple[list[ExaminedFilm], list[Oddity], dict[tuple[str, str], Luma]]:
    """The films, the unreadable files, and the mean films (`uint8 [224, 224]`) by split and class."""
    films: list[ExaminedFilm] = []
    unreadable: list[Oddity] = []
    # Pixels are added up while reading, so that no film's pixels have to be kept.
    sums = defaultdict[tuple[str, str], Floats](lambda: np.zeros((SIDE, SIDE)))
    for claim, each in zip(subject.claims, examine(subject.claims, subject.limits, listener), strict=True):
        if isinstance(each, str):  # the reason why the file cannot be read
            kind = "unreadable" if claim.listed else findings.UNLISTED_UNREADABLE
            unreadable.append(Oddity(film=claim.name, kind=kind, what=each))
        else:
            film, pixels = each
            sums[claim.split, claim.label] += pixels
            films.append(film)
    counts = {(split, label): len(cell_films) for split, label, cell_films in distributions.by_split_and_class(films)}
    means = {cell: np.rint(sums[cell] / count).astype(np.uint8) for cell, count in counts.items()}
    return name_by_header(films), unreadable, means


def _document(
    subject: Subject,
    films: list[ExaminedFilm],
    unreadable: list[Oddity],
    listener: Listener,
    *,
    shortcuts: bool,
    started: float,
) -> Audit:
    patients = patient_of_each(films)
    listed = np.array([film.claim.listed for film in films], bool)
    classes = tuple(sorted({film.claim.label for film in films if film.claim.listed}))
    # A group of all classes, or with a class that has no films, is left out: it cannot be compared with the rest.
    groups = {name: members for name, members in subject.groups.items() if set(members) < set(classes)}
    same, near = identical(films), nearly_identical(films)
    conflicts = [each for each in same if len(set(each.labels)) > 1]
    in_several_splits, odd = shared_patients(films), [*unreadable, *oddities(films)]
    changed = [film.claim.name for film in films if film.claim.file_sha256 not in (None, film.content.file_sha256)]
    unlisted = [claim.name for claim in subject.claims if not claim.listed]
    # Unlisted files are reported, but are not used for shortcuts.
    pool = Pool(films=films, patients=patients, classes=classes, class_groups=groups).subset(listed)
    results = measure_shortcuts(pool, listener) if shortcuts else NOT_REQUESTED
    spreads, shares = tuple(distributions.spreads(films)), tuple(distributions.shares(films))
    found = itertools.chain(
        findings.leak_findings(same, near, conflicts, in_several_splits),
        findings.class_findings(Counter(film.claim.label for film in films)),
        findings.file_findings(odd, changed, unlisted, subject.refused),
        findings.encoding_findings(spreads, shares),
        findings.shortcut_findings(results.shortcuts, results.shifts),
    )
    return Audit(
        schema_version=1,
        subject=subject.name,
        fingerprint=subject.fingerprint,
        films=len(films),
        classes=classes,
        groups=groups,
        findings=findings.by_severity(found),
        counts=tuple(distributions.counts(films, patients)),
        identical=tuple(same),
        near=tuple(near),
        near_distance=NEAR_DISTANCE,
        conflicts=tuple(conflicts),
        patients=tuple(in_several_splits),
        odd=tuple(odd),
        spreads=spreads,
        shares=shares,
        **vars(results),
        disclaimer=DISCLAIMER,
        version=__version__,
        seconds=round(time.monotonic() - started, 1),
    )
