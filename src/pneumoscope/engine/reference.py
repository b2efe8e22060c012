"""The reference of a bundle, `reference.npz`: the reference films' embeddings and decisions, to detect drift.

===============  =================================================================================
`about`          JSON (`About`): which films, and the decisions on them
`mean`           of the embeddings, `float32 [D]`
`deviation`      of the embeddings, `float32 [D]`
`distances`      quantiles of the films' own distances, from 0 to 1 in steps of 0.01, `float32 [101]`
===============  =================================================================================
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pneumoscope.arrays import Kind, read_arrays, write_arrays
from pneumoscope.contract import Contract
from pneumoscope.documents import Document, read_document
from pneumoscope.errors import BundleError

REFERENCE_FILE = "reference.npz"
#: Percentile of the reference's own distances that becomes the distance 1: one in a hundred of its films is beyond it.
FAR_QUANTILE = 99
_QUANTILES = 101
_KINDS: dict[str, Kind] = {
    "about": (np.uint8, ("bytes",)),
    "mean": (np.float32, ("D",)),
    "deviation": (np.float32, ("D",)),
    "distances": (np.float32, (_QUANTILES,)),
}


class DecisionStatistics(Document):
    """The decisions on the films that set the thresholds: shares of them by status and by class.

    They did not go through the gate: if the bundle has one, `rejected` is the share that its limits were set to reject.
    """

    films: int = Field(ge=1)
    source: Literal["out-of-fold", "validation"]
    rejected: float = Field(ge=0, le=1)
    abstained: float = Field(ge=0, le=1)
    class_shares: dict[str, float] = Field(description="Share of the films whose most probable class this is.")
    mean_probabilities: dict[str, float]


class About(Document):
    """The films that the reference was computed from."""

    schema_version: Literal[1]
    trained_films: int = Field(ge=1, description="Number of films that the model was trained on.")
    published: bool = Field(description="Whether the run's data set has films of the published archive only.")
    embedded_films: int = Field(ge=1, description="Number of films behind mean, deviation and distances.")
    embedded_split: Literal["train", "val"]
    answers: DecisionStatistics


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The reference of a bundle; shapes and types are in the module's docstring."""

    about: About
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    distances: NDArray[np.float32]

    @classmethod
    def of(cls, embeddings: NDArray[np.float32], about: About) -> Self:
        """The reference of films with these embeddings `[N, D]`."""
        mean, deviation = embeddings.mean(axis=0), embeddings.std(axis=0)
        own = _distance(embeddings, mean, deviation)
        return cls(
            about=about,
            mean=mean.astype(np.float32),
            deviation=deviation.astype(np.float32),
            distances=np.quantile(own, np.linspace(0, 1, _QUANTILES)).astype(np.float32),
        )

    @property
    def far(self) -> float:
        """The distance that 99 of 100 of the reference's films do not exceed."""
        return float(self.distances[FAR_QUANTILE])

    def distance(self, embedding: NDArray[np.floating]) -> NDArray[np.float64]:
        """How far films are from the reference's, in multiples of `far`: embeddings `[..., D]` to `float64 [...]`.

        The root of the mean squared deviation over the embedding's dimensions, each in units of the reference's own
        deviation: a Mahalanobis distance with a diagonal covariance (the full one needs many more films than D).
        """
        return _distance(embedding, self.mean, self.deviation) / max(self.far, 1e-12)


def _distance(
    embedding: NDArray[np.floating], mean: NDArray[np.floating], deviation: NDArray[np.floating]
) -> NDArray[np.float64]:
    # A dimension that is constant over the reference carries no information; its rounding errors, divided by a
    # deviation near 0, would be huge.
    alive = deviation > 1e-6 * max(float(deviation.max(initial=0.0)), 1e-30)
    scaled = (np.asarray(embedding, np.float64)[..., alive] - mean[alive]) / deviation[alive]
    return np.asarray(np.sqrt(np.square(scaled).sum(axis=-1) / max(1, int(alive.sum()))))


def save_reference(reference: Reference, folder: Path) -> None:
    """Write `reference.npz` into a bundle's folder."""
    arrays = {name: getattr(reference, name) for name in _KINDS if name != "about"}
    arrays["about"] = np.frombuffer(reference.about.model_dump_json().encode(), np.uint8)
    write_arrays(folder / REFERENCE_FILE, arrays)


def load_reference(bundle: Path, contract: Contract) -> Reference | None:
    """The reference of a bundle; None if its contract does not list one, as in bundles of older versions.

    Raises:
        BundleError: the file is damaged.
    """
    if REFERENCE_FILE not in contract.files:
        return None
    try:
        found = read_arrays(bundle / REFERENCE_FILE, _KINDS)
        about = read_document(About, found.pop("about").tobytes())
    except ValueError as failure:
        raise BundleError(f"{bundle / REFERENCE_FILE} is damaged: {failure}; export the bundle again.") from failure
    return Reference(about=about, **found)
