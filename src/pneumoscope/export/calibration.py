"""The calibration and the decision's thresholds of a bundle, from films that the networks have not seen.

Thresholds come from cross-fitted probabilities: each film's calibration was fitted to films of other patients. The
bundle applies one calibration, fitted to all these films, so the coverage of its sets is exact only as far as this
calibration agrees with the cross-fitted ones. A calibration has at most two numbers per class, fitted to hundreds or
thousands of films: the difference is small compared with the sampling error of the films themselves.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pneumoscope import metrics
from pneumoscope.contract import Calibration, CoverageRow, Decision, EvidenceKind, OperatingPoint, Sides
from pneumoscope.dataset import Dataset, Record
from pneumoscope.dataset.split import LabelledFilm, deal_patients, grouped
from pneumoscope.engine import Rule, judge
from pneumoscope.engine.decision import Verdict
from pneumoscope.errors import RunError
from pneumoscope.metrics import Floats, HeldOutFilms, Indices
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.evidence import Evidence, load_evidence
from pneumoscope.training.run_directory import RunCard

COVERAGES = (0.8, 0.85, 0.9, 0.95, 0.99)
DEFAULT_COVERAGE = 0.9
Aim: TypeAlias = Literal["sensitivity", "specificity"]
AIMS: tuple[tuple[Aim, float], ...] = (("sensitivity", 0.95), ("sensitivity", 0.99), ("specificity", 0.95))
_FOLDS = 5  # into which a validation split is dealt
#: Settings that may differ between a run and its evidence's networks: they do not change how sure a network is
#: (runs with teachers are refused).
_IRRELEVANT = ("recipe", "seed", "compiled", "workers", "precision", "teacher_share")


def evidence_of_run(path: Path, config: TrainConfig, card: RunCard, dataset: Dataset) -> Evidence:
    """Load an evidence file of this run's films and classes, from networks that were trained as the run's network was.

    Thresholds hold only for a network trained in the same way. At 90 % coverage, prediction sets held the true class of
    89 % of the normal films for a network trained like those of the evidence, but of only 72 % for one trained with
    soft targets (docs/concepts/experiments.md, "The practice test").

    Raises:
        RunError: it is not an evidence file, its films or classes are not the run's, or the run had teachers or other
            settings.
    """
    evidence = load_evidence(path)
    about = evidence.about
    if about.classes != card.classes:
        raise RunError(
            f"{path} is evidence for the classes {', '.join(about.classes)}, but the run has "
            f"{', '.join(card.classes)}; cross-validate on the run's data set."
        )
    if card.teachers:
        raise RunError(
            f"the run was trained with soft targets (--teachers), but the networks of {path} were not, so thresholds "
            "from it would not hold; train without --teachers, or leave out --evidence and calibrate on validation "
            "films."
        )
    theirs, ours = about.config.model_dump(exclude=set(_IRRELEVANT)), config.model_dump(exclude=set(_IRRELEVANT))
    if differing := [name for name in theirs if theirs[name] != ours[name]]:
        values = ", ".join(f"{name} {theirs[name]!r} instead of {ours[name]!r}" for name in differing)
        raise RunError(
            f"the networks of {path} were trained with other settings than the run: {values}; "
            "cross-validate with the run's recipe."
        )
    # Called for its error: every train film must be in the evidence.
    evidence.rows([film.file_sha256 for film in dataset.split("train")])
    return evidence


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationSet:
    """The films to calibrate with, their kind, and the prior `[C]` that the network's probabilities assume."""

    films: HeldOutFilms
    kind: EvidenceKind
    prior: Floats
    classes: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]

    def by_class(self, values: Iterable[float]) -> dict[str, float]:
        """Numbers in the order of the classes as a mapping from class name to number."""
        return dict(zip(self.classes, map(float, values), strict=True))

    def share(self, group: str, probabilities: Floats) -> Floats:
        """A group's probability for each film, `[N]`: the sum over its classes."""
        return np.asarray(probabilities[:, [self.classes.index(label) for label in self.groups[group]]].sum(axis=1))

    def inside(self, group: str, threshold_films: "_ThresholdFilms") -> tuple[NDArray[np.bool_], Floats]:
        """Which films belong to a group, and the group's probability for each film."""
        members = [self.classes.index(label) for label in self.groups[group]]
        return np.isin(threshold_films.truth, members), self.share(group, threshold_films.probabilities)


def frequencies(prior: Literal["train", "uniform"], dataset: Dataset) -> Floats:
    """The class frequencies `float64 [C]` that a network trained at this prior assumes."""
    counts = np.array([sum(film.label == label for film in dataset.split("train")) for label in dataset.classes])
    return np.asarray(counts / counts.sum()) if prior == "train" else np.full(len(counts), 1 / len(counts))


