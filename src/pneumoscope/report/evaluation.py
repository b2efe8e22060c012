"""Puts the report on a bundle together, from the results of one pass over a split or those of cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pneumoscope import __version__, metrics
from pneumoscope.contract import DISCLAIMER, Contract
from pneumoscope.dataset import Dataset, Record
from pneumoscope.documents import read_document, write_document
from pneumoscope.engine import Engine, Rule
from pneumoscope.engine.bundle import CPU, model_name
from pneumoscope.engine.reference import Reference, load_reference
from pneumoscope.errors import BundleError
from pneumoscope.files import whole_directory, write_text
from pneumoscope.metrics import Prior
from pneumoscope.progress import SILENT, Listener
from pneumoscope.report.card import CARD_FILE, write_card
from pneumoscope.report.compare import check_classes, compare
from pneumoscope.report.document import REPORT_FILE, Films, ModelFacts, Report, Seen, Shortcuts, UnjudgedFilm
from pneumoscope.report.external import MappedFilms, describe_external, map_films, read_map
from pneumoscope.report.figures import (
    RESAMPLES,
    Cutoff,
    curves,
    decisions,
    figures,
    operating_points,
    plain_cutoffs,
    sets,
)
from pneumoscope.report.latency import latency
from pneumoscope.report.page import draw_page
from pneumoscope.report.scoring import FilmResults, SplitResults, predictions_table, score, score_films
from pneumoscope.report.shortcuts import NOT_REQUESTED, shortcuts
from pneumoscope.report.subgroups import subgroups
from pneumoscope.report.trained import load_trained, refuse_trained

PREDICTIONS_FILE, PAGE_FILE = "predictions.csv", "report.html"
_OWN_SPLITS = {"train", "val", "stress"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `evaluate`.

    Attributes:
        coverage: the coverage to decide by, one of those in the contract's table; by default the contract's own.
        compare: folder of another bundle to evaluate on the same films.
        external: a mapping file, for a data set whose labels are not the bundle's classes.
        shortcuts: also train and test the audit's shortcut baselines.
    """

    coverage: float | None = None
    compare: Path | None = None
    external: Path | None = None
    shortcuts: bool = True


