"""Counts and sums over scored films; those of several parts add up to those of all films."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pneumoscope.documents import Document
from pneumoscope.engine.document import DecisionDocument
from pneumoscope.errors import UNREAD


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One scored film: its decision, and what a part stores beside it.

    `image` in the document is the film's name inside `source`. `file_sha256` is the hash of the file's bytes, None if
    they could not be read. `distance` is the embedding's distance from the bundle's reference, in multiples of the
    distance that 99 of 100 reference films do not exceed. `embedding` is `float32 [D]`.

    `shares` is not stored: the calibrated probabilities by class, also of a rejected film; empty if the model was not
    run. If it is None, the document's own are counted.
    """

    document: DecisionDocument
    source: str
    file_sha256: str | None
    distance: float | None = None
    embedding: NDArray[np.float32] | None = None
    shares: dict[str, float] | None = None

    @property
    def unread(self) -> bool:
        """Whether no image could be read from the file."""
        return not UNREAD.isdisjoint(self.document.reason_codes)

    @property
    def judged(self) -> bool:
        """Whether the model was run on the film; if `shares` is None, whether an image could be read from its file."""
        if self.shares is not None:
            return bool(self.shares)
        return not self.unread


class Tally(Document):
    """Counts and sums over films. Fields that begin with `judged` are over the films that the model was run on."""

    films: int = Field(ge=0)
    unread: int = Field(ge=0, description="Films from which no image could be read.")
    statuses: dict[str, int]
    reasons: dict[str, int] = Field(description="Films by reason code; a film can have several.")
    milliseconds: float = Field(ge=0, description="Decoding and model, summed over the films.")
    judged: int = Field(ge=0)
    judged_statuses: dict[str, int]
    weighed: int = Field(ge=0, description="Films with probabilities in the three fields below.")
    most_probable: dict[str, int] = Field(description="Films by their most probable class.")
    probability_sums: dict[str, float]
    probability_squares: dict[str, float] = Field(description="Sums of squared probabilities.")
    measured: int = Field(ge=0, description="Films with a distance.")
    far: int = Field(ge=0, description="Films with a distance over 1.")
    distance_sum: float
    distance_squares: float

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """The tally of these films."""
        rows = list(rows)
        judged = [row for row in rows if row.judged]
        shares = [found for row in rows if (found := row.document.probabilities if row.shares is None else row.shares)]
        distances = [row.distance for row in rows if row.distance is not None]
        classes = list(dict.fromkeys(name for each in shares for name in each))
        return cls(
            films=len(rows),
            unread=sum(row.unread for row in rows),
            statuses=Counter(row.document.status for row in rows),
            reasons=Counter(code for row in rows for code in dict.fromkeys(row.document.reason_codes)),
            milliseconds=sum(row.document.milliseconds for row in rows),
            judged=len(judged),
            judged_statuses=Counter(row.document.status for row in judged),
            weighed=len(shares),
            most_probable=Counter(max(each, key=each.__getitem__) for each in shares),
            probability_sums={name: sum(each[name] for each in shares) for name in classes},
            probability_squares={name: sum(each[name] ** 2 for each in shares) for name in classes},
            measured=len(distances),
            far=sum(distance > 1 for distance in distances),
            distance_sum=sum(distances),
            distance_squares=sum(distance**2 for distance in distances),
        )

    def __add__(self, other: "Tally") -> "Tally":
        def added(name: str) -> object:
            one, two = getattr(self, name), getattr(other, name)
            if not isinstance(one, dict):
                return one + two
            return {key: one.get(key, 0) + two.get(key, 0) for key in dict.fromkeys((*one, *two))}

        return Tally.model_validate({name: added(name) for name in type(self).model_fields})