def validation_films(films: list[Record], logits: Floats, dataset: Dataset, prior: Floats) -> HeldOutFilms:
    """A network's outputs for its validation split, dealt into folds by patient.

    There are at most five folds, and at most as many as the rarest class has patients, so that each fold can have
    every class.
    """
    truth = np.array([dataset.classes.index(film.label) for film in films], np.int64)
    _, patient = np.unique([film.patient for film in films], return_inverse=True)
    patients_of_class = grouped({(film.label, film.patient) for film in films}, lambda pair: pair[0])
    folds = min(_FOLDS, *map(len, patients_of_class.values()))
    dealt = deal_patients([LabelledFilm(label=film.label, patient=film.patient) for film in films], folds=folds, seed=0)
    return HeldOutFilms(
        logits=logits.astype(np.float64),
        truth=truth,
        patient=patient,
        fold=np.array(dealt, np.int64),
        weights=metrics.prior_weights(truth, prior),
    )


def calibrate(calibration_set: CalibrationSet) -> tuple[Calibration, Decision]:
    """The calibration fitted to all the films, and the decision's tables with their cross-fitted figures.

    The method, vector scaling or temperature, is chosen once, by all the films (see `metrics.choose_method`).
    """
    films = calibration_set.films
    method = metrics.choose_method(films)
    # The calibration that ships is fitted to all films; thresholds come from cross-fitted probabilities.
    scaling = metrics.fit(films, method)
    all_films = _ThresholdFilms(films.truth, metrics.cross_fitted(films, method))
    calibration = Calibration(
        method=scaling.method,
        scale=calibration_set.by_class(scaling.scale),
        bias=calibration_set.by_class(scaling.bias),
        prior=calibration_set.by_class(calibration_set.prior),
        evidence=calibration_set.kind,
        films=len(films.truth),
    )
    parts = list(_held_out_folds(films, method))
    decision = Decision(
        coverage=DEFAULT_COVERAGE,
        table=tuple(_row(calibration_set, all_films, parts, coverage) for coverage in COVERAGES),
        operating_points=tuple(_points(calibration_set, all_films, parts)),
        evidence=calibration_set.kind,
        films=len(films.truth),
    )
    return calibration, decision


def judge_out_of_fold(
    calibration_set: CalibrationSet, method: metrics.Method, coverage: float = DEFAULT_COVERAGE
) -> tuple[Floats, list[Verdict]]:
    """Probabilities and decisions by the other folds' calibration and thresholds, so that no film affects its own.

    Returns:
        Probabilities, `float64 [N, C]`, and the decision on each film.
    """
    probabilities = np.empty(calibration_set.films.logits.shape)
    verdicts = dict[int, Verdict]()
    for part in _held_out_folds(calibration_set.films, method):
        rule = Rule(level="class", row=_thresholds(calibration_set, part.threshold_films, coverage))
        probabilities[part.rows] = part.probabilities
        judged = (
            judge(calibration_set.groups, calibration_set.by_class(shares), rule) for shares in part.probabilities
        )
        verdicts.update(zip(np.flatnonzero(part.rows).tolist(), judged, strict=True))
    return probabilities, [verdicts[row] for row in range(len(probabilities))]


@dataclass(frozen=True, eq=False)
class _ThresholdFilms:
    """Films that set thresholds: class indices `[N]`, and probabilities `[N, C]`, cross-fitted among these films."""

    truth: Indices
    probabilities: Floats


@dataclass(frozen=True, eq=False)
class _HeldOutFold:
    """A fold as a mask `bool [N]`, its films' probabilities, and the other folds' films, which set its thresholds.

    `weights` are those of the other folds' films.
    """

    rows: NDArray[np.bool_]
    probabilities: Floats
    threshold_films: _ThresholdFilms
    weights: Floats


def _held_out_folds(films: HeldOutFilms, method: metrics.Method) -> Iterator[_HeldOutFold]:
    for rows, others in films.parts():
        threshold_films = _ThresholdFilms(others.truth, metrics.cross_fitted(others, method))
        probabilities = metrics.fit(others, method).probabilities(films.logits[rows])
        yield _HeldOutFold(rows, probabilities, threshold_films, others.weights)


