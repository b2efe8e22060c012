"""The files that describe a bundle besides the contract: train films, reference, out-of-fold report and card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import Contract, Gate
from pneumoscope.dataset import Dataset
from pneumoscope.documents import write_document
from pneumoscope.engine import BATCH, Engine
from pneumoscope.engine.reference import About, DecisionStatistics, Reference, save_reference
from pneumoscope.export.calibration import CalibrationSet, judge_out_of_fold
from pneumoscope.export.quantise import evenly_spaced
from pneumoscope.files import write_text
from pneumoscope.imaging import Luma
from pneumoscope.report import (
    CARD_FILE,
    REPORT_FILE,
    FilmResults,
    TrainedFilms,
    model_facts,
    report_out_of_fold,
    save_trained,
    write_bare_card,
    write_card,
)

#: Largest number of films whose embeddings make the reference.
EMBEDDED_FILMS = 480


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleFacts:
    """The facts that describe a bundle.

    Attributes:
        dataset: the data set that it was trained on.
        calibrating: the unseen films that set calibration and thresholds.
        folds: number of folds, if these films are from cross-validation.
        published: whether all films are of the published archive.
        images: inputs of validation films or, if all are train films, of train films, `uint8 [N, 1, S, S]`.
    """

    dataset: Dataset
    calibrating: CalibrationSet
    folds: int | None
    published: bool
    images: Luma


def describe(facts: BundleFacts, engine: Engine, folder: Path) -> None:
    """Write `films.npz`, `reference.npz`, `card.md` and, after cross-validation, `report.json` into a bundle."""
    contract, trained = engine.contract, facts.dataset.split("train")
    results = _cross_fitted_results(facts, contract)
    save_trained(TrainedFilms.of(trained), folder)
    about = About(
        schema_version=1,
        trained_films=len(trained),
        published=facts.published,
        embedded_films=min(len(facts.images), EMBEDDED_FILMS),
        embedded_split="val" if facts.dataset.has("val") else "train",
        answers=_statistics(results, "validation" if facts.folds is None else "out-of-fold", engine.contract.gate),
    )
    save_reference(Reference.of(_embeddings(engine, facts.images), about), folder)
    if facts.folds is None:
        model = model_facts(contract, trained_films=len(trained), published=facts.published)
        write_text(folder / CARD_FILE, write_bare_card(model, contract.classes))
        return
    report = report_out_of_fold(
        contract, results, folds=facts.folds, trained_films=len(trained), published=facts.published
    )
    write_document(report, folder / REPORT_FILE)
    write_text(folder / CARD_FILE, write_card(report))


def _cross_fitted_results(facts: BundleFacts, contract: Contract) -> FilmResults:
    films = facts.calibrating.films
    probabilities, verdicts = judge_out_of_fold(facts.calibrating, contract.calibration.method)
    return FilmResults.of_verdicts(contract, films.patient.astype(str).tolist(), films.truth, probabilities, verdicts)


def _statistics(
    results: FilmResults, source: Literal["validation", "out-of-fold"], gate: Gate | None
) -> DecisionStatistics:
    """The decisions on these films.

    The films did not go through the gate, so `rejected` is the share that the gate's limits were set to reject.
    """
    shares = np.bincount(results.predicted, minlength=len(results.classes)) / len(results.predicted)
    return DecisionStatistics(
        films=len(results.predicted),
        source=source,
        # The gate's own share of false rejections: these films are known by their logits only.
        rejected=gate.false_rejects if gate else float(results.has_status("rejected").mean()),
        abstained=float(results.has_status("abstained").mean()),
        class_shares=dict(zip(results.classes, shares.tolist(), strict=True)),
        mean_probabilities=dict(zip(results.classes, results.probabilities.mean(axis=0).tolist(), strict=True)),
    )


def _embeddings(engine: Engine, images: Luma) -> NDArray[np.float32]:
    """Embeddings `[N, D]` of at most `EMBEDDED_FILMS` of the inputs, evenly spaced over them."""
    chosen = images[evenly_spaced(len(images), EMBEDDED_FILMS)]
    parts = [engine.run(chosen[start : start + BATCH]).embedding for start in range(0, len(chosen), BATCH)]
    return np.concatenate(parts).astype(np.float32)
