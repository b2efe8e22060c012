"""A decision as the service's JSON: the engine's document, plus the maps and pictures that the request asked for."""

import base64
import hashlib
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from pneumoscope import heatmap
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Prediction
from pneumoscope.engine.document import DecisionDocument
from pneumoscope.engine.reference import Reference
from pneumoscope.imaging import encode
from pneumoscope.settings.serve import Batch

Heatmap: TypeAlias = Literal["none", "maps", "overlay"]
_DIGITS = 4  # significant digits of a map's values


class BatchFacts(BaseModel):
    """What a table of scored films stores besides the decision."""

    file_sha256: str | None = Field(description="Hash of the body; null if it is empty or was not read to its end.")
    distance: float | None = Field(
        description="The embedding's distance from the bundle's reference; 99 % of the reference's films are within 1."
    )
    shares: dict[str, float] = Field(
        description="Calibrated probabilities by class, also of a rejected film; empty if the model was not run."
    )
    embedding: list[float] | None = Field(description="With `--batch embeddings`.")


class DecisionResponse(DecisionDocument):
    """The decision on one film, plus the maps and pictures that the request asked for."""

    notice: str
    maps: dict[str, list[list[float]]] | None = Field(
        default=None,
        description="heatmap=maps: for each class, the rows of its activation map; null if there are none.",
    )
    overlay: str | None = Field(
        default=None, description="heatmap=overlay: a PNG, base64, of the film and the map; null if there is none."
    )
    preview: str | None = Field(
        default=None,
        description="preview=true: a PNG, base64, of the film as it was read; null if it could not be read.",
    )
    batch: BatchFacts | None = Field(default=None, description="With `serve --batch`: facts for a table of results.")


class FormResponse(BaseModel):
    """The decisions on the films of a form, in their order."""

    predictions: list[DecisionResponse]


def render(prediction: Prediction, *, heat: Heatmap, preview: bool) -> dict[str, Any]:
    """The response for a film: the decision, plus the maps and pictures that the request asked for."""
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


def batch_facts(prediction: Prediction, data: bytes, reference: Reference | None, kind: Batch) -> dict[str, Any]:
    """What the response in a batch transform job adds to the decision on the film with these bytes."""
    outputs, distance, shares, embedding = prediction.outputs, None, dict[str, float](), None
    if outputs is not None:
        shares = dict(zip(prediction.classes, map(float, outputs.probabilities), strict=True))
        distance = None if reference is None else float(reference.distance(outputs.embedding))
        embedding = outputs.embedding.tolist() if kind == "embeddings" else None
    sha256 = hashlib.sha256(data).hexdigest()
    return BatchFacts(file_sha256=sha256, distance=distance, shares=shares, embedding=embedding).model_dump()


def _maps(prediction: Prediction) -> dict[str, list[list[float]]] | None:
    if prediction.maps is None:
        return None
    return {
        label: [[float(f"{value:.{_DIGITS}g}") for value in row] for row in rows]
        for label, rows in zip(prediction.classes, prediction.maps.tolist(), strict=True)
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
