"""The audit as a document: the schema of `audit.json`, which the page shows."""

from typing import Literal, TypeAlias

from pydantic import Field

from pneumoscope.documents import Document, Text

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Estimate(Document):
    """A figure with its 95 % interval (percentile bootstrap over patients)."""

    value: float
    low: float
    high: float


class Finding(Document):
    """A fact that a user of the data must know. `code` is stable; `films` are the names of the films concerned."""

    code: Text
    severity: Severity
    title: Text
    meaning: Text
    films: tuple[str, ...]


class Count(Document):
    """Films and patients of one class in one split; `mean`, `median` and `most` are films per patient."""

    split: Text
    label: Text
    films: int
    patients: int
    mean: float
    median: float
    most: int


class Alike(Document):
    """Two or more films with equal or nearly equal pixels. `distance` is in bits of 256; 0 if the pixels are equal.

    `splits` and `labels` are in the order of `films`. `crosses`: they are in several splits; stress counts as val.
    """

    films: tuple[Text, ...] = Field(min_length=2)
    splits: tuple[Text, ...]
    labels: tuple[Text, ...]
    distance: int
    crosses: bool


class SharedPatient(Document):
    """A patient with films in several splits; `rule` is the source of the patient's name, such as the manifest."""

    rule: Text
    patient: Text
    films: tuple[Text, ...]
    splits: tuple[Text, ...]


class Oddity(Document):
    """A film that is unlike the others or unreadable: the kind of oddity, and `what` was found, in words."""

    film: Text
    kind: Text
    what: Text


class Spread(Document):
    """A quantity over the films of one class in one split."""

    quantity: Text
    unit: str
    split: Text
    label: Text
    n: int
    low: float = Field(description="5th percentile.")
    median: float
    high: float = Field(description="95th percentile.")


class Shares(Document):
    """How often each value of a property occurs in one class of one split."""

    quantity: Text
    split: Text
    label: Text
    n: int
    shares: dict[str, float]


class Shortcut(Document):
    """How well the class is predicted from one set of features without any detail of a lung.

    `task` is `classes`, or a group's name for that group against the rest. `accuracy` is to be compared with `chance`,
    the accuracy of always predicting the most frequent class; `auroc` (one class versus the rest, averaged) with 0.5.
    """

    features: Text
    task: Text
    trained_on: Text
    tested_on: Text
    n: int
    accuracy: Estimate
    chance: float
    auroc: Estimate


class Shift(Document):
    """How well train and test films of one class can be distinguished: an AUROC of 0.5 means not at all."""

    label: Text
    features: Text
    n_train: int
    n_test: int
    auroc: Estimate


class Audit(Document):
    """`audit.json`."""

    schema_version: Literal[1]
    subject: Text
    fingerprint: str
    films: int
    classes: tuple[Text, ...]
    groups: dict[Text, tuple[Text, ...]]
    findings: tuple[Finding, ...]
    counts: tuple[Count, ...]
    identical: tuple[Alike, ...]
    near: tuple[Alike, ...]
    near_distance: int
    conflicts: tuple[Alike, ...]
    patients: tuple[SharedPatient, ...]
    odd: tuple[Oddity, ...]
    spreads: tuple[Spread, ...]
    shares: tuple[Shares, ...]
    shortcuts: tuple[Shortcut, ...]
    shifts: tuple[Shift, ...]
    not_measured: tuple[str, ...]
    disclaimer: Text
    version: Text
    seconds: float

    def worst(self) -> Severity | None:
        """The gravest severity among the findings."""
        there = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in there), None)
