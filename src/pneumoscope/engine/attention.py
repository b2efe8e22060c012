"""How much of a class-activation map is at the edge of the film, where there is no lung."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import ActivationMap
from pneumoscope.engine.document import AttentionDocument


@dataclass(frozen=True, kw_only=True)
class Attention:
    """How much of one class's activation map is at the edge of the film: shares of the map's mass, 0 to 1.

    `border` and `corners` are None if the map has no positive part.
    """

    label: str
    border: float | None
    corners: float | None

    @classmethod
    def of_map(cls, label: str, activation: NDArray[np.floating], rule: ActivationMap) -> "Attention":
        """The attention of one class's map; see `rim_shares`."""
        border, corners = rim_shares(activation, rule) or (None, None)
        return cls(label=label, border=border, corners=corners)

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        document = AttentionDocument.model_validate(self, from_attributes=True)
        return document.model_dump(mode="json", by_alias=True)


def rim_shares(activation: NDArray[np.floating], rule: ActivationMap) -> tuple[float, float] | None:
    """Shares of a map's positive mass in the outer border and in the four corners, 0 to 1.

    Each value of the map fills its cell evenly; a cell that is partly in the border counts by that part. A constant
    map has the shares of the areas themselves: `1 - (1 - 2 * border) ** 2` and `(2 * corner) ** 2`.

    Args:
        activation: one class's map, `[h, w]`, of any scale; negative values count as 0.
        rule: width of the border and of the corners, as shares of a side.

    Returns:
        The shares of border and corners; None if no value is positive.

    >>> rule = ActivationMap(method="cam", height=4, width=4, border=0.25, corner=0.25, warn_from=0.5)
    >>> rim_shares(np.ones((4, 4)), rule)
    (0.75, 0.25)
    """
    mass = np.clip(np.asarray(activation, np.float64), 0, None)
    if not (total := float(mass.sum())) > 0:
        return None
    height, width = mass.shape
    inner = _inner(height, rule.border) @ mass @ _inner(width, rule.border)
    corners = (1 - _inner(height, rule.corner)) @ mass @ (1 - _inner(width, rule.corner))
    return 1 - float(inner) / total, float(corners) / total


@cache  # called for every film, with the few grids and margins of the models in use
def _inner(cells: int, margin: float) -> NDArray[np.float64]:
    """For each of `cells` equal parts of a side, the share that is at least `margin` from both ends, `[cells]`."""
    edges = np.clip(np.linspace(0, 1, cells + 1), margin, 1 - margin)
    return np.asarray(np.diff(edges) * cells)
