"""The model card: generated from the report, without a figure that the report lacks."""

import json
from pathlib import Path

import numpy as np
import pytest

from figures import figures_in, unsupported
from pneumoscope.contract import load_contract
from pneumoscope.dataset import Dataset
from pneumoscope.documents import read_document
from pneumoscope.export.calibration import CalibrationSet, judge_out_of_fold
from pneumoscope.models import shipped_bundle
from pneumoscope.report import Options, Report, evaluate, load_report, write_card
from pneumoscope.report.card import figure_title
from samples import REPOSITORY, made_up_evidence


def card_without_recipe(bundle: Path) -> str:
    """The text of a card before the recipe's notes, whose numbers are settings and not figures."""
    return (bundle / "card.md").read_text().partition("## What the recipe")[0]


def test_the_card_of_a_bundle_is_generated_from_its_report(described_bundle: Path) -> None:
    report = load_report(described_bundle, load_contract(described_bundle))
    assert report is not None
    assert report.kind == "out-of-fold"
    assert (described_bundle / "card.md").read_text() == write_card(report)


def test_the_card_shows_no_figure_that_the_report_lacks(described_bundle: Path) -> None:
    report = json.loads((described_bundle / "report.json").read_text())
    text = card_without_recipe(described_bundle)
    assert len(figures_in(text)) > 60
    assert not unsupported(text, report)
    assert unsupported(text.replace("| accuracy |", "| 0.1234 | accuracy |"), report) == ["0.1234"]


def test_the_shipped_card_and_the_readme_show_no_figure_that_its_report_lacks() -> None:
    report = json.loads((shipped_bundle() / "report.json").read_text())
    assert not unsupported(card_without_recipe(shipped_bundle()), report)
    readme = (REPOSITORY / "README.md").read_text().partition("## How good it is")[2].partition("\n## ")[0]
    assert len(figures_in(readme)) >= 15
    assert not unsupported(readme.replace("95 % interval", ""), report)


def test_figures_are_distinguished_from_other_numbers() -> None:
    text = "Version 0.1.0, `code 0.5`, [link 7](a/0.9.html), doi:10.17632/rscbjbr9sj, Cell 172:1122-1131: "
    text += "0.79 of 5,232, 15 %."
    assert figures_in(text) == ["0.79", "5,232", "15 %"]
    assert not unsupported(text, {"a": 0.7941, "b": [5232, {"c": 0.151}]})
    assert unsupported(text, {"a": 0.7851, "b": 5232}) == ["15 %"]


def test_the_report_of_evidence_is_cross_fitted(described_bundle: Path, tiny_run: Path, dataset: Dataset) -> None:
    """Recomputed from the evidence: probabilities by the other folds' calibration, decisions by their thresholds."""
    report = load_report(described_bundle, load_contract(described_bundle))
    assert report is not None
    evidence, contract = made_up_evidence(dataset, tiny_run), load_contract(described_bundle)
    calibration_set = CalibrationSet(
        films=evidence.unseen(),
        kind="out-of-fold",
        prior=np.full(3, 1 / 3),
        classes=contract.classes,
        groups=contract.groups,
    )
    probabilities, verdicts = judge_out_of_fold(calibration_set, contract.calibration.method)
    truth = evidence.label.astype(int)
    assert report.metrics["accuracy"].value == pytest.approx((probabilities.argmax(axis=1) == truth).mean(), abs=1e-6)
    answered = sum(verdict.status == "answered" for verdict in verdicts)
    assert report.decisions.statuses["answered"] == answered
    # The contract's table has the same cross-fitted figures.
    row = contract.decision.row(contract.decision.coverage)
    assert row is not None
    assert report.decisions.shares["answered"].value == pytest.approx(row.answered, abs=1e-6)
    assert report.dataset.folds == 3
    assert report.n == len(truth)
    assert report.model.trained_films == len(dataset.split("train"))


def test_a_bundle_without_evidence_has_a_card_without_figures(drawn_bundle: Path) -> None:
    assert not (drawn_bundle / "report.json").exists()
    text = (drawn_bundle / "card.md").read_text()
    assert "There are no figures on unseen films" in text
    assert "drawings, not radiographs of patients" in text


def test_evaluate_writes_a_card_of_what_it_measured(tiny_bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    evaluate(tiny_bundle, dataset, "test", tmp_path / "out", Options(shortcuts=False))
    stored = read_document(Report, (tmp_path / "out" / "report.json").read_bytes())
    text = (tmp_path / "out" / "card.md").read_text()
    assert text == write_card(stored)
    assert not unsupported(text, json.loads((tmp_path / "out" / "report.json").read_text()))
    assert "split `test`" in text


def test_figures_have_readable_titles() -> None:
    assert figure_title("macro_f1") == "macro-F1"
    assert figure_title("average_precision.virus") == "virus: average precision"
    assert figure_title("group_ppv.pneumonia") == "pneumonia: PPV"