DEFAULTS = Options()


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A loaded bundle, and whether it was trained on the films."""

    bundle: Path
    engine: Engine
    rule: Rule
    reference: Reference | None
    seen: Seen

    @property
    def contract(self) -> Contract:
        return self.engine.contract


def evaluate(
    bundle: Path,
    dataset: Dataset,
    split: str,
    out: Path,
    options: Options = DEFAULTS,
    *,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> Report:
    """Report on a split, and make the folder `out`: `report.json`, `report.html`, `card.md`, `predictions.csv`.

    Args:
        bundle: folder of the bundle.
        dataset: of the films.
        split: name of the split; films that the bundle was trained on are refused, except in the splits train, val and
            stress of its run's own data set.
        out: the folder to make.
        options: further parts of the report.
        overwrite: replace an earlier report.
        listener: is notified of progress.

    Raises:
        UsageError: the bundle was trained on films of the split, the mapping file does not fit, or `out` exists.
        DatasetError: there is no such split, its classes differ from the bundle's, a file has changed since
            `data prepare`, or no film reaches the model.
        BundleError: a folder is not a bundle, or is damaged.
    """
    films = dataset.split(split)
    with whole_directory(out, overwrite=overwrite, holding=REPORT_FILE) as folder:
        subject = _open(bundle, dataset, films, split, options.coverage)
        mapped = None
        if options.external is not None:
            mapped = map_films(films, read_map(options.external), subject.contract)
        other = None if options.compare is None else _open(options.compare, dataset, films, split, options.coverage)
        if other is not None:
            check_classes(subject.engine, other.engine)
        results = _score(subject, dataset, split, mapped, listener)
        compared = None if other is None else _score(other, dataset, split, mapped, listener)
        baselines = shortcuts(dataset, results.films, split, listener) if options.shortcuts else NOT_REQUESTED
        report = _report_split(subject, dataset, split, results, mapped, baselines)
        if other is not None and compared is not None:
            priors = _prior(subject.contract, mapped), _prior(other.contract, mapped)
            comparison = compare(results, compared, other.engine.model, seen=other.seen, priors=priors)
            report = report.model_copy(update={"comparison": comparison})
        write_text(folder / PREDICTIONS_FILE, predictions_table(results))
        write_document(report, folder / REPORT_FILE)
        write_text(folder / PAGE_FILE, draw_page(report, results.mistakes))
        write_text(folder / CARD_FILE, write_card(report))
    return report


def report_out_of_fold(
    contract: Contract, results: FilmResults, *, folds: int, trained_films: int, published: bool
) -> Report:
    """The report on cross-validation, in which a network that has not seen a film's patient predicts the film.

    It has no subgroups, times or pictures of errors, since the films themselves are not available.
    """
    return _report(
        contract,
        results,
        _prior(contract, None),
        contract.decision.coverage,
        kind="out-of-fold",
        model=model_facts(contract, trained_films=trained_films, published=published),
        split="out-of-fold",
        fingerprint=contract.provenance.dataset,
        seen="no",
        folds=folds,
        shortcuts=Shortcuts(trained_on="", baselines=(), not_measured="the films are not at hand; see `data audit`"),
    )


def load_report(bundle: Path, contract: Contract) -> Report | None:
    """The out-of-fold report of a bundle; None if its contract does not list one.

    Raises:
        BundleError: the file is not a valid report.
    """
    if REPORT_FILE not in contract.files:
        return None
    try:
        return read_document(Report, (bundle / REPORT_FILE).read_bytes())
    except ValueError as failure:
        raise BundleError(f"{bundle / REPORT_FILE} is not valid: {failure}; export the bundle again.") from failure


def model_facts(contract: Contract, *, trained_films: int | None, published: bool | None) -> ModelFacts:
    """The part of a report that describes the model."""
    origin, name = contract.provenance, model_name(contract)
    return ModelFacts(
        **name,
        intended_use=contract.intended_use,
        arch=origin.arch,
        recipe=origin.recipe,
        initial_weights=origin.weights,
        precision=contract.precision,
        input_size=contract.input.size,
        prior=prior_of(contract),
        age_years=contract.population.age_years,
        drawings=contract.population.drawings,
        dataset=origin.dataset,
        trained_films=trained_films,
        published=published,
    )


def _open(bundle: Path, dataset: Dataset, films: Sequence[Record], split: str, coverage: float | None) -> _Subject:
    """Load a bundle, and refuse films that it was trained on."""
    engine = Engine.load(bundle, limits=dataset.limits)
    contract = engine.contract
    seen: Seen
    if contract.provenance.dataset == dataset.fingerprint and split in _OWN_SPLITS:
        seen = "own split"
    elif (trained := load_trained(bundle, contract)) is None:
        seen = "unknown"
    else:
        # Phantoms resemble each other so much that near duplicates say nothing; only equal pixels count.
        overlap = trained.overlap(films, near=not contract.population.drawings)
        refuse_trained(overlap, len(films), f"split {split!r} of {dataset.root}", contract.name)
        seen = "no"
    rule, reference = engine.rule(coverage=coverage), load_reference(bundle, contract)
    return _Subject(bundle=bundle, engine=engine, rule=rule, reference=reference, seen=seen)


def _score(
    subject: _Subject, dataset: Dataset, split: str, mapped: MappedFilms | None, listener: Listener
) -> SplitResults:
    if mapped is None:
        return score(subject.engine, dataset, split, rule=subject.rule, listener=listener)
    films, scheme, labels = mapped.films, mapped.scheme, mapped.labels
    return score_films(subject.engine, dataset, films, scheme, labels, rule=subject.rule, listener=listener)


def _report_split(
    subject: _Subject,
    dataset: Dataset,
    split: str,
    results: SplitResults,
    mapped: MappedFilms | None,
    baselines: Shortcuts,
) -> Report:
    """The report on a split, without the comparison with another model."""
    contract, about = subject.contract, None if subject.reference is None else subject.reference.about
    report = _report(
        contract,
        results,
        _prior(contract, mapped),
        subject.rule.row.coverage,
        kind="split" if mapped is None else "external",
        model=model_facts(
            contract,
            trained_films=None if about is None else about.trained_films,
            published=None if about is None else about.published,
        ),
        split=split,
        fingerprint=dataset.fingerprint,
        seen=subject.seen,
        unjudged=tuple(results.unjudged),
        shortcuts=baselines,
    )
    own = None if mapped is None else load_report(subject.bundle, contract)
    return report.model_copy(
        update={
            "notes": _notes(subject, split),
            "subgroups": subgroups(results),
            "latency": latency(results, CPU),
            "external": None if mapped is None else describe_external(mapped, report.per_class, own),
        }
    )


def _report(
    contract: Contract,
    results: FilmResults,
    prior: Prior,
    coverage: float | None,
    *,
    kind: Literal["split", "external", "out-of-fold"],
    model: ModelFacts,
    shortcuts: Shortcuts,
    split: str,
    fingerprint: str,
    seen: Seen,
    unjudged: tuple[UnjudgedFilm, ...] = (),
    folds: int | None = None,
) -> Report:
    """The parts that every report has, from the results on its films."""
    found = figures(results, prior)
    # The bundle's thresholds belong to its own classes and groups, not to the names of an external data set.
    stored = [] if kind == "external" else _stored_cutoffs(contract)
    return Report(
        schema_version=3,
        kind=kind,
        intended_use=DISCLAIMER,
        pneumoscope=__version__,
        model=model,
        dataset=Films(
            split=split,
            fingerprint=fingerprint,
            trained_on=contract.provenance.dataset,
            patients=len(set(results.patients)),
            unjudged=unjudged,
            seen=seen,
            folds=folds,
            shares=_shares(results),
        ),
        notes=(),
        n=len(results.truth),
        resamples=RESAMPLES,
        classes=results.classes,
        groups=dict(results.groups),
        confusion=_confusion(results),
        metrics=found.overall,
        per_class=found.per_class,
        per_group=found.per_group,
        calibration_at="uniform" if prior == "uniform" else "films",
        points=operating_points(results, [*stored, *plain_cutoffs(results)]),
        decisions=decisions(results),
        sets=sets(results, coverage),
        curves=curves(results, prior),
        subgroups=(),
        shortcuts=shortcuts,
        latency=None,
        comparison=None,
        external=None,
    )


def _notes(subject: _Subject, split: str) -> tuple[str, ...]:
    """Warnings that a reader must see before any figure."""
    notes = []
    if subject.seen == "own split":
        note_by_split = {
            "train": "The model was TRAINED ON THESE FILMS: the figures say nothing about films that it has not seen.",
            "val": "These are the run's own validation films, by which settings and thresholds were chosen: their "
            "figures flatter the model.",
            "stress": "These are altered copies of the run's own validation films: they serve to choose a model, not "
            "to evaluate it.",
        }
        notes.append(note_by_split[split])
    if subject.seen == "unknown":
        notes.append(
            "This bundle does not list the films that it was trained on; some of these may be among them. "
            "Export it again to find out."
        )
    if subject.contract.population.drawings:
        notes.append("The model was trained on drawings, not on radiographs; its figures say nothing about patients.")
    return tuple(notes)


def _prior(contract: Contract, mapped: MappedFilms | None) -> Prior:
    """The class frequencies that the probabilities assume; for an external set "train", which keeps its films' own."""
    return prior_of(contract) if mapped is None else "train"


def prior_of(contract: Contract) -> Prior:
    """The class frequencies that a contract's probabilities assume: equal ones, or those of the train films."""
    prior = contract.calibration.prior
    if prior is None:
        return "train"
    return "uniform" if np.allclose(list(prior.values()), 1 / len(prior), atol=1e-6) else "train"


def _stored_cutoffs(contract: Contract) -> list[Cutoff]:
    """The operating points of a contract."""
    points = contract.decision.operating_points
    return [Cutoff(name=point.name, of=point.group, threshold=point.threshold) for point in points]


def _confusion(results: FilmResults) -> tuple[tuple[int, ...], ...]:
    table = metrics.confusion_matrix(results.truth, results.predicted, len(results.classes))
    return tuple(tuple(row) for row in table.tolist())


def _shares(results: FilmResults) -> dict[str, float]:
    """The share of the films in each class and group."""
    shares = {label: float(np.mean(results.truth == at)) for at, label in enumerate(results.classes)}
    return shares | {group: float(results.inside(group)[results.truth].mean()) for group in results.groups}
