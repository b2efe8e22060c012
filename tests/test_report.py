import csv
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumoscope import metrics
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.report import Scored, evaluate, summarise


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.load(tiny_bundle)


def test_the_report_is_what_the_predictions_say(engine: Engine, dataset: Dataset, tmp_path: Path) -> None:
    """Recompute every figure from predictions.csv alone."""
    report = evaluate(engine, dataset, "test", tmp_path)
    assert report == json.loads((tmp_path / "report.json").read_text())
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    classes = report["classes"]
    assert report["n"] == len(rows) == len(dataset.split("test"))
    pairs = Counter((row["label"], row["predicted"]) for row in rows)
    assert report["confusion"] == [[pairs[truth, called] for called in classes] for truth in classes]
    accuracy = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
    sides = sum((row["label"] == "normal") == (row["predicted"] == "normal") for row in rows) / len(rows)
    assert report["metrics"]["group_accuracy"]["pneumonia"]["value"] == pytest.approx(sides, abs=1e-6)
    losses = [-math.log(float(row[f"p_{row['label']}"])) for row in rows]
    assert report["metrics"]["cross_entropy"]["value"] == pytest.approx(np.mean(losses), abs=1e-4)
    truth = np.array([classes.index(row["label"]) for row in rows])
    probabilities = np.array([[float(row[f"p_{label}"]) for label in classes] for row in rows])
    auroc = metrics.macro_auroc(truth, probabilities)
    assert report["metrics"]["macro_auroc"]["value"] == pytest.approx(auroc, abs=1e-3)
    for label in classes:
        own = [row for row in rows if row["label"] == label]
        sensitivity = sum(row["predicted"] == label for row in own) / len(own)
        assert report["per_class"][label]["sensitivity"]["value"] == pytest.approx(sensitivity, abs=1e-6)
        assert set(report["per_class"][label]) == {"sensitivity", "specificity", "precision", "f1", "auroc"}


def test_the_report_says_where_it_comes_from(engine: Engine, dataset: Dataset, tmp_path: Path) -> None:
    report = evaluate(engine, dataset, "val", tmp_path)
    assert report["dataset"]["split"] == "val"
    assert report["dataset"]["fingerprint"] == report["dataset"]["trained_on"] == dataset.fingerprint
    assert report["model"]["sha256"] == engine.contract.files["model.onnx"]
    assert report["statuses"] == {"answered": report["n"]}
    assert "Not a medical device" in report["intended_use"]


def test_undefined_figures_are_null(engine: Engine, dataset: Dataset) -> None:
    films = [film for film in dataset.split("val") if film.label == "normal"]
    probabilities = np.tile([0.2, 0.5, 0.3], (len(films), 1))
    scored = Scored(
        films=films,
        statuses=["answered"] * len(films),
        truth=np.full(len(films), 1, np.int64),
        probabilities=probabilities,
    )
    report = summarise(scored, engine.contract, dataset, "val")
    assert report["per_class"]["virus"]["sensitivity"] == {"value": None}
    assert report["per_class"]["normal"]["sensitivity"] == {"value": 1.0}
    assert report["metrics"]["macro_auroc"] == {"value": None}
    json.dumps(report, allow_nan=False)


def test_other_classes_are_refused(engine: Engine, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="they must be the same"):
        evaluate(engine, replace(dataset, classes=("cat", "dog")), "test", tmp_path)
    assert not list(tmp_path.iterdir())


def test_class_order_comes_from_the_bundle(engine: Engine, dataset: Dataset, tmp_path: Path) -> None:
    expected = evaluate(engine, dataset, "test", tmp_path / "a")
    with pytest.raises(UsageError, match="exists already"):
        evaluate(engine, dataset, "test", tmp_path / "a")
    evaluate(engine, dataset, "test", tmp_path / "a", overwrite=True)
    turned = replace(dataset, classes=dataset.classes[::-1])
    assert evaluate(engine, turned, "test", tmp_path / "b")["confusion"] == expected["confusion"]
