"""What is said of one film, the same from the command line, the server and the cloud."""

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
    """One film's decision; `as_json` gives the documented schema.

    Not part of the JSON document: `outputs` is what the model said of the film, in the order of `classes`, None if it
    was not asked; `luma` is the film as it was read, `uint8 [H, W]`, if it was to be kept;
    `brightness` is the mean of the model's input, 0 to 1, None of a rejected film; `stages` are the milliseconds
    of `decode` and, if it came to that, `model`.
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
        """The class-activation maps `[C, h, w]`, if the model gave any."""
        return None if self.outputs is None else self.outputs.maps

    @property
    def milliseconds(self) -> float:
        """Of all stages together."""
        return sum(self.stages.values())

    def document(self) -> DecisionDocument:
        """The prediction as the documented decision, numbers rounded."""
        return DecisionDocument.model_validate(self, from_attributes=True)

    def as_json(self) -> dict[str, Any]:
        """The documented decision as plain JSON values, keys in the documented order."""
        return self.document().model_dump(mode="json", by_alias=True)
