"""One pass of films through a bundle, from the bytes of the image files, as a server receives them."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import Contract
from pneumoscope.dataset import Dataset, Record
from pneumoscope.engine import Engine, ImageFile, Prediction, Rule
from pneumoscope.engine.decision import Verdict
from pneumoscope.errors import DatasetError
from pneumoscope.imaging import Luma
from pneumoscope.metrics import Floats, Indices
from pneumoscope.progress import SILENT, Listener
from pneumoscope.report.document import UnjudgedFilm

#: Longest side, in pixels, of the films that are kept for pictures.
PICTURE_SIDE = 288
_MOST_MISTAKES = 12
STATUSES = ("answered", "abstained", "rejected")


@dataclass(frozen=True, kw_only=True)
class LabelScheme:
    """The names that films are evaluated by; `members` lists the bundle's classes that belong to each name."""

    members: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[str, ...]]

    @classmethod
    def of_classes(cls, contract: Contract) -> Self:
        """The bundle's own classes and groups."""
        return cls(members={label: (label,) for label in contract.classes}, groups=contract.groups)

    def matrix(self, classes: Sequence[str]) -> NDArray[np.bool_]:
        """Which class belongs to which name, `bool [classes, names]`."""
        return np.array([[label in members for members in self.members.values()] for label in classes], bool)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mistake:
    """A misclassified film: a small copy of it, and the activation map of the predicted class."""

    film: str
    label: str
    predicted: str
    probability: float
    luma: Luma
    activation: NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class FilmResults:
    """A model's results on N films, also on those that the gate rejects; arrays are in the films' order.

    Attributes:
        classes: the names that films are evaluated by, in the order of the indices.
        groups: names that are reported together.
        patients: the patient of each film.
        truth: indices, `int64 [N]`.
        predicted: index of the most probable name, `int64 [N]`.
        probabilities: calibrated, `float64 [N, C]`.
        statuses: the decision on each film.
        codes: the codes of each decision's reasons.
        sets: the prediction sets, `bool [N, C]`; that of a rejected film is empty.
    """

    classes: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    patients: Sequence[str]
    truth: Indices
    predicted: Indices
    probabilities: Floats
    statuses: Sequence[str]
    codes: Sequence[tuple[str, ...]]
    sets: NDArray[np.bool_]

    def has_status(self, *statuses: str) -> NDArray[np.bool_]:
        """Which films have one of these statuses, `bool [N]`."""
        return np.array([each in statuses for each in self.statuses], bool)

    def inside(self, group: str) -> NDArray[np.bool_]:
        """Which names are in a group, `bool [C]`."""
        return np.array([label in self.groups[group] for label in self.classes], bool)

    @classmethod
    def of_verdicts(
        cls,
        contract: Contract,
        patients: Sequence[str],
        truth: Indices,
        probabilities: Floats,
        verdicts: Sequence[Verdict],
    ) -> "FilmResults":
        """Results from probabilities and decisions, without a pass of films: those of cross-validation."""
        return FilmResults(
            classes=contract.classes,
            groups=contract.groups,
            patients=patients,
            truth=truth,
            predicted=np.asarray(probabilities.argmax(axis=1), np.int64),
            probabilities=probabilities,
            statuses=[verdict.status for verdict in verdicts],
            codes=[verdict.reason_codes for verdict in verdicts],
            sets=_sets(contract.classes, [verdict.prediction_set for verdict in verdicts]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitResults(FilmResults):
    """A bundle's results on a split; `films` are those that reached the model.

    `brightness` (mean of the model's input, 0 to 1), `decode_ms` and `model_ms` (milliseconds) are `float64 [N]`;
    `seconds` is the time of the whole pass; `mistakes` are the most confident ones.
    """

    films: Sequence[Record]
    unjudged: Sequence[UnjudgedFilm]
    brightness: NDArray[np.float64]
    decode_ms: NDArray[np.float64]
    model_ms: NDArray[np.float64]
    seconds: float
    mistakes: Sequence[Mistake] = field(repr=False)


def select_films(results: FilmResults, rows: NDArray[np.bool_]) -> FilmResults:
    """The results on the films that a mask `bool [N]` selects."""
    places = np.flatnonzero(rows).tolist()
    return FilmResults(
        classes=results.classes,
        groups=results.groups,
        patients=[results.patients[each] for each in places],
        truth=results.truth[rows],
        predicted=results.predicted[rows],
        probabilities=results.probabilities[rows],
        statuses=[results.statuses[each] for each in places],
        codes=[results.codes[each] for each in places],
        sets=results.sets[rows],
    )


def score(
    engine: Engine, dataset: Dataset, split: str, *, rule: Rule | None = None, listener: Listener = SILENT
) -> SplitResults:
    """Run a split through the engine. Films that do not reach the model are listed in `unjudged` and have no figures.

    Decisions are made by `rule`; by default at level `class` (see `choose_rule`) and the contract's coverage.

    Raises:
        DatasetError: the data set's classes are not the bundle's, a file has changed since `data prepare`, or no film
            of the split reaches the model.
    """
    classes = engine.contract.classes
    if set(classes) != set(dataset.classes):
        raise DatasetError(
            f"the bundle has the classes {', '.join(classes)}, the data set {', '.join(dataset.classes)}; they must be "
            "the same, or be mapped with --external."
        )
    scheme = LabelScheme.of_classes(engine.contract)
    return score_films(engine, dataset, dataset.split(split), scheme, rule=rule, listener=listener)


def score_films(
    engine: Engine,
    dataset: Dataset,
    films: Sequence[Record],
    scheme: LabelScheme,
    labels: Mapping[str, str] | None = None,
    *,
    rule: Rule | None = None,
    listener: Listener = SILENT,
) -> SplitResults:
    """Run films of a data set through the engine, and evaluate them by the names of a label scheme.

    Args:
        engine: of the bundle.
        dataset: of the films.
        films: at least one.
        scheme: the names, and the bundle's classes that belong to each.
        labels: the name that each of the data set's labels is mapped to; by default the label itself.
        rule: see `score`.
        listener: is notified of progress.

    Raises:
        DatasetError: a file has changed since `data prepare`, or no film reaches the model.
    """
    names = list(scheme.members)
    collector = _Collector(engine.contract, scheme, labels or {label: label for label in names})
    started = time.monotonic()
    encoded = (ImageFile(name=film.path, read=partial(dataset.read, film)) for film in films)
    predictions = engine.predict_many(encoded, rule=rule, picture_side=PICTURE_SIDE)
    for film, prediction in zip(films, listener.track("evaluating", predictions, len(films)), strict=True):
        collector.add(film, prediction)
    if not collector.rows:
        raise DatasetError(f"none of the {len(films)} films reached the model: {collector.unjudged[0].reason}")
    return collector.results(time.monotonic() - started)


class _Row(NamedTuple):
    film: Record
    truth: int
    predicted: int
    probabilities: NDArray[np.float64]
    status: str
    codes: tuple[str, ...]
    possible: tuple[str, ...]
    numbers: tuple[float, float, float]  # brightness, and milliseconds to decode and to run the model


class _Collector:
    """Collects a stream of predictions: the numbers of all films, pictures only of the most confident mistakes."""

    def __init__(self, contract: Contract, scheme: LabelScheme, labels: Mapping[str, str]) -> None:
        self.scheme, self.labels, self.names = scheme, labels, list(scheme.members)
        self.classes = contract.classes
        self.matrix = scheme.matrix(contract.classes)
        self.rows: list[_Row] = []
        self.unjudged: list[UnjudgedFilm] = []
        self.mistakes: list[Mistake] = []

    def add(self, film: Record, prediction: Prediction) -> None:
        outputs = prediction.outputs
        if outputs is None:
            why = prediction.why[0]
            self.unjudged.append(UnjudgedFilm(film=film.path, code=why.code, reason=why.text))
            return
        probabilities = outputs.probabilities @ self.matrix  # a name's probability is the sum of its classes'
        row = _Row(
            film=film,
            truth=self.names.index(self.labels[film.label]),
            predicted=int(probabilities.argmax()),
            probabilities=probabilities,
            status=prediction.status,
            codes=prediction.reason_codes,
            possible=prediction.prediction_set,
            numbers=(
                float("nan") if prediction.brightness is None else prediction.brightness,
                prediction.stages.get("decode", float("nan")),
                prediction.stages.get("model", float("nan")),
            ),
        )
        self.rows.append(row)
        if row.predicted != row.truth and prediction.luma is not None:
            # The map of the most probable class among those of the name; copied, so that the others can be freed.
            best = int(np.where(self.matrix[:, row.predicted], outputs.probabilities, -1).argmax())
            maps = None if outputs.maps is None else outputs.maps[best].copy()
            self._add_mistake(row, prediction.luma, maps)

    def _add_mistake(self, row: _Row, luma: Luma, activation: NDArray[np.float32] | None) -> None:
        mistake = Mistake(
            film=row.film.path,
            label=self.names[row.truth],
            predicted=self.names[row.predicted],
            probability=float(row.probabilities[row.predicted]),
            luma=luma,
            activation=activation,
        )
        self.mistakes = sorted([*self.mistakes, mistake], key=attrgetter("probability"), reverse=True)[:_MOST_MISTAKES]

    def results(self, seconds: float) -> SplitResults:
        rows = self.rows
        brightness, decode, model = np.array([row.numbers for row in rows], np.float64).T
        return SplitResults(
            classes=tuple(self.names),
            groups=self.scheme.groups,
            patients=[row.film.patient for row in rows],
            truth=np.array([row.truth for row in rows], np.int64),
            predicted=np.array([row.predicted for row in rows], np.int64),
            probabilities=np.array([row.probabilities for row in rows], np.float64),
            statuses=[row.status for row in rows],
            codes=[row.codes for row in rows],
            sets=_sets(self.classes, [row.possible for row in rows]) @ self.matrix,
            films=[row.film for row in rows],
            unjudged=self.unjudged,
            brightness=brightness,
            decode_ms=decode,
            model_ms=model,
            seconds=seconds,
            mistakes=self.mistakes,
        )


def predictions_table(results: SplitResults) -> str:
    """`predictions.csv`: path, patient, label, decision and probabilities of each film."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = results.classes
    shares = (f"p_{label}" for label in names)
    writer.writerow(["path", "patient", "label", "predicted", "status", *shares, "set", "reason_codes"])
    for row, film in enumerate(results.films):
        writer.writerow(
            [
                film.path,
                film.patient,
                names[results.truth[row]],
                names[results.predicted[row]],
                results.statuses[row],
                # Fewer digits would tie films, and change an AUROC that is recomputed from the table.
                *(f"{value:.9f}" for value in results.probabilities[row]),
                "; ".join(label for label, held in zip(names, results.sets[row], strict=True) if held),
                "; ".join(results.codes[row]),
            ]
        )
    return stream.getvalue()


def _sets(classes: tuple[str, ...], sets: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
    """Prediction sets of class names as `bool [N, C]`."""
    return np.array([[label in each for label in classes] for each in sets], bool).reshape(-1, len(classes))
