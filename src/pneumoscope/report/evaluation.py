"""How a bundle does on a split: one pass, and every part of the report."""

import csv
import io
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
from pneumoscope.report.document import REPORT_FILE, Films, LostFilm, ModelFacts, Report, Seen, Shortcuts
from pneumoscope.report.external import Mapped, describe, map_films, read_map
from pneumoscope.report.figures import DRAWS, Cutoff, curves, decisions, figures, operating_points, plain_cutoffs, sets
from pneumoscope.report.latency import latency
from pneumoscope.report.page import draw_page
from pneumoscope.report.scoring import Judged, Scored, score, score_films
from pneumoscope.report.shortcuts import NOT_ASKED, shortcuts
from pneumoscope.report.subgroups import subgroups
from pneumoscope.report.trained import load_trained, refuse_trained

PREDICTIONS_FILE, PAGE_FILE = "predictions.csv", "report.html"
_OWN_SPLITS = {"train", "val", "stress"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What else to report on.

    Attributes:
        coverage: a row of the bundle's table of coverages to decide by; by default the bundle's own.
        compare: folder of another bundle to judge on the same films.
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
    """A bundle, opened, and whether it was trained on the films."""

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
        split: its name; films that the bundle was trained on are refused, except in its run's own data set.
        out: the folder to make.
        options: what else to report on.
        overwrite: replace an earlier report.
        listener: hears of progress.

    Raises:
        UsageError: films of the split were trained on, a mapping does not fit, or `out` exists.
        DatasetError: no such split, other classes, a file that is not the manifest's, or no decodable film.
        BundleError: not a bundle.
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
        scored = _score(subject, dataset, split, mapped, listener)
        compared = None if other is None else _score(other, dataset, split, mapped, listener)
        told = shortcuts(dataset, scored.films, split, listener) if options.shortcuts else NOT_ASKED
        report = _report(subject, dataset, split, scored, mapped, told)
        if other is not None and compared is not None:
            priors = _prior(subject.contract, mapped), _prior(other.contract, mapped)
            comparison = compare(scored, compared, other.engine.model, seen=other.seen, priors=priors)
            report = report.model_copy(update={"comparison": comparison})
        write_text(folder / PREDICTIONS_FILE, _predictions(scored))
        write_document(report, folder / REPORT_FILE)
        write_text(folder / PAGE_FILE, draw_page(report, scored.mistakes))
        write_text(folder / CARD_FILE, write_card(report))
    return report


def report_out_of_fold(
    contract: Contract, judged: Judged, *, folds: int, trained_films: int, published: bool
) -> Report:
    """The report of films that cross-validation judged, each by a network that has not seen its patient.

    There are no films at hand: no subgroups, no times, no errors to look at.
    """
    prior = _prior(contract, None)
    found = figures(judged, prior)
    return Report(
        schema_version=2,
        kind="out-of-fold",
        intended_use=DISCLAIMER,
        pneumoscope=__version__,
        model=model_facts(contract, trained_films=trained_films, published=published),
        dataset=Films(
            split="out-of-fold",
            fingerprint=contract.provenance.dataset,
            trained_on=contract.provenance.dataset,
            patients=len(set(judged.patients)),
            undecodable=(),
            seen="no",
            folds=folds,
            shares=_shares(judged),
        ),
        notes=(),
        n=len(judged.truth),
        resamples=DRAWS,
        classes=judged.classes,
        groups=dict(judged.groups),
        confusion=_confusion(judged),
        metrics=found.overall,
        per_class=found.per_class,
        per_group=found.per_group,
        calibration_at=_at(prior),
        points=operating_points(judged, [*_stored(contract), *plain_cutoffs(judged)]),
        decisions=decisions(judged),
        sets=sets(judged, contract.decision.coverage),
        curves=curves(judged, prior),
        subgroups=(),
        shortcuts=Shortcuts(trained_on="", baselines=(), not_measured="the films are not at hand; see `data audit`"),
        latency=None,
        comparison=None,
        external=None,
    )


def load_report(bundle: Path, contract: Contract) -> Report | None:
    """The out-of-fold report that lies in a bundle; None if its contract names none.

    Raises:
        BundleError: it is not a report.
    """
    if REPORT_FILE not in contract.files:
        return None
    try:
        return read_document(Report, (bundle / REPORT_FILE).read_bytes())
    except ValueError as failure:
        raise BundleError(f"{bundle / REPORT_FILE} is not valid: {failure}; export the bundle again.") from failure


def model_facts(contract: Contract, *, trained_films: int | None, published: bool | None) -> ModelFacts:
    """What a report says of the model itself."""
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
    """Open a bundle for films, and refuse those that it was trained on."""
    engine = Engine.load(bundle, limits=dataset.limits)
    contract = engine.contract
    seen: Seen
    if contract.provenance.dataset == dataset.fingerprint and split in _OWN_SPLITS:
        seen = "own split"
    elif (trained := load_trained(bundle, contract)) is None:
        seen = "unknown"
    else:
        # Drawings of one kind are all much alike; their pixels tell them apart.
        overlap = trained.overlap(films, near=not contract.population.drawings)
        refuse_trained(overlap, len(films), f"split {split!r} of {dataset.root}", contract.name)
        seen = "no"
    rule, reference = engine.rule(coverage=coverage), load_reference(bundle, contract)
    return _Subject(bundle=bundle, engine=engine, rule=rule, reference=reference, seen=seen)


def _score(subject: _Subject, dataset: Dataset, split: str, mapped: Mapped | None, listener: Listener) -> Scored:
    if mapped is None:
        return score(subject.engine, dataset, split, rule=subject.rule, listener=listener)
    films, level, labels = mapped.films, mapped.level, mapped.labels
    return score_films(subject.engine, dataset, films, level, labels, rule=subject.rule, listener=listener)


def _report(
    subject: _Subject, dataset: Dataset, split: str, scored: Scored, mapped: Mapped | None, told: Shortcuts
) -> Report:
    contract, about = subject.contract, None if subject.reference is None else subject.reference.about
    prior = _prior(contract, mapped)
    found = figures(scored, prior)
    stored = _stored(contract) if mapped is None else []
    external = None
    if mapped is not None:
        external = describe(mapped, found, load_report(subject.bundle, contract))
    return Report(
        schema_version=2,
        kind="split" if mapped is None else "external",
        intended_use=DISCLAIMER,
        pneumoscope=__version__,
        model=model_facts(
            contract,
            trained_films=None if about is None else about.trained_films,
            published=None if about is None else about.published,
        ),
        dataset=Films(
            split=split,
            fingerprint=dataset.fingerprint,
            trained_on=contract.provenance.dataset,
            patients=len(set(scored.patients)),
            undecodable=tuple(LostFilm(**vars(each)) for each in scored.undecodable),
            seen=subject.seen,
            folds=None,
            shares=_shares(scored),
        ),
        notes=_notes(subject, split),
        n=len(scored.films),
        resamples=DRAWS,
        classes=scored.classes,
        groups=dict(scored.groups),
        confusion=_confusion(scored),
        metrics=found.overall,
        per_class=found.per_class,
        per_group=found.per_group,
        calibration_at=_at(prior),
        points=operating_points(scored, [*stored, *plain_cutoffs(scored)]),
        decisions=decisions(scored),
        sets=sets(scored, subject.rule.row.coverage),
        curves=curves(scored, prior),
        subgroups=subgroups(scored),
        shortcuts=told,
        latency=latency(scored, CPU),
        comparison=None,
        external=external,
    )


def _notes(subject: _Subject, split: str) -> tuple[str, ...]:
    """What must be said before any figure."""
    notes = []
    if subject.seen == "own split":
        words = {
            "train": "The model was TRAINED ON THESE FILMS: the figures say nothing about films that it has not seen.",
            "val": "These are the run's own validation films, which settings and thresholds were chosen by: figures of "
            "them flatter the model.",
            "stress": "These are the run's own validation films, changed: they serve to choose a model, not to judge "
            "it.",
        }
        notes.append(words[split])
    if subject.seen == "unknown":
        notes.append(
            "This bundle does not say which films it was trained on, so that some of these may be among them; "
            "export it again to know."
        )
    if subject.contract.population.drawings:
        notes.append("The model was trained on drawings; its figures say nothing about patients.")
    return tuple(notes)


def _prior(contract: Contract, mapped: Mapped | None) -> Prior:
    """The frequencies that the probabilities assume; at other names than the classes, the films' own."""
    return prior_of(contract) if mapped is None else "train"


def prior_of(contract: Contract) -> Prior:
    """The prior of a contract's probabilities: equal frequencies of the classes, or those of the train films."""
    prior = contract.calibration.prior
    if prior is None:
        return "train"
    return "uniform" if np.allclose(list(prior.values()), 1 / len(prior), atol=1e-6) else "train"


def _at(prior: Prior) -> Literal["uniform", "films"]:
    return "uniform" if prior == "uniform" else "films"


def _stored(contract: Contract) -> list[Cutoff]:
    """The operating points of a contract."""
    points = contract.decision.operating_points
    return [Cutoff(name=point.name, of=point.group, threshold=point.threshold) for point in points]


def _confusion(judged: Judged) -> tuple[tuple[int, ...], ...]:
    table = metrics.confusion_matrix(judged.truth, judged.predicted, len(judged.classes))
    return tuple(tuple(row) for row in table.tolist())


def _shares(judged: Judged) -> dict[str, float]:
    """How frequent each class and group is among the films."""
    shares = {label: float(np.mean(judged.truth == at)) for at, label in enumerate(judged.classes)}
    return shares | {group: float(judged.inside(group)[judged.truth].mean()) for group in judged.groups}


def _predictions(scored: Scored) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = scored.classes
    shares = (f"p_{label}" for label in names)
    writer.writerow(["path", "patient", "label", "predicted", "status", *shares, "set", "reason_codes"])
    for row, film in enumerate(scored.films):
        writer.writerow(
            [
                film.path,
                film.patient,
                names[scored.truth[row]],
                names[scored.predicted[row]],
                scored.statuses[row],
                # fewer digits tie films, and move an AUROC recomputed from them
                *(f"{value:.9f}" for value in scored.probabilities[row]),
                "; ".join(label for label, held in zip(names, scored.sets[row], strict=True) if held),
                "; ".join(scored.codes[row]),
            ]
        )
    return stream.getvalue()
