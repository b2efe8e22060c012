"""The decision on one film as every surface gives it: command line, service, endpoint, Lambda.

At once the JSON, the service's schema and its documentation. Every document has every key.
"""

from typing import Literal, TypeAlias

from pydantic import ConfigDict, Field

from pneumoscope.documents import Document

Status: TypeAlias = Literal["answered", "abstained", "rejected"]


class AttentionDocument(Document):
    """Where the model looked: shares of its activation map's mass; null for a map with no positive part."""

    model_config = ConfigDict(populate_by_name=True)

    label: str = Field(alias="class")
    border: float | None = Field(ge=0, le=1)
    corners: float | None = Field(ge=0, le=1)


class ModelName(Document):
    """Which model it was."""

    name: str
    version: str
    sha256: str


class DecisionDocument(Document):
    """The decision on one film."""

    model_config = ConfigDict(populate_by_name=True)

    image: str = Field(description="The name the sender gave the file, if any.")
    status: Status
    index: int | None = Field(alias="class", description="Of the answered class, in the contract's order.")
    label: str | None
    probabilities: dict[str, float] = Field(description="By class, calibrated; empty if rejected.")
    groups: dict[str, float]
    prediction_set: tuple[str, ...] = Field(description="The classes it may be.")
    reasons: tuple[str, ...]
    reason_codes: tuple[str, ...] = Field(description="What each reason says, in a word.")
    attention: AttentionDocument | None
    model: ModelName
    milliseconds: float = Field(ge=0, description="Decoding and model, without waiting.")
