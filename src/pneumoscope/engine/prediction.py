"""The prediction on one film, the same from the command line, the server and the cloud."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumoscope.engine.bundle import Outputs
from pneumoscope.engine.decision import Verdict
from pneumoscope.engine.document import DecisionDocument
from pneumoscope.imaging import Luma


@dataclass(frozen=True, kw_only=True)
class Prediction(Verdict):
    """The decision on one film, with the model's numbers; `as_json` returns the documented schema.

    Not part of the JSON document: `outputs` are the model's outputs, in the order of `classes`, None if the model was
    not run; `luma` is the radiograph, `uint8 [H, W]`, if it was requested; `brightness` is the mean of the model's
    input, 0 to 1, None if there is no input; `stages` are the milliseconds of `decode` and, if the model was run, of
    `model`.
    """

    image: str
    classes: tuple[str, ...]
    group_names: tuple[str, ...]
    probabilities: dict[str, float] = field(default_factory=dict)
    groups: dict[str, float] = field(default_factory=dict)
    outputs: Outputs | None = field(default=None, compare=False, repr=False)
    luma: Luma | None = field(default=None, compare=False, repr=False)
    model: dict[str, str]
    brightness: float | None = field(default=None, compare=False)
    stages: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def maps(self) -> NDArray[np.float32] | None:
        """The class-activation maps `[C, h, w]`, if the model has them."""
        return None if self.outputs is None else self.outputs.maps

    @property
    def milliseconds(self) -> float:
        """The time of all stages together."""
        return sum(self.stages.values())

    def document(self) -> DecisionDocument:
        """The prediction as the documented decision, with rounded numbers."""
        return DecisionDocument.model_validate(self, from_attributes=True)

    def as_json(self) -> dict[str, Any]:
        """The documented decision as plain JSON values, with keys in the documented order."""
        return self.document().model_dump(mode="json", by_alias=True)
