"""The report as documents: what `report.json` holds, and the page, the card and the terminal show."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pneumoscope.documents import Document, Sha256, Text
from pneumoscope.engine.document import ModelName

REPORT_FILE = "report.json"
SCHEMA_VERSION = 2
_DIGITS = 6


def _number(value: Any) -> Any:
    """What is not defined is null, not NaN, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else round(float(value), _DIGITS)


#: A number, rounded; null where it is not defined, as a class's sensitivity without films of that class.
Number = Annotated[float | None, BeforeValidator(_number)]
Numbers = tuple[Number, ...]
Rounded = Annotated[float, AfterValidator(lambda value: round(value, 4))]


class Figure(Document):
    """A figure, and the interval that the middle 95 % of the resamplings of patients lie in."""

    value: Number
    low: Number
    high: Number


Figures = dict[str, Figure]


class Band(Document):
    """A curve read at fixed places, with the interval at each."""

    x: Numbers
    value: Numbers
    low: Numbers
    high: Numbers


class Curve(Document):
    """A curve through `x` and `y`, thinned without a visible difference, and its band."""

    x: Numbers
    y: Numbers
    band: Band | None


class Reliability(Document):
    """What is observed where a probability is given, in bins of equal width; empty bins are left out."""

    confidence: Numbers = Field(description="Mean probability of each bin's films.")
    observed: tuple[Figure, ...] = Field(description="Share of them for which it came true.")
    share: Numbers = Field(description="Of all films, at the prior.")


class DecisionCurve(Document):
    """Net benefit of acting from a probability on, beside acting on all films; on none it is 0."""

    model: Band
    treat_all: Numbers


class Curves(Document):
    """The pictures' numbers: by class and by group."""

    roc: dict[str, Curve]
    precision_recall: dict[str, Curve]
    reliability: dict[str, Reliability] = Field(description="`most probable`: of the most probable class.")
    selective: Curve = Field(description="Accuracy of the surest films over the share of films that they are.")
    decision: dict[str, DecisionCurve]


class PredictiveValues(Document):
    """Predictive values where this share of the films shows it, by Bayes' theorem."""

    prevalence: float
    ppv: Figure
    npv: Figure


class OperatingPoint(Document):
    """How films are told apart by one rule: of a class or group, when it is called."""

    name: Text
    of: Text
    threshold: float | None = Field(
        description="Called from this probability on; null: it has the most probable class."
    )
    sensitivity: Figure
    specificity: Figure
    ppv: Figure
    npv: Figure
    at_prevalences: tuple[PredictiveValues, ...]


class SetFigures(Document):
    """Of the decision's sets: how often they hold the true class, and how many classes they have."""

    films: int
    coverage: Figure
    size: Figure


class Sets(Document):
    """Sets of the films that were answered or abstained on."""

    level: float | None = Field(description="The coverage that the sets are made for; null: none is promised.")
    all: SetFigures
    per_class: dict[str, SetFigures]
    sizes: Figures = Field(description="Shares of films by the number of classes in the set.")


class Decisions(Document):
    """What was answered, abstained on and rejected."""

    statuses: dict[str, int] = Field(description="Of films that could be decoded.")
    shares: Figures
    reasons: dict[str, int] = Field(description="How often each reason was given, by its code.")
    rejected_for: dict[str, int] = Field(description="Codes of the rejected films' first reason.")
    answered: Figures = Field(description="Figures of the films that were answered alone.")


class LostFilm(Document):
    """A film that could not be decoded."""

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
    """What can be told without any detail of a lung, by `data audit`'s features, on the same films."""

    features: Text
    task: Text
    accuracy: Figure
    auroc: Figure


class Shortcuts(Document):
    """The audit's baselines; `not_measured` says why there are none."""

    trained_on: str
    baselines: tuple[Baseline, ...]
    not_measured: str


class Times(Document):
    """Milliseconds per film: median, and the range that the middle 90 % lie in."""

    median: Rounded
    low: Rounded
    high: Rounded


class Latency(Document):
    """How long films took, and on what. Films are worked on at the same time, one on each core."""

    processor: Text
    cores: int
    provider: Text
    onnxruntime: Text
    films_per_second: Rounded
    decode_ms: Times
    model_ms: Times


class ModelFacts(Document):
    """Which model it is, from its contract."""

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
    trained_films: int | None = Field(description="Null: the bundle does not say.")
    published: bool | None = Field(description="Trained on films of the published archive alone.")


#: Whether a model was trained on the films: on none; they are its run's own train, validation or stress split; or its
#: bundle cannot tell.
Seen = Literal["no", "own split", "unknown"]


class Films(Document):
    """What was measured on."""

    split: Text
    fingerprint: Sha256
    trained_on: Sha256
    patients: int
    undecodable: tuple[LostFilm, ...]
    seen: Seen
    folds: int | None = Field(description="Out of fold: each film by a network of so many that has not seen it.")
    shares: dict[str, Number] = Field(description="How frequent the classes are among these films.")


Verdict = Literal["better", "worse", "cannot conclude"]


class Difference(Document):
    """This model's figure, the other's, and the difference of the two, paired by film and patient."""

    figure: Text
    this: Number
    other: Number
    difference: Figure
    verdict: Verdict


class PairedTest(Document):
    """A test of whether two models differ on the same films."""

    name: Text
    of: Text
    difference: Number = Field(description="This minus the other: films right, or AUROC.")
    p: Number


class Comparison(Document):
    """Two models on the same films."""

    other: ModelName
    other_seen: Seen
    films: int
    differences: tuple[Difference, ...]
    tests: tuple[PairedTest, ...]


class Drop(Document):
    """A figure on the other hospital's films, on the model's own, and the difference."""

    figure: Text
    of: Text
    here: Figure
    own: Figure
    difference: Figure
    verdict: Verdict


class External(Document):
    """How a set with other labels was judged."""

    labels: dict[str, str] = Field(description="The set's labels, and the class or group that each stands for.")
    left_out: dict[str, int] = Field(description="Labels that were left out, and how many films they have.")
    members: dict[str, tuple[str, ...]] = Field(description="The bundle's classes behind each name.")
    own: str = Field(description="What the model's own figures are of; or why there are none.")
    drops: tuple[Drop, ...]


class Report(Document):
    """`report.json`."""

    schema_version: Literal[2]
    kind: Literal["split", "external", "out-of-fold"]
    intended_use: Text
    pneumoscope: Text
    model: ModelFacts
    dataset: Films
    notes: tuple[Text, ...] = Field(description="What a reader must know before the figures.")
    n: int = Field(ge=1, description="Films that could be decoded; all figures are of these.")
    resamples: int = Field(description="Of the bootstrap over patients.")
    classes: tuple[Text, ...]
    groups: dict[Text, tuple[Text, ...]]
    confusion: tuple[tuple[int, ...], ...] = Field(description="Rows truth, columns the most probable class.")
    metrics: Figures
    per_class: dict[str, Figures]
    per_group: dict[str, Figures]
    calibration_at: Literal["uniform", "films"] = Field(
        description="Class frequencies that loss, Brier score and calibration errors are at."
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
