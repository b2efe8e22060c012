"""The report as documents: the schema of `report.json`, which the page, the card and the terminal show."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pneumoscope.documents import Document, Sha256, Text
from pneumoscope.engine.document import ModelName

REPORT_FILE = "report.json"
_DIGITS = 6


def _number(value: Any) -> Any:
    """An undefined number is null: JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else round(float(value), _DIGITS)


#: A rounded number; null if undefined, such as the sensitivity of a class without films.
Number = Annotated[float | None, BeforeValidator(_number)]
Numbers = tuple[Number, ...]
Rounded = Annotated[float, AfterValidator(lambda value: round(value, 4))]


class Figure(Document):
    """A figure with its 95 % interval: in a report, from a bootstrap over patients."""

    value: Number
    low: Number
    high: Number


Figures = dict[str, Figure]


class Band(Document):
    """A curve at fixed values of x, with the 95 % interval at each."""

    x: Numbers
    value: Numbers
    low: Numbers
    high: Numbers


class Curve(Document):
    """A curve through `x` and `y`, thinned without a visible difference, with its band."""

    x: Numbers
    y: Numbers
    band: Band | None


class Reliability(Document):
    """Observed frequency against probability, in bins of equal width; empty bins are left out."""

    confidence: Numbers = Field(description="Mean probability of each bin's films.")
    observed: tuple[Figure, ...] = Field(description="Share of the bin's films that are of the class.")
    share: Numbers = Field(description="Share of all films that are in the bin, weighted to the prior.")


class DecisionCurve(Document):
    """Net benefit of acting on films at or above a threshold probability, and on all films; acting on none has 0."""

    model: Band
    treat_all: Numbers


class Curves(Document):
    """The numbers behind the charts, by class and by group."""

    roc: dict[str, Curve]
    precision_recall: dict[str, Curve]
    reliability: dict[str, Reliability] = Field(
        description="By class; `most probable`: of each film's most probable class."
    )
    selective: Curve = Field(description="Accuracy against the share of films answered, highest confidence first.")
    decision: dict[str, DecisionCurve]


class PredictiveValues(Document):
    """Predictive values at a stated prevalence of the class or group, by Bayes' theorem."""

    prevalence: float
    ppv: Figure
    npv: Figure


class OperatingPoint(Document):
    """Rates of one rule that calls films positive for a class or group."""

    name: Text
    of: Text
    threshold: float | None = Field(
        description="Least probability at which a film is called positive; null: a film is called positive if its "
        "most probable class is the class `of`, or in the group `of`."
    )
    sensitivity: Figure
    specificity: Figure
    ppv: Figure
    npv: Figure
    at_prevalences: tuple[PredictiveValues, ...]


class SetFigures(Document):
    """How often the decisions' prediction sets contain the true class, and how many classes they have."""

    films: int
    coverage: Figure
    size: Figure


class Sets(Document):
    """Prediction sets of the films that were answered or abstained on."""

    level: float | None = Field(description="The coverage that the sets are made for; null: none is guaranteed.")
    all: SetFigures
    per_class: dict[str, SetFigures]
    sizes: Figures = Field(description="Shares of films by the number of classes in the set.")


class Decisions(Document):
    """How many films were answered, abstained on and rejected, and why."""

    statuses: dict[str, int] = Field(description="Number of films that reached the model, per status.")
    shares: Figures
    reasons: dict[str, int] = Field(description="How often each reason was given, by its code.")
    rejected_for: dict[str, int] = Field(description="Number of rejected films by the code of their first reason.")
    answered: Figures = Field(description="Figures of only the films that were answered.")


class UnjudgedFilm(Document):
    """A film that did not reach the model: it could not be decoded, or was rejected before the model was run."""

    film: Text
    code: Text
    reason: Text


class Subgroup(Document):
    """Figures of the films that share a property."""

    quantity: Text
    value: Text
    films: int
    patients: int
    figures: Figures


class Baseline(Document):
    """How well features without any detail of a lung (those of `data audit`) predict the same films."""

    features: Text
    task: Text
    accuracy: Figure
    auroc: Figure


class Shortcuts(Document):
    """The audit's shortcut baselines; `not_measured` is the reason if there are none."""

    trained_on: str
    baselines: tuple[Baseline, ...]
    not_measured: str