def _row(
    calibration_set: CalibrationSet, all_films: _ThresholdFilms, parts: list[_HeldOutFold], coverage: float
) -> CoverageRow:
    """A row of the table: thresholds from all films, and figures from the other folds' thresholds on each fold."""
    truth = calibration_set.films.truth
    # Each film is judged by the other folds' thresholds, so that it does not affect the threshold it is judged by.
    in_set, answer = np.zeros((len(truth), len(calibration_set.classes)), np.bool_), np.full(len(truth), -1)
    for part in parts:
        rule = Rule(level="class", row=_thresholds(calibration_set, part.threshold_films, coverage))
        in_set[part.rows] = part.probabilities >= [rule.row.classes[label] for label in calibration_set.classes]
        verdicts = [
            judge(calibration_set.groups, calibration_set.by_class(shares), rule) for shares in part.probabilities
        ]
        answer[part.rows] = [-1 if verdict.class_index is None else verdict.class_index for verdict in verdicts]
    answered, observed = answer >= 0, metrics.class_coverage(in_set, truth)
    return _thresholds(calibration_set, all_films, coverage).model_copy(
        update={
            "observed": {
                label: metrics.finite_or_none(share)
                for label, share in zip(calibration_set.classes, observed, strict=True)
            },
            "answered": metrics.finite_or_none(answered.mean()),
            "accuracy": metrics.finite_or_none(np.mean(answer[answered] == truth[answered]))
            if answered.any()
            else None,
        }
    )


def _thresholds(calibration_set: CalibrationSet, threshold_films: _ThresholdFilms, coverage: float) -> CoverageRow:
    """The least probabilities at which each class, and each side of a group, fits a film; figures are left empty."""
    truth, classes = threshold_films.truth, len(calibration_set.classes)
    groups = {}
    for group in calibration_set.groups:
        inside, share = calibration_set.inside(group, threshold_films)
        # The two sides, in the group or not, are treated as two classes.
        least = _least(np.where(inside, share, 1 - share), np.where(inside, 0, 1), 2, coverage)
        groups[group] = Sides(inside=least[0], outside=least[1])
    return CoverageRow(
        coverage=coverage,
        classes=calibration_set.by_class(
            _least(threshold_films.probabilities[np.arange(len(truth)), truth], truth, classes, coverage)
        ),
        groups=groups,
        observed={},
        answered=None,
        accuracy=None,
    )


def _least(own: Floats, truth: Indices, classes: int, coverage: float) -> list[float]:
    """The least probability of each class, rounded down to 6 decimals; 0 for a class with too few films.

    `own` is each film's probability of its true class. Rounded down, so that the films that set a threshold still
    reach it.
    """
    # The nonconformity score is 1 minus the probability of the true class; too few films make it infinite.
    scores = metrics.conformal_thresholds(1 - own, truth, classes, coverage)
    return [0.0 if np.isinf(score) else max(0.0, math.floor((1 - score) * 1e6) / 1e6) for score in scores]


def _points(
    calibration_set: CalibrationSet, all_films: _ThresholdFilms, parts: list[_HeldOutFold]
) -> Iterator[OperatingPoint]:
    """Operating points of every group that has films on both sides."""
    weights = calibration_set.films.weights
    for group in calibration_set.groups:
        inside, _ = calibration_set.inside(group, all_films)
        # Sensitivity needs films of the group, specificity films outside it.
        if inside.all() or not inside.any():
            continue
        for aim, level in AIMS:
            called = np.zeros(len(inside), np.bool_)
            for part in parts:
                least = _threshold(calibration_set, part.threshold_films, part.weights, group, aim, level)
                called[part.rows] = calibration_set.share(group, part.probabilities) >= least
            name = f"{aim}-{level:g}"
            yield OperatingPoint(
                # With one group the name is short, such as sensitivity-0.95; several groups need their own names in it.
                name=name if len(calibration_set.groups) == 1 else f"{group}-{name}",
                group=group,
                aim=aim,
                level=level,
                threshold=_threshold(calibration_set, all_films, weights, group, aim, level),
                sensitivity=round(float(np.average(called[inside], weights=weights[inside])), 6),
                specificity=round(float(np.average(~called[~inside], weights=weights[~inside])), 6),
            )


def _threshold(
    calibration_set: CalibrationSet,
    threshold_films: _ThresholdFilms,
    weights: Floats,
    group: str,
    aim: Aim,
    level: float,
) -> float:
    """The least probability at which a group is called positive, for a rate of at least `level` on these films."""
    inside, share = calibration_set.inside(group, threshold_films)
    if aim == "sensitivity":
        return metrics.threshold_reached_by(share[inside], level, weights[inside])
    below = 1 - metrics.threshold_reached_by(1 - share[~inside], level, weights[~inside])
    return min(1.0, round(below + 1e-6, 6))  # just above it: a film exactly at the threshold is called positive
