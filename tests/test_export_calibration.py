"""Calibration, thresholds and operating points of an export, and the films that set them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pneumoscope import metrics
from pneumoscope.contract import (
    Calibration,
    Decision,
    load_contract,
)
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine, Rule, judge
from pneumoscope.export.calibration import CalibrationSet, calibrate, validation_films
from pneumoscope.imaging import load_input


def out_of_fold(count: int = 3000, seed: int = 0) -> CalibrationSet:
    """Films of three classes, two per patient, whose logits need vector scaling at a uniform prior."""
    random = np.random.default_rng(seed)
    truth = random.choice(3, size=count // 2, p=[0.5, 0.3, 0.2]).repeat(2)
    wanted = 1.4 * random.normal(size=(count, 3)) + 2.2 * np.eye(3)[truth]
    patient = np.arange(count) // 2
    films = metrics.HeldOutFilms(
        logits=(wanted - [0.7, -1.5, 0.8]) / [1.2, 2.5, 1.0],
        truth=truth,
        patient=patient,
        fold=patient % 5,
        weights=metrics.prior_weights(truth, np.full(3, 1 / 3)),
    )
    return CalibrationSet(
        films=films,
        kind="out-of-fold",
        prior=np.full(3, 1 / 3),
        classes=("bacteria", "normal", "virus"),
        groups={"pneumonia": ("bacteria", "virus")},
    )


@pytest.fixture(scope="module")
def calibrated() -> tuple[Calibration, Decision]:
    return calibrate(out_of_fold())


def test_the_calibration_is_chosen_and_names_its_films(calibrated: tuple[Calibration, Decision]) -> None:
    calibration, decision = calibrated
    assert calibration.method == "vector"
    assert calibration.evidence == decision.evidence == "out-of-fold"
    assert calibration.films == decision.films == 3000
    assert calibration.prior == {"bacteria": 1 / 3, "normal": 1 / 3, "virus": 1 / 3}
    assert calibration.scale["normal"] > 1.5 * calibration.scale["virus"]
    assert decision.coverage == 0.9
    assert [row.coverage for row in decision.table] == [0.8, 0.85, 0.9, 0.95, 0.99]


def test_thresholds_reach_their_coverage_on_further_films(calibrated: tuple[Calibration, Decision]) -> None:
    """For every class, for both sides of the group, and in the figures that the contract states."""
    (calibration, decision), more = calibrated, out_of_fold(20_000, seed=1)
    scale, bias = (np.array([*part.values()]) for part in (calibration.scale, calibration.bias))
    probabilities, truth = metrics.softmax(more.films.logits * scale + bias), more.films.truth
    for row in decision.table:
        assert row.coverage is not None
        kept = probabilities >= [*row.classes.values()]
        found = metrics.class_coverage(kept, truth)
        np.testing.assert_allclose(found, row.coverage, atol=0.03)
        assert [*row.observed.values()] == pytest.approx([row.coverage] * 3, abs=0.01)
        inside = probabilities[:, [0, 2]].sum(axis=1)
        sides = row.groups["pneumonia"]
        assert (inside >= sides.inside)[truth != 1].mean() == pytest.approx(row.coverage, abs=0.03)
        assert (1 - inside >= sides.outside)[truth == 1].mean() == pytest.approx(row.coverage, abs=0.03)
        rule = Rule(level="class", row=row)
        verdicts = [judge(more.groups, more.by_class(shares), rule) for shares in probabilities[:4000]]
        answers = np.array([-1 if each.class_index is None else each.class_index for each in verdicts])
        assert np.mean(answers >= 0) == pytest.approx(row.answered, abs=0.04)
        assert np.mean((answers == truth[:4000])[answers >= 0]) == pytest.approx(row.accuracy, abs=0.05)


def test_operating_points_reach_their_aim_on_films_that_did_not_set_them(
    calibrated: tuple[Calibration, Decision],
) -> None:
    points = {point.name: point for point in calibrated[1].operating_points}
    assert [*points] == ["sensitivity-0.95", "sensitivity-0.99", "specificity-0.95"]
    assert points["sensitivity-0.95"].sensitivity == pytest.approx(0.95, abs=0.01)
    assert points["sensitivity-0.99"].sensitivity == pytest.approx(0.99, abs=0.01)
    assert points["specificity-0.95"].specificity == pytest.approx(0.95, abs=0.01)
    assert points["sensitivity-0.99"].threshold < points["sensitivity-0.95"].threshold
    assert points["sensitivity-0.99"].specificity < points["sensitivity-0.95"].specificity


def test_figures_are_of_films_that_did_not_set_the_thresholds() -> None:
    """One fold gets a wrong class: thresholds of the other folds cover few of its films, its own would cover 90 %."""
    calibration_set = out_of_fold(3000)
    films = calibration_set.films
    misread = 8 * (films.fold == 0)[:, np.newaxis] * np.eye(3)[films.truth]
    _, decision = calibrate(replace(calibration_set, films=replace(films, logits=films.logits - misread)))
    row = decision.row(0.9)
    assert row is not None
    assert all(share is not None and 0.65 < share < 0.85 for share in row.observed.values()), row.observed


def test_a_group_on_one_side_only_has_no_operating_points() -> None:
    calibration_set = out_of_fold(300)
    sick = calibration_set.films.truth != 1
    calibration, decision = calibrate(replace(calibration_set, films=calibration_set.films.at(sick)))
    assert decision.operating_points == ()
    row = decision.row(0.9)
    assert row is not None
    assert row.classes["normal"] == 0  # a class without films is in every set
    assert row.observed["normal"] is None
    assert calibration.method == "temperature"


def test_several_groups_have_points_of_their_own() -> None:
    calibration_set = replace(out_of_fold(300), groups={"pneumonia": ("bacteria", "virus"), "well": ("normal",)})
    names = [point.name for point in calibrate(calibration_set)[1].operating_points]
    assert names[:2] == ["pneumonia-sensitivity-0.95", "pneumonia-sensitivity-0.99"]
    assert names[-1] == "well-specificity-0.95"


def test_a_run_without_evidence_is_calibrated_on_its_validation_split(
    steady_run: Path, dataset: Dataset, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    done = command("export", steady_run, "--out", tmp_path / "bundle", "--quiet")
    assert done.code == 0, done.err
    contract, films = load_contract(tmp_path / "bundle"), dataset.split("val")
    calibration, decision = contract.calibration, contract.decision
    assert calibration.evidence == decision.evidence == "validation"
    assert calibration.films == decision.films == len(films)
    assert calibration.method == "temperature"
    train_films = dataset.split("train")
    shares = {label: sum(film.label == label for film in train_films) / len(train_films) for label in dataset.classes}
    assert calibration.prior == pytest.approx(shares)
    assert f"it answers 0 % of {len(films)} unseen films (validation)" in done.out
    assert "too few unseen films to exclude any class" in done.out
    assert "too few to predict how many films it will answer" in done.out
    engine = Engine.load(tmp_path / "bundle")
    truth = np.array([dataset.classes.index(film.label) for film in films])
    outputs = engine.run(np.stack([load_input(dataset.read(film), contract.input) for film in films]))
    weights = metrics.prior_weights(truth, np.array([shares[label] for label in dataset.classes]))
    expected = metrics.fit_temperature(outputs.logits, truth, weights, cautious=True)
    np.testing.assert_allclose(outputs.probabilities, expected.probabilities(outputs.logits), atol=1e-3)


def test_validation_films_are_dealt_into_folds_by_patient(dataset: Dataset) -> None:
    films = dataset.split("val")
    found = validation_films(films, np.zeros((len(films), 3), np.float32), dataset, np.full(3, 1 / 3))
    homes = {(film.patient, fold) for film, fold in zip(films, found.fold, strict=True)}
    assert len(homes) == len({film.patient for film in films})
    assert len({*found.fold.tolist()}) > 1
    np.testing.assert_allclose(np.bincount(found.truth, found.weights), 1 / 3)
