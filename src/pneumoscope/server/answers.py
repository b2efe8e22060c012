"""A decision as the service's JSON: the engine's document, plus the maps and pictures that the request asked for."""

import base64
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from pneumoscope import heatmap
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Prediction
from pneumoscope.engine.document import DecisionDocument
from pneumoscope.imaging import encode

Heatmap: TypeAlias = Literal["none", "maps", "overlay"]
_DIGITS = 4  # significant digits of a map's values


class Answer(DecisionDocument):
    """The decision on one film, plus the maps and pictures that the request asked for."""

    notice: str
    maps: dict[str, list[list[float]]] | None = Field(
        default=None,
        description="heatmap=maps: for each class, the rows of its map of evidence; null if there are none.",
    )
    overlay: str | None = Field(
        default=None, description="heatmap=overlay: a PNG, base64, of the film and the map; null if there is none."
    )
    preview: str | None = Field(
        default=None,
        description="preview=true: a PNG, base64, of the film as it was read; null if it could not be read.",
    )


class Answers(BaseModel):
    """The decisions on the films of a form, in their order."""

    predictions: list[Answer]


def render(prediction: Prediction, *, heat: Heatmap, preview: bool) -> dict[str, Any]:
    """The answer for a film: the decision, plus the maps and pictures that the request asked for."""
    document = prediction.as_json() | {"notice": DISCLAIMER}
    if heat == "maps":
        document["maps"] = _maps(prediction)
    if heat == "overlay":
        drawn = heatmap.content_of_prediction(prediction)
        document["overlay"] = None if drawn is None else _base64(heatmap.draw(drawn))
    if preview:
        luma = prediction.luma
        document["preview"] = None if luma is None else _base64(encode(luma, "PNG", compress_level=1))
    return document


def _maps(prediction: Prediction) -> dict[str, list[list[float]]] | None:
    if prediction.maps is None:
        return None
    return {
        label: [[float(f"{value:.{_DIGITS}g}") for value in row] for row in rows]
        for label, rows in zip(prediction.classes, prediction.maps.tolist(), strict=True)
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