class Times(Document):
    """Milliseconds per film: median, and the range of the middle 90 %."""

    median: Rounded
    low: Rounded
    high: Rounded


class Latency(Document):
    """How long films took, and on which machine. Films are processed in parallel, one on each core."""

    processor: Text
    cores: int
    provider: Text
    onnxruntime: Text
    films_per_second: Rounded
    decode_ms: Times
    model_ms: Times


class ModelFacts(Document):
    """The model that was measured, from its contract."""

    name: Text
    version: Text
    sha256: Sha256
    intended_use: Text
    arch: Text
    recipe: Text
    initial_weights: Text
    precision: Text
    input_size: int
    prior: Text
    age_years: tuple[float, float] | None
    drawings: bool | None
    dataset: Sha256
    trained_films: int | None = Field(description="Number of training films; null: the bundle does not state it.")
    published: bool | None = Field(description="Whether it was trained on films of the published archive only.")


#: Whether a model was trained on the films. `no`: on none of them. `own split`: they are its run's own train,
#: validation or stress split. `unknown`: its bundle does not list the films that it was trained on.
Seen = Literal["no", "own split", "unknown"]


class Films(Document):
    """The films that the figures were measured on."""

    split: Text
    fingerprint: Sha256
    trained_on: Sha256
    patients: int
    unjudged: tuple[UnjudgedFilm, ...]
    seen: Seen
    folds: int | None = Field(
        description="Number of folds of the cross-validation that predicted the films; null if one network did."
    )
    shares: dict[str, Number] = Field(description="Share of these films in each class and group.")


Verdict = Literal["better", "worse", "cannot conclude"]


class Difference(Document):
    """This model's figure, the other's, and their difference, paired by film and patient."""

    figure: Text
    this: Number
    other: Number
    difference: Figure
    verdict: Verdict


class PairedTest(Document):
    """A test of whether two models differ on the same films."""

    name: Text
    of: Text
    difference: Number = Field(description="This minus the other: number of correct films, or AUROC.")
    p: Number


class Comparison(Document):
    """Another model on the same films."""

    other: ModelName
    other_seen: Seen
    films: int
    differences: tuple[Difference, ...]
    tests: tuple[PairedTest, ...]


class Drop(Document):
    """A figure on the external films, on films like those that the model was trained on, and the difference."""

    figure: Text
    of: Text
    here: Figure
    own: Figure
    difference: Figure
    verdict: Verdict


class External(Document):
    """How a data set with other labels was evaluated."""

    labels: dict[str, str] = Field(description="The data set's labels, each with the class or group it is mapped to.")
    left_out: dict[str, int] = Field(description="Labels that were left out, with their numbers of films.")
    members: dict[str, tuple[str, ...]] = Field(description="The bundle's classes that belong to each name.")
    own: str = Field(description="The films that the model's own figures were measured on, or why there are none.")
    drops: tuple[Drop, ...]


class Report(Document):
    """The document `report.json`."""

    schema_version: Literal[3]
    kind: Literal["split", "external", "out-of-fold"]
    intended_use: Text
    pneumoscope: Text
    model: ModelFacts
    dataset: Films
    notes: tuple[Text, ...] = Field(description="Warnings that a reader must see before the figures.")
    n: int = Field(ge=1, description="Number of films that reached the model; all figures are of these.")
    resamples: int = Field(description="Resamples of the bootstrap over patients.")
    classes: tuple[Text, ...]
    groups: dict[Text, tuple[Text, ...]]
    confusion: tuple[tuple[int, ...], ...] = Field(description="Rows truth, columns the most probable class.")
    metrics: Figures
    per_class: dict[str, Figures]
    per_group: dict[str, Figures]
    calibration_at: Literal["uniform", "films"] = Field(
        description="Class frequencies at which loss, Brier score and calibration errors are measured."
    )
    points: tuple[OperatingPoint, ...]
    decisions: Decisions
    sets: Sets
    curves: Curves
    subgroups: tuple[Subgroup, ...]
    shortcuts: Shortcuts
    latency: Latency | None
    comparison: Comparison | None
    external: External | None
