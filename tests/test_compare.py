"""Two bundles on one split: paired differences, tests, and when no conclusion is possible."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pneumoscope.contract import load_contract, save_contract
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine
from pneumoscope.errors import DatasetError, UsageError
from pneumoscope.report import SplitResults, score
from pneumoscope.report.compare import check_classes, compare, headline_differences, verdict_on
from pneumoscope.report.document import Figure

MODEL = {"name": "other", "version": "1", "sha256": "0" * 64}


@pytest.fixture(scope="module")
def scored(tiny_bundle: Path, dataset: Dataset) -> SplitResults:
    whole = replace(dataset, films=tuple(replace(film, split="test") for film in dataset.films))
    return score(Engine.load(tiny_bundle), whole, "test")


def with_probabilities(scored: SplitResults, probabilities: np.ndarray) -> SplitResults:
    return replace(scored, probabilities=probabilities, predicted=probabilities.argmax(axis=1))


def test_a_model_does_not_differ_from_itself(scored: SplitResults) -> None:
    found = compare(scored, scored, MODEL, seen="no", priors=("train", "train"))
    assert found.films == 90
    assert {each.verdict for each in found.differences} == {"cannot conclude"}
    assert {each.difference.value for each in found.differences} <= {0.0, None}
    assert {test.p for test in found.tests if test.name == "McNemar"} == {1.0}


def test_a_better_model_is_better_by_accuracy_and_by_loss(scored: SplitResults) -> None:
    random = np.random.default_rng(0)
    good = np.eye(3)[scored.truth] * 0.8 + random.dirichlet([1, 1, 1], len(scored.truth)) * 0.2
    bad = random.dirichlet([1, 1, 1], len(scored.truth))
    found = compare(
        with_probabilities(scored, good),
        with_probabilities(scored, bad),
        MODEL,
        seen="unknown",
        priors=("train", "train"),
    )
    differences = {each.figure: each for each in found.differences}
    assert differences["accuracy"].verdict == differences["macro_auroc"].verdict == "better"
    assert differences["cross_entropy"].verdict == "better"  # a lower cross-entropy is the better one
    assert differences["cross_entropy"].difference.value is not None
    assert differences["cross_entropy"].difference.value < 0
    turned = compare(
        with_probabilities(scored, bad), with_probabilities(scored, good), MODEL, seen="no", priors=("train", "train")
    )
    assert {each.figure: each.verdict for each in turned.differences}["accuracy"] == "worse"
    right = [(good.argmax(axis=1) == scored.truth), (bad.argmax(axis=1) == scored.truth)]
    mcnemar = next(test for test in found.tests if test.name == "McNemar")
    assert mcnemar.difference == int(right[0].sum()) - int(right[1].sum())
    assert mcnemar.p is not None
    assert mcnemar.p < 1e-6
    assert {test.of for test in found.tests if test.name == "DeLong"} == {*scored.classes, "pneumonia"}
    assert {each.figure for each in headline_differences(found)} >= {"accuracy", "group_auroc.pneumonia"}


def test_films_and_classes_are_matched_by_name(scored: SplitResults) -> None:
    """The other bundle may have its classes in a different order, and might not have decoded every film."""
    order = [2, 0, 1]
    places = np.arange(90)[::-1][:80]
    other = SplitResults(
        **(
            vars(scored)
            | {
                "classes": tuple(scored.classes[each] for each in order),
                "films": [scored.films[each] for each in places],
                "probabilities": scored.probabilities[places][:, order],
                "predicted": scored.probabilities[places][:, order].argmax(axis=1),
            }
        )
    )
    found = compare(scored, other, MODEL, seen="no", priors=("train", "train"))
    assert found.films == 80
    assert {each.difference.value for each in found.differences} <= {0.0, None}
    nothing = SplitResults(**(vars(scored) | {"films": []}))
    with pytest.raises(DatasetError, match="no film reached the models of both"):
        compare(scored, nothing, MODEL, seen="no", priors=("train", "train"))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "cannot conclude"), (None, None, "cannot conclude")],
)
def test_an_interval_that_contains_zero_allows_no_conclusion(
    low: float | None, high: float | None, verdict: str
) -> None:
    assert verdict_on(Figure(value=None, low=low, high=high)) == verdict


def test_bundles_of_other_groups_are_not_compared(tiny_bundle: Path, own_bundle: Path) -> None:
    contract = load_contract(own_bundle)
    table = tuple(row.model_copy(update={"groups": {}}) for row in contract.decision.table)
    decision = contract.decision.model_copy(update={"table": table, "operating_points": ()})
    save_contract(contract.model_copy(update={"groups": {}, "decision": decision}), own_bundle)
    with pytest.raises(UsageError, match="only bundles of the same classes and groups can be compared"):
        check_classes(Engine.load(tiny_bundle), Engine.load(own_bundle))


def test_evaluate_compares(
    tiny_bundle: Path, own_bundle: Path, dataset: Dataset, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    other = Path(shutil.move(own_bundle, tmp_path / "other"))
    out = tmp_path / "report"
    done = command(
        *("evaluate", dataset.root, "--bundle", tiny_bundle, "--compare", other, "--out", out, "--no-shortcuts")
    )
    assert done.code == 0, done.err
    assert "cannot conclude" in done.out
    report = json.loads((out / "report.json").read_text())
    assert report["comparison"]["films"] == report["n"]
    assert report["comparison"]["other_seen"] == "no"
    page = (out / "report.html").read_text()
    assert "McNemar" in page
    assert "DeLong" in page
