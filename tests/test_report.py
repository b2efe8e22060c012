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
from pneumoscope.report import FilmResults, Options, Report, SplitResults, evaluate, score
from pneumoscope.report.document import Figure
from pneumoscope.report.figures import (
    HALF,
    MOST_PROBABLE,
    curves,
    decisions,
    figures,
    operating_points,
    plain_cutoffs,
    sets,
)
from pneumoscope.report.latency import processor
from pneumoscope.report.scoring import LabelScheme
from pneumoscope.report.subgroups import subgroups

PLAIN = Options(shortcuts=False)
CLASSES, GROUPS = ("bacteria", "normal", "virus"), {"pneumonia": ("bacteria", "virus")}


@pytest.fixture(scope="module")
def written_report(
    tiny_bundle: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("reports") / "test"
    return out, evaluate(tiny_bundle, dataset, "test", out)


def random_results(count: int = 240, *, seed: int = 0) -> FilmResults:
    """Results on made-up films, two per patient, some rejected, some abstained on."""
    random = np.random.default_rng(seed)
    truth = random.integers(3, size=count)
    logits = random.normal(size=(count, 3)) + 1.5 * np.eye(3)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    statuses = random.choice(["answered", "abstained", "rejected"], size=count, p=[0.7, 0.2, 0.1]).tolist()
    possible = probabilities > 0.25
    possible[[status == "rejected" for status in statuses]] = False
    return FilmResults(
        classes=CLASSES,
        groups=GROUPS,
        patients=[f"p{number // 2}" for number in range(count)],
        truth=truth,
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
        statuses=statuses,
        codes=[{"answered": (), "abstained": ("several-classes",), "rejected": ("photograph",)}[s] for s in statuses],
        sets=possible,
    )


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
    assert stored.schema_version == 2
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


@pytest.mark.parametrize(("split", "words"), [("train", "TRAINED ON THESE FILMS"), ("val", "validation films")])
def test_a_report_on_a_runs_own_films_has_a_prominent_warning(
    split: str, words: str, tiny_bundle: Path, dataset: Dataset, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    done = command(
        *("evaluate", dataset.root, "--bundle", tiny_bundle, "--split", split, "--out", tmp_path / "r"),
        "--no-shortcuts",
    )
    assert done.code == 0, done.err
    assert f"NOTE: {'The model was ' * (split == 'train')}" in done.out
    assert words in done.out
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["dataset"]["seen"] == "own split"
    assert words in report["notes"][0]
    assert words in (tmp_path / "r" / "report.html").read_text().replace("&#39;", "'")
    assert words in (tmp_path / "r" / "card.md").read_text()


def test_a_film_that_cannot_be_decoded_is_listed(tiny_bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    """The manifest has the damaged file's hash: the file was damaged before, or another reader could decode it."""
    root = Path(shutil.copytree(dataset.root, tmp_path / "data"))
    spoilt = dataset.split("test")[0]
    (root / spoilt.path).write_bytes(b"no image")
    films = tuple(
        replace(film, file_sha256=hashlib.sha256(b"no image").hexdigest()) if film == spoilt else film
        for film in dataset.films
    )
    report = evaluate(tiny_bundle, replace(dataset, root=root, films=films), "test", tmp_path / "out", PLAIN)
    assert report.n == len(dataset.split("test")) - 1
    (lost,) = report.dataset.undecodable
    assert (lost.film, lost.code) == (spoilt.path, "undecodable")
    assert spoilt.path in (tmp_path / "out" / "report.html").read_text()


def test_a_split_without_a_decodable_film_is_an_error_of_one_sentence(
    engine: Engine, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"")
    empty = replace(dataset.split("test")[0], path="x", file_sha256=hashlib.sha256(b"").hexdigest())
    with pytest.raises(DatasetError, match="none of the 1 films can be decoded: the file is empty"):
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


def test_undefined_figures_are_null() -> None:
    one = random_results(60)
    alone = replace(one, truth=np.ones_like(one.truth))
    found = figures(alone, "train")
    assert found.per_class["virus"]["sensitivity"] == Figure(value=None, low=None, high=None)
    assert found.overall["macro_auroc"].value is None
    assert found.per_class["normal"]["sensitivity"].value is not None
    drawn = curves(alone, "train")
    assert set(drawn.roc["virus"].y) == {None}


def test_loss_and_calibration_are_measured_at_the_prior() -> None:
    """At a uniform prior every class has the same weight, however many films it has."""
    one = random_results()
    often = _rows(one, np.concatenate([np.arange(240), *[np.flatnonzero(one.truth == 1)] * 3]))
    at_films, at_prior = (figures(often, prior).overall["cross_entropy"].value for prior in ("train", "uniform"))
    losses = [
        -np.log(one.probabilities[one.truth == label, label]).mean()  # films that count thrice have the same mean
        for label in range(3)
    ]
    assert at_prior == pytest.approx(np.mean(losses), abs=2e-6)
    assert at_films != pytest.approx(at_prior, abs=1e-3)


def _rows(one: FilmResults, rows: np.ndarray) -> FilmResults:
    """The results on some films, of which some are repeated."""
    return replace(
        one,
        patients=[one.patients[each] for each in rows],
        statuses=[one.statuses[each] for each in rows],
        codes=[one.codes[each] for each in rows],
        truth=one.truth[rows],
        predicted=one.predicted[rows],
        probabilities=one.probabilities[rows],
        sets=one.sets[rows],
    )


def test_operating_points_agree_with_counting() -> None:
    one = random_results()
    points = {(point.name, point.of): point for point in operating_points(one, plain_cutoffs(one))}
    sick = np.isin(one.truth, [0, 2])
    called = one.probabilities[:, [0, 2]].sum(axis=1) >= 0.5
    half = points[HALF, "pneumonia"]
    assert half.sensitivity.value == pytest.approx(called[sick].mean(), abs=1e-6)
    assert half.ppv.value == pytest.approx(sick[called].mean(), abs=1e-6)
    at = {each.prevalence: each for each in half.at_prevalences}[0.1]
    sensitivity, specificity = called[sick].mean(), (~called)[~sick].mean()
    found = 0.1 * sensitivity / (0.1 * sensitivity + 0.9 * (1 - specificity))
    assert at.ppv.value == pytest.approx(found, abs=1e-6)
    assert points[MOST_PROBABLE, "virus"].sensitivity.value == pytest.approx(
        (one.predicted == 2)[one.truth == 2].mean(), abs=1e-6
    )
    assert points[MOST_PROBABLE, "virus"].threshold is None


def test_decisions_and_sets_are_counted() -> None:
    one = random_results()
    found = decisions(one)
    assert found.statuses == {status: one.statuses.count(status) for status in ("answered", "abstained", "rejected")}
    assert found.reasons == dict(Counter(code for codes in one.codes for code in codes))
    answered = one.has_status("answered")
    right = (one.predicted == one.truth)[answered].mean()
    assert found.answered["accuracy"].value == pytest.approx(right, abs=1e-6)
    kept = ~one.has_status("rejected")
    covered = one.sets[np.arange(240), one.truth]
    virus = kept & (one.truth == 2)
    set_figures = sets(one, 0.9)
    assert set_figures.per_class["virus"].coverage.value == pytest.approx(covered[virus].mean(), abs=1e-6)
    assert set_figures.all.size.value == pytest.approx(one.sets[kept].sum(axis=1).mean(), abs=1e-6)
    nothing = sets(replace(one, statuses=["rejected"] * 240), 0.9)
    assert nothing.all.films == 0
    assert nothing.all.coverage.value is None


def test_curves_end_where_they_must() -> None:
    drawn = curves(random_results(), "uniform")
    for curve in drawn.roc.values():
        assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
        assert curve.band is not None
        low, value, high = (np.array(each, float) for each in (curve.band.low, curve.band.value, curve.band.high))
        assert (low <= value).all()
        assert (value <= high).all()
    assert drawn.selective.x[-1] == 1
    assert sum(share or 0 for share in drawn.reliability[MOST_PROBABLE].share) == pytest.approx(1, abs=1e-5)
    assert (np.diff(np.array(drawn.decision["pneumonia"].treat_all, float)) < 0).all()


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
