"""The decision on one film as every surface gives it: command line, service, endpoint, Lambda.

At once the JSON, the service's schema and its documentation. Every document has every key.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field

from pneumoscope.documents import Document

Level: TypeAlias = Literal["class", "group"]
Status: TypeAlias = Literal["answered", "abstained", "rejected"]


def _rounded(digits: int) -> AfterValidator:
    return AfterValidator(lambda value: round(value, digits))


#: Numbers are rounded when a document is made.
Probability = Annotated[float, _rounded(6)]
Share = Annotated[float, Field(ge=0, le=1), _rounded(4)]


class AttentionDocument(Document):
    """Where the model looked: shares of its activation map's mass; null for a map with no positive part."""

    model_config = ConfigDict(populate_by_name=True)

    label: str = Field(alias="class")
    border: Share | None
    corners: Share | None


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
    class_index: int | None = Field(alias="class", description="Of the answered class, in the contract's order.")
    label: str | None
    probabilities: dict[str, Probability] = Field(description="By class, calibrated; empty if rejected.")
    groups: dict[str, Probability]
    prediction_set: tuple[str, ...] = Field(description="The classes it may be.")
    coverage: float | None = Field(
        description="The share of each class's films whose set holds it; null at an operating point, or if rejected."
    )
    reasons: tuple[str, ...]
    reason_codes: tuple[str, ...] = Field(description="What each reason says, in a word.")
    attention: AttentionDocument | None
    model: ModelName
    milliseconds: Annotated[float, Field(ge=0, description="Decoding and model, without waiting."), _rounded(2)]
