"""The report on a split: its figures recomputed from the predictions, its counts, and its warnings."""

import csv
import hashlib
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics as reference

from pneumoscope.contract import load_contract, save_contract
from pneumoscope.dataset import Dataset, Record
from pneumoscope.documents import read_document
from pneumoscope.engine import Engine, Prediction
from pneumoscope.engine.decision import reject
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.imaging import Reason
from pneumoscope.report import Options, Report, SplitResults, evaluate, score
from pneumoscope.report.figures import (
    HALF,
    MOST_PROBABLE,
    decisions,
    figures,
    sets,
)
from pneumoscope.report.latency import processor
from pneumoscope.report.scoring import LabelScheme
from pneumoscope.report.subgroups import subgroups

PLAIN = Options(shortcuts=False)


@pytest.fixture(scope="module")
def written_report(
    tiny_bundle: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("reports") / "test"
    return out, evaluate(tiny_bundle, dataset, "test", out)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_figures_agree_with_the_predictions(written_report: tuple[Path, Report], dataset: Dataset) -> None:
    """Recompute figures with scikit-learn, from predictions.csv only."""
    out, report = written_report
    rows, classes = rows_of(out), report.classes
    assert report.n == len(rows) == len(dataset.split("test"))
    pairs = Counter((row["label"], row["predicted"]) for row in rows)
    assert report.confusion == tuple(tuple(pairs[truth, called] for called in classes) for truth in classes)
    truth = np.array([classes.index(row["label"]) for row in rows])
    shares = np.array([[float(row[f"p_{label}"]) for label in classes] for row in rows])
    called = np.array([classes.index(row["predicted"]) for row in rows])
    assert called.tolist() == shares.argmax(axis=1).tolist()
    expected = {
        "accuracy": np.mean(truth == called),
        "balanced_accuracy": reference.balanced_accuracy_score(truth, called),
        "macro_f1": reference.f1_score(truth, called, average="macro", zero_division=0),
        "mcc": reference.matthews_corrcoef(truth, called),
        "macro_auroc": reference.roc_auc_score(truth, shares / shares.sum(axis=1, keepdims=True), multi_class="ovr"),
        "cross_entropy": -np.mean([math.log(shares[row, label]) for row, label in enumerate(truth)]),
        "brier": np.mean(((shares - np.eye(3)[truth]) ** 2).sum(axis=1)),
    }
    for name, value in expected.items():
        assert report.metrics[name].value == pytest.approx(value, abs=2e-6), name
    sick = truth != classes.index("normal")
    assert report.per_group["pneumonia"]["auroc"].value == pytest.approx(
        reference.roc_auc_score(sick, shares[:, [0, 2]].sum(axis=1)), abs=2e-6
    )
    for at, label in enumerate(classes):
        figure = report.per_class[label]["average_precision"].value
        assert figure == pytest.approx(reference.average_precision_score(truth == at, shares[:, at]), abs=2e-6)


def test_the_document_is_read_back_and_every_interval_contains_its_figure(written_report: tuple[Path, Report]) -> None:
    out, report = written_report
    stored = read_document(Report, (out / "report.json").read_bytes())
    assert stored == report
    assert stored.schema_version == 3
    found = [*report.metrics.values(), *(f for part in report.per_class.values() for f in part.values())]
    found += [f for point in report.points for f in (point.sensitivity, point.specificity, point.ppv, point.npv)]
    assert len(found) > 50
    for figure in found:
        if figure.value is not None and figure.low is not None and figure.high is not None:
            assert figure.low - 1e-6 <= figure.value <= figure.high + 1e-6
    for name in ("report.html", "card.md", "predictions.csv"):
        assert (out / name).is_file()


def test_the_report_names_its_model_and_data_set(
    engine: Engine, written_report: tuple[Path, Report], dataset: Dataset
) -> None:
    _, report = written_report
    assert report.dataset.split == "test"
    assert report.dataset.fingerprint == report.dataset.trained_on == dataset.fingerprint
    assert report.dataset.seen == "no"
    assert report.model.sha256 == engine.contract.files["model.onnx"]
    assert report.model.trained_films == len(dataset.split("train"))
    assert "Not a medical device" in report.intended_use
    assert report.latency is not None
    assert report.latency.cores >= 1
    assert report.latency.films_per_second > 0
    assert report.decisions.statuses.keys() == {"answered", "abstained", "rejected"}
    assert sum(report.decisions.statuses.values()) == report.n
    stored = [point for point in report.points if point.name not in (MOST_PROBABLE, HALF)]
    assert [p.name for p in stored] == [p.name for p in engine.contract.decision.operating_points]
    assert report.sets.level == engine.contract.decision.coverage


def test_the_same_command_gives_the_same_document(
    tiny_bundle: Path, written_report: tuple[Path, Report], dataset: Dataset, tmp_path: Path
) -> None:
    """Intervals come from a fixed seed; only times differ."""
    again = evaluate(tiny_bundle, dataset, "test", tmp_path / "again")
    assert again.model_copy(update={"latency": None}) == written_report[1].model_copy(update={"latency": None})


@pytest.mark.parametrize(("split", "message"), [("train", "TRAINED ON THESE FILMS"), ("val", "validation films")])
def test_a_report_on_a_runs_own_films_has_a_prominent_warning(
    split: str,
    message: str,
    tiny_bundle: Path,
    dataset: Dataset,
    tmp_path: Path,
    command: Callable[..., SimpleNamespace],
) -> None:
    done = command(
        *("evaluate", dataset.root, "--bundle", tiny_bundle, "--split", split, "--out", tmp_path / "r"),
        "--no-shortcuts",
    )
    assert done.code == 0, done.err
    assert f"NOTE: {'The model was ' * (split == 'train')}" in done.out
    assert message in done.out
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["dataset"]["seen"] == "own split"
    assert message in report["notes"][0]
    assert message in (tmp_path / "r" / "report.html").read_text().replace("&#39;", "'")
    assert message in (tmp_path / "r" / "card.md").read_text()


def test_a_film_that_cannot_be_decoded_is_listed(tiny_bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    """The manifest has the damaged file's hash, as if another decoder could read it when the data set was made."""
    root = Path(shutil.copytree(dataset.root, tmp_path / "data"))
    spoilt = dataset.split("test")[0]
    (root / spoilt.path).write_bytes(b"no image")
    films = tuple(
        replace(film, file_sha256=hashlib.sha256(b"no image").hexdigest()) if film == spoilt else film
        for film in dataset.films
    )
    report = evaluate(tiny_bundle, replace(dataset, root=root, films=films), "test", tmp_path / "out", PLAIN)
    assert report.n == len(dataset.split("test")) - 1
    (lost,) = report.dataset.unjudged
    assert (lost.film, lost.code) == (spoilt.path, "undecodable")
    assert spoilt.path in (tmp_path / "out" / "report.html").read_text()


def test_a_split_without_a_decodable_film_is_an_error_of_one_sentence(
    engine: Engine, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"")
    empty = replace(dataset.split("test")[0], path="x", file_sha256=hashlib.sha256(b"").hexdigest())
    with pytest.raises(DatasetError, match="none of the 1 films reached the model: the file is empty"):
        score(engine, replace(dataset, root=tmp_path, films=(empty,)), "test")


def test_rejected_films_count_in_the_figures_and_are_listed_by_reason(
    engine: Engine, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film that the gate rejects keeps the model's outputs, and so counts in the figures."""
    whole = score(engine, dataset, "test")
    predict_many = engine.predict_many

    def gated(*args: object, **options: object) -> object:
        for number, each in enumerate(predict_many(*args, **options)):  # type: ignore[arg-type]
            if number % 4:
                yield each
                continue
            verdict = reject(engine.contract, Reason("photograph", "it is a colour photograph"))
            yield Prediction(**(vars(each) | vars(verdict) | {"probabilities": {}, "groups": {}}))

    monkeypatch.setattr(engine, "predict_many", gated)
    scored = score(engine, dataset, "test")
    np.testing.assert_allclose(scored.probabilities, whole.probabilities)
    found = decisions(scored)
    assert found.statuses["rejected"] == math.ceil(len(scored.films) / 4)
    assert found.rejected_for == {"photograph": found.statuses["rejected"]}
    assert sets(scored, 0.9).all.films == len(scored.films) - found.statuses["rejected"]
    assert figures(scored, "train") == figures(whole, "train")


def test_subgroups_are_parts_of_the_films(engine: Engine, dataset: Dataset) -> None:
    films = [replace(film, mode="L" if number % 2 else "RGB") for number, film in enumerate(dataset.films)]
    whole = score(engine, replace(dataset, films=tuple(replace(film, split="test") for film in films)), "test")
    found = subgroups(whole)
    modes = {each.value: each for each in found if each.quantity == "manifest: mode"}
    assert {name: each.films for name, each in modes.items()} == {"L": 45, "RGB": 45}
    rows = np.array([film.mode == "L" for film in whole.films])
    accuracy = (whole.predicted == whole.truth)[rows].mean()
    assert modes["L"].figures["accuracy"].value == pytest.approx(accuracy, abs=1e-6)
    thirds = [each for each in found if each.quantity == "bytes per pixel"]
    assert [each.value.split()[0] for each in thirds] == ["up", "over", "over"]
    assert sum(each.films for each in thirds) == 90
    assert not [each for each in found if "patient" in each.quantity or "path" in each.quantity]
    few = SplitResults(**(vars(whole) | {"films": whole.films, "patients": ["one"] * 90}))
    assert not subgroups(few)


def test_only_the_most_confident_errors_are_kept(engine: Engine, dataset: Dataset) -> None:
    scored = score(engine, replace(dataset, films=tuple(replace(film, split="test") for film in dataset.films)), "test")
    wrong = scored.probabilities.max(axis=1)[scored.predicted != scored.truth]
    expected = sorted(wrong.tolist(), reverse=True)[:12]
    assert [each.probability for each in scored.mistakes] == pytest.approx(expected)
    assert all(max(each.luma.shape) <= 288 for each in scored.mistakes)


def test_the_report_has_shortcut_baselines(written_report: tuple[Path, Report]) -> None:
    baselines = written_report[1].shortcuts
    assert {each.features for each in baselines.baselines} == {"metadata", "intensity", "border", "thumbnail"}
    assert {each.task for each in baselines.baselines} == {"classes", "pneumonia"}
    assert baselines.trained_on == "66 films of train and val"
    assert "global brightness and sharpness" in (written_report[0] / "report.html").read_text()


def test_the_report_names_a_missing_extra(
    tiny_bundle: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("pneumoscope.audit")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("sklearn", "sklearn.ensemble"):
        monkeypatch.setitem(sys.modules, name, None)
    report = evaluate(tiny_bundle, dataset, "test", tmp_path / "out")
    assert not report.shortcuts.baselines
    assert "pip install 'pneumoscope[data]'" in report.shortcuts.not_measured


def test_other_classes_are_refused(tiny_bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="they must be the same, or be mapped with --external"):
        evaluate(tiny_bundle, replace(dataset, classes=("cat", "dog")), "test", tmp_path)
    assert not list(tmp_path.iterdir())


def test_class_order_comes_from_the_bundle(tiny_bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    expected = evaluate(tiny_bundle, dataset, "test", tmp_path / "a", PLAIN)
    with pytest.raises(UsageError, match="exists already"):
        evaluate(tiny_bundle, dataset, "test", tmp_path / "a", PLAIN)
    evaluate(tiny_bundle, dataset, "test", tmp_path / "a", PLAIN, overwrite=True)
    turned = replace(dataset, classes=dataset.classes[::-1])
    assert evaluate(tiny_bundle, turned, "test", tmp_path / "b", PLAIN).confusion == expected.confusion


def test_decisions_can_be_made_at_a_coverage_of_the_table(tiny_bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    wide = evaluate(tiny_bundle, dataset, "test", tmp_path / "a", Options(coverage=0.99, shortcuts=False))
    assert wide.sets.level == 0.99
    with pytest.raises(UsageError, match=r"coverage 0\.5 is not in this model's table"):
        evaluate(tiny_bundle, dataset, "test", tmp_path / "b", Options(coverage=0.5, shortcuts=False))


def test_an_older_bundle_does_not_list_its_train_films(own_bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    contract = load_contract(own_bundle)
    for name in ("films.npz", "reference.npz"):
        (own_bundle / name).unlink()
    old = {name: sha for name, sha in contract.files.items() if name not in ("films.npz", "reference.npz")}
    save_contract(contract.model_copy(update={"files": old}), own_bundle)
    report = evaluate(own_bundle, dataset, "test", tmp_path / "out", PLAIN)
    assert report.dataset.seen == "unknown"
    assert "does not list the films that it was trained on" in report.notes[0]
    assert report.model.trained_films is None


def test_a_label_scheme_gathers_classes(engine: Engine) -> None:
    level = LabelScheme(members={"normal": ("normal",), "pneumonia": ("bacteria", "virus")}, groups={})
    assert level.matrix(engine.contract.classes).tolist() == [[False, True], [True, False], [False, True]]


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 3000\n")
    assert processor(tmp_path / "cpuinfo") == "Abacus 3000"
    assert processor(tmp_path / "gone")
    (tmp_path / "other").write_text("Hardware: something\n")
    assert processor(tmp_path / "other")


def test_the_manifests_columns_are_known_to_the_subgroups() -> None:
    """A new column of the manifest becomes a subgroup automatically; these columns were considered."""
    assert {field.name for field in fields(Record)} == {
        *("path", "label", "split", "patient", "source", "file_sha256", "luma_sha256", "phash"),
        *("width", "height", "bytes", "mode"),
    }
