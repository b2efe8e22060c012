"""The decision on one film, as the command line, the service, the endpoint and the Lambda function return it.

These models define the JSON, the service's schema and its documentation. Every document has every key.
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
    """Where the model looked: shares of its activation map's mass; null if the map has no positive part."""

    model_config = ConfigDict(populate_by_name=True)

    label: str = Field(alias="class")
    border: Share | None
    corners: Share | None


class ModelName(Document):
    """The model that decided."""

    name: str
    version: str
    sha256: str


class DecisionDocument(Document):
    """The decision on one film."""

    model_config = ConfigDict(populate_by_name=True)

    image: str = Field(description="The file's name, as the caller gave it; empty if none was given.")
    status: Status
    class_index: int | None = Field(
        alias="class", description="Index of the answered class in the contract's order; null if no class is answered."
    )
    label: str | None
    probabilities: dict[str, Probability] = Field(description="By class, calibrated; empty if rejected.")
    groups: dict[str, Probability]
    prediction_set: tuple[str, ...] = Field(description="The classes that fit the film.")
    coverage: float | None = Field(
        description="The share of each class's films whose set contains the class; null at an operating point, if "
        "rejected, or if an older bundle does not state it."
    )
    reasons: tuple[str, ...]
    reason_codes: tuple[str, ...] = Field(description="The code of each reason.")
    attention: AttentionDocument | None
    model: ModelName
    milliseconds: Annotated[float, Field(ge=0, description="Decoding and model, without waiting."), _rounded(2)]
