"""The figures of a report on random results, recomputed by counting."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pneumoscope.report import FilmResults
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

CLASSES, GROUPS = ("bacteria", "normal", "virus"), {"pneumonia": ("bacteria", "virus")}


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


def test_undefined_figures_are_null() -> None:
    one = random_results(60)
    alone = replace(one, truth=np.ones_like(one.truth))
    found = figures(alone, "train")
    assert found.per_class["virus"]["sensitivity"] == Figure(value=None, low=None, high=None)
    assert found.overall["macro_auroc"].value is None
    assert found.per_class["normal"]["sensitivity"].value is not None
    drawn = curves(alone, "train")
    assert set(drawn.roc["virus"].y) == {None}


def test_the_loss_is_measured_at_the_prior() -> None:
    """At a uniform prior every class has the same weight, however many films it has."""
    one = random_results()
    often = _rows(one, np.concatenate([np.arange(240), *[np.flatnonzero(one.truth == 1)] * 3]))
    at_films, at_prior = (figures(often, prior).overall["cross_entropy"].value for prior in ("train", "uniform"))
    losses = [
        -np.log(one.probabilities[one.truth == label, label]).mean()  # copies of films do not change the mean
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
