"""How a bundle does on a split: predictions against the manifest, as `report.json` and a table."""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumoscope import metrics
from pneumoscope.contract import DISCLAIMER, Contract
from pneumoscope.dataset import Dataset, Film
from pneumoscope.engine import Encoded, Engine, Rule
from pneumoscope.engine.bundle import model_name
from pneumoscope.errors import DatasetError
from pneumoscope.files import whole_directory, write_json, write_text
from pneumoscope.progress import SILENT, Listener

REPORT_FILE, PREDICTIONS_FILE = "report.json", "predictions.csv"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What an engine said of a split: `truth` is `int64 [N]`, `probabilities` is `float64 [N, C]`."""

    films: list[Film]
    statuses: list[str]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def score(
    engine: Engine, dataset: Dataset, split: str, *, rule: Rule | None = None, listener: Listener = SILENT
) -> Scored:
    """Run a split through the engine from the files' bytes, as a server would; `rule` is the engine's.

    Raises:
        DatasetError: the bundle's classes are not the data set's, or a film cannot be read.
    """
    classes = engine.contract.classes
    if set(classes) != set(dataset.classes):
        raise DatasetError(
            f"the bundle knows {', '.join(classes)}, the data set {', '.join(dataset.classes)}; they must be the same."
        )
    films = dataset.split(split)
    encoded = (Encoded(name=film.path, read=partial(dataset.read, film)) for film in films)
    predictions = []
    for prediction in listener.track(f"evaluating {split}", engine.predict_many(encoded, rule=rule), len(films)):
        if prediction.status == "rejected":
            raise DatasetError(f"{prediction.image} cannot be evaluated: {'; '.join(prediction.reasons)}")
        predictions.append(prediction)
    return Scored(
        films=films,
        statuses=[prediction.status for prediction in predictions],
        truth=np.array([classes.index(film.label) for film in films], np.int64),
        probabilities=np.array([[prediction.probabilities[label] for label in classes] for prediction in predictions]),
    )


def evaluate(
    engine: Engine,
    dataset: Dataset,
    split: str,
    out: Path,
    *,
    rule: Rule | None = None,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Score a split, make the folder `out` with `report.json` and `predictions.csv`, return the report."""
    with whole_directory(out, overwrite=overwrite, holding=REPORT_FILE) as folder:
        scored = score(engine, dataset, split, rule=rule, listener=listener)
        report = summarise(scored, engine.contract, dataset, split)
        write_text(folder / PREDICTIONS_FILE, _predictions(scored, engine.contract.classes))
        write_json(folder / REPORT_FILE, report)
    return report


def summarise(scored: Scored, contract: Contract, dataset: Dataset, split: str) -> dict[str, Any]:
    """The report as JSON values. Every metric is `{"value": …}`; what is undefined is null.

    All films count, also those the decision would abstain on: the class is the most probable one.
    """
    predicted = scored.probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(scored.truth, predicted, len(contract.classes))
    return {
        "schema_version": 1,
        "intended_use": DISCLAIMER,
        "n": len(scored.films),
        "classes": list(contract.classes),
        "statuses": dict(sorted(Counter(scored.statuses).items())),
        "confusion": confusion.tolist(),
        "metrics": {
            "accuracy": _metric(metrics.accuracy(confusion)),
            "macro_f1": _metric(metrics.macro_f1(confusion)),
            "macro_auroc": _metric(metrics.macro_auroc(scored.truth, scored.probabilities)),
            "mcc": _metric(metrics.mcc(confusion)),
            "cross_entropy": _metric(metrics.cross_entropy(scored.truth, scored.probabilities)),
            "group_accuracy": {
                group: _metric(metrics.group_accuracy(confusion, [contract.classes.index(label) for label in members]))
                for group, members in contract.groups.items()
            },
        },
        "per_class": _per_class(scored, confusion, contract.classes),
        "model": model_name(contract),
        "dataset": {
            "split": split,
            "patients": len({film.patient for film in scored.films}),
            "fingerprint": dataset.fingerprint,
            "trained_on": contract.provenance.dataset,
        },
    }


def _per_class(scored: Scored, confusion: metrics.Counts, classes: tuple[str, ...]) -> dict[str, Any]:
    columns = {
        "sensitivity": metrics.sensitivity(confusion),
        "specificity": metrics.specificity(confusion),
        "precision": metrics.precision(confusion),
        "f1": metrics.f1(confusion),
        "auroc": metrics.class_aurocs(scored.truth, scored.probabilities),
    }
    return {
        label: {name: _metric(values[index]) for name, values in columns.items()} for index, label in enumerate(classes)
    }


def _metric(value: float | metrics.Floats) -> dict[str, float | None]:
    return {"value": metrics.finite(value)}


def _predictions(scored: Scored, classes: tuple[str, ...]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "patient", "label", "predicted", "status", *(f"p_{label}" for label in classes)])
    for film, status, row in zip(scored.films, scored.statuses, scored.probabilities, strict=True):
        predicted = classes[int(row.argmax())]
        shares = (f"{value:.9f}" for value in row)  # fewer digits tie films, and move an AUROC recomputed from them
        writer.writerow([film.path, film.patient, film.label, predicted, status, *shares])
    return stream.getvalue()
