"""One pass of films through a bundle, from the files' bytes as a server gets them."""

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
from pneumoscope.engine import Encoded, Engine, Prediction, Rule
from pneumoscope.engine.decision import Verdict
from pneumoscope.errors import DatasetError
from pneumoscope.imaging import Luma
from pneumoscope.metrics import Floats, Indices
from pneumoscope.progress import SILENT, Listener

#: Longest side of the films that are kept for pictures, in pixels.
PICTURE_SIDE = 288
_MOST_MISTAKES = 12
STATUSES = ("answered", "abstained", "rejected")


@dataclass(frozen=True, kw_only=True)
class Level:
    """The names that films are judged by: `members` has the classes of the bundle that each name stands for."""

    members: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[str, ...]]

    @classmethod
    def of_classes(cls, contract: Contract) -> Self:
        """The bundle's own classes and groups."""
        return cls(members={label: (label,) for label in contract.classes}, groups=contract.groups)

    def matrix(self, classes: Sequence[str]) -> NDArray[np.bool_]:
        """Which class belongs to which name, `bool [C, T]`."""
        return np.array([[label in members for members in self.members.values()] for label in classes], bool)


@dataclass(frozen=True, kw_only=True)
class Undecodable:
    """A film of a split that no image could be read from, and why."""

    film: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Mistake:
    """A film that was called by another name than its own: a small copy of it, and the map of the called class."""

    film: str
    label: str
    called: str
    probability: float
    luma: Luma
    activation: NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What a model said of N films, gate or not; arrays are in the films' order.

    Attributes:
        classes: the names that films are judged by, in the order of the indices.
        groups: names that are reported together.
        patients: of each film.
        truth: indices, `int64 [N]`.
        predicted: index of the most probable name, `int64 [N]`.
        probabilities: calibrated, `float64 [N, C]`.
        statuses: the decision on each film.
        codes: the codes of each decision's reasons.
        sets: what the film may be by the decision, `bool [N, C]`; of a rejected film nothing.
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
        """Which films were decided on so, `bool [N]`."""
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
    ) -> "Judged":
        """Films known by their probabilities and decisions alone, such as those of cross-validation."""
        return Judged(
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
class Scored(Judged):
    """A split as a bundle judged it; `films` are those that could be decoded.

    `brightness` (mean of the model's input, 0 to 1) and the milliseconds of decoding and of the model are `float64
    [N]`; `seconds` is the time of the whole pass; `mistakes` are the most confident ones.
    """

    films: Sequence[Record]
    undecodable: Sequence[Undecodable]
    brightness: NDArray[np.float64]
    decode_ms: NDArray[np.float64]
    model_ms: NDArray[np.float64]
    seconds: float
    mistakes: Sequence[Mistake] = field(repr=False)


def part_of(judged: Judged, rows: NDArray[np.bool_]) -> Judged:
    """Some of the films, given by `bool [N]`."""
    places = np.flatnonzero(rows).tolist()
    return Judged(
        classes=judged.classes,
        groups=judged.groups,
        patients=[judged.patients[each] for each in places],
        truth=judged.truth[rows],
        predicted=judged.predicted[rows],
        probabilities=judged.probabilities[rows],
        statuses=[judged.statuses[each] for each in places],
        codes=[judged.codes[each] for each in places],
        sets=judged.sets[rows],
    )


def score(
    engine: Engine, dataset: Dataset, split: str, *, rule: Rule | None = None, listener: Listener = SILENT
) -> Scored:
    """Run a split through the engine. Films that cannot be decoded are counted and named, and have no figures.

    Decisions are by `rule`, the engine's; by default at level class and the contract's coverage.

    Raises:
        DatasetError: the data set's classes are not the bundle's, a file is not the manifest's, or no film of the
            split can be decoded.
    """
    classes = engine.contract.classes
    if set(classes) != set(dataset.classes):
        raise DatasetError(
            f"the bundle knows {', '.join(classes)}, the data set {', '.join(dataset.classes)}; they must be the same, "
            "or be mapped with --external."
        )
    level = Level.of_classes(engine.contract)
    return score_films(engine, dataset, dataset.split(split), level, rule=rule, listener=listener)


def score_films(
    engine: Engine,
    dataset: Dataset,
    films: Sequence[Record],
    level: Level,
    labels: Mapping[str, str] | None = None,
    *,
    rule: Rule | None = None,
    listener: Listener = SILENT,
) -> Scored:
    """Run films of a data set through the engine, to be judged by the names of a level.

    Args:
        engine: of the bundle.
        dataset: of the films.
        films: at least one.
        level: names, and the bundle's classes that they stand for.
        labels: the name of each of the data set's labels; by default its own.
        rule: see `score`.
        listener: hears of progress.

    Raises:
        DatasetError: a file is not the manifest's, or no film can be decoded.
    """
    names = list(level.members)
    gathered, started = _Gathered(engine.contract, level, labels or {label: label for label in names}), time.monotonic()
    encoded = (Encoded(name=film.path, read=partial(dataset.read, film)) for film in films)
    predictions = engine.predict_many(encoded, rule=rule, picture_side=PICTURE_SIDE)
    for film, prediction in zip(films, listener.track("evaluating", predictions, len(films)), strict=True):
        gathered.add(film, prediction)
    if not gathered.rows:
        raise DatasetError(f"none of the {len(films)} films can be decoded: {gathered.undecodable[0].reason}")
    return gathered.scored(time.monotonic() - started)


class _Row(NamedTuple):
    film: Record
    truth: int
    called: int
    probabilities: NDArray[np.float64]
    status: str
    codes: tuple[str, ...]
    possible: tuple[str, ...]
    numbers: tuple[float, float, float]


class _Gathered:
    """What is kept of a stream of predictions: numbers of all films, pictures of the worst mistakes only."""

    def __init__(self, contract: Contract, level: Level, labels: Mapping[str, str]) -> None:
        self.level, self.labels, self.names = level, labels, list(level.members)
        self.classes = contract.classes
        self.matrix = level.matrix(contract.classes)
        self.rows: list[_Row] = []
        self.undecodable: list[Undecodable] = []
        self.mistakes: list[Mistake] = []

    def add(self, film: Record, prediction: Prediction) -> None:
        outputs = prediction.outputs
        if outputs is None:
            why = prediction.why[0]
            self.undecodable.append(Undecodable(film=film.path, code=why.code, reason=why.text))
            return
        probabilities = outputs.probabilities @ self.matrix
        row = _Row(
            film=film,
            truth=self.names.index(self.labels[film.label]),
            called=int(probabilities.argmax()),
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
        if row.called != row.truth and prediction.luma is not None:
            # The map of the most probable class among those that the name stands for.
            best = int(np.where(self.matrix[:, row.called], outputs.probabilities, -1).argmax())
            maps = None if outputs.maps is None else outputs.maps[best].copy()
            self._add_mistake(row, prediction.luma, maps)

    def _add_mistake(self, row: _Row, luma: Luma, activation: NDArray[np.float32] | None) -> None:
        mistake = Mistake(
            film=row.film.path,
            label=self.names[row.truth],
            called=self.names[row.called],
            probability=float(row.probabilities[row.called]),
            luma=luma,
            activation=activation,
        )
        self.mistakes = sorted([*self.mistakes, mistake], key=attrgetter("probability"), reverse=True)[:_MOST_MISTAKES]

    def scored(self, seconds: float) -> Scored:
        rows = self.rows
        brightness, decode, model = np.array([row.numbers for row in rows], np.float64).T
        return Scored(
            classes=tuple(self.names),
            groups=self.level.groups,
            patients=[row.film.patient for row in rows],
            truth=np.array([row.truth for row in rows], np.int64),
            predicted=np.array([row.called for row in rows], np.int64),
            probabilities=np.array([row.probabilities for row in rows], np.float64),
            statuses=[row.status for row in rows],
            codes=[row.codes for row in rows],
            sets=_sets(self.classes, [row.possible for row in rows]) @ self.matrix,
            films=[row.film for row in rows],
            undecodable=self.undecodable,
            brightness=brightness,
            decode_ms=decode,
            model_ms=model,
            seconds=seconds,
            mistakes=self.mistakes,
        )


def _sets(classes: tuple[str, ...], sets: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
    """Prediction sets of class names as `bool [N, C]`."""
    return np.array([[label in each for label in classes] for each in sets], bool).reshape(-1, len(classes))
