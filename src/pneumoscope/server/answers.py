"""A decision as the service's JSON: the same document as everywhere, and what was asked for beside it."""

import base64
from io import BytesIO
from typing import Any, Literal, TypeAlias

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from pneumoscope import heatmap
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Prediction, Status
from pneumoscope.imaging import Luma

Heatmap: TypeAlias = Literal["none", "maps", "overlay"]
_DIGITS = 4


class AttentionAnswer(BaseModel):
    """Where the model looked: shares of its activation map's mass."""

    model_config = ConfigDict(populate_by_name=True)

    label: str = Field(alias="class")
    border: float | None = Field(ge=0, le=1)
    corners: float | None = Field(ge=0, le=1)


class ModelAnswer(BaseModel):
    """Which model it was."""

    name: str
    version: str
    sha256: str


class Answer(BaseModel):
    """What is said of one film."""

    model_config = ConfigDict(populate_by_name=True)

    image: str = Field(description="The name the sender gave the file, if any.")
    status: Status
    index: int | None = Field(alias="class", description="Of the answered class, in the contract's order.")
    label: str | None
    probabilities: dict[str, float] = Field(description="By class, calibrated; empty if rejected.")
    groups: dict[str, float]
    prediction_set: list[str] = Field(description="The classes it may be.")
    reasons: list[str]
    reason_codes: list[str] = Field(description="What each reason says, in a word.")
    attention: AttentionAnswer | None
    model: ModelAnswer
    milliseconds: float = Field(description="Decoding and model, without waiting.")
    notice: str
    maps: dict[str, list[list[float]]] | None = Field(
        default=None, description="heatmap=maps: by class, rows of what speaks for it; null if there are none."
    )
    overlay: str | None = Field(
        default=None, description="heatmap=overlay: a PNG, base64, of the film and the map; null if there is none."
    )
    preview: str | None = Field(
        default=None, description="preview=true: a PNG, base64, of the film as it was read; null if it was not."
    )


class Answers(BaseModel):
    """What is said of the films of a form, in their order."""

    predictions: list[Answer]


def render(prediction: Prediction, *, wanted: Heatmap, preview: bool) -> dict[str, Any]:
    """The answer of a film, with what was asked for beside the decision."""
    document = prediction.as_json() | {"notice": DISCLAIMER}
    if wanted == "maps":
        document["maps"] = _maps(prediction)
    if wanted == "overlay":
        drawn = heatmap.of_prediction(prediction)
        document["overlay"] = None if drawn is None else _text(heatmap.draw(drawn))
    if preview:
        luma = prediction.luma
        document["preview"] = None if luma is None else _text(_png(luma))
    return document


def _maps(prediction: Prediction) -> dict[str, list[list[float]]] | None:
    if prediction.maps is None:
        return None
    return {
        label: [[float(f"{value:.{_DIGITS}g}") for value in row] for row in rows]
        for label, rows in zip(prediction.classes, prediction.maps.tolist(), strict=True)
    }


def _png(luma: Luma) -> bytes:
    stream = BytesIO()
    Image.fromarray(luma).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
