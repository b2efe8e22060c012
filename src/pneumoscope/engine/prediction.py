"""What is said of one film, the same from the command line, the server and the cloud."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pneumoscope.engine.document import AttentionDocument, DecisionDocument, ModelName, Status
from pneumoscope.imaging import Luma

Level: TypeAlias = Literal["class", "group"]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Where the model looked to favour one class: shares of its activation map's mass, 0 to 1.

    Both are None for a map with no positive part.
    """

    label: str
    border: float | None
    corners: float | None

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"class": self.label, "border": _rounded(self.border, 4), "corners": _rounded(self.corners, 4)}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One film's decision; `as_json` gives the documented schema.

    `reason_codes` say in a word what each of `reasons` says in a sentence. Not part of the JSON document:
    `maps` are the class-activation maps `float32 [C, h, w]` in the order of `classes`, if the model gives
    any; `luma` is the film as it was read, `uint8 [H, W]`, if it was to be kept; `brightness` is the mean of
    the model's input, 0 to 1, None of a rejected film; `stages` are the milliseconds of `decode` and, if it
    came to that, `model`.
    """

    image: str
    classes: tuple[str, ...]
    group_names: tuple[str, ...]
    status: Status
    label: str | None
    class_index: int | None
    probabilities: dict[str, float]
    groups: dict[str, float]
    prediction_set: tuple[str, ...]
    reasons: tuple[str, ...]
    reason_codes: tuple[str, ...]
    attention: Attention | None
    maps: NDArray[np.float32] | None = field(compare=False, repr=False)
    luma: Luma | None = field(compare=False, repr=False)
    model: dict[str, str]
    brightness: float | None = field(compare=False)
    stages: dict[str, float] = field(compare=False)

    @property
    def milliseconds(self) -> float:
        """Of all stages together."""
        return sum(self.stages.values())

    def document(self) -> DecisionDocument:
        """The prediction as the documented decision, numbers rounded."""
        attention = self.attention
        return DecisionDocument(
            image=self.image,
            status=self.status,
            index=self.class_index,
            label=self.label,
            probabilities={label: round(value, 6) for label, value in self.probabilities.items()},
            groups={group: round(value, 6) for group, value in self.groups.items()},
            prediction_set=self.prediction_set,
            reasons=self.reasons,
            reason_codes=self.reason_codes,
            attention=None if attention is None else AttentionDocument.model_validate(attention.as_json()),
            model=ModelName.model_validate(self.model),
            milliseconds=round(self.milliseconds, 2),
        )

    def as_json(self) -> dict[str, Any]:
        """The documented decision as plain JSON values, keys in the documented order."""
        return self.document().model_dump(mode="json", by_alias=True)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
