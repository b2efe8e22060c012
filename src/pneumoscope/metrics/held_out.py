"""Calibration judged on films that it was not fitted on: folds by patient, and the choice between two methods."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pneumoscope.metrics.array_types import Floats, Indices
from pneumoscope.metrics.calibration import (
    FLATTEST,
    SHARPEST,
    Method,
    Scaling,
    film_losses,
    fit_temperature,
    fit_vector,
)
from pneumoscope.metrics.resampling import bootstrap_weights, percentile_interval


@dataclass(frozen=True, kw_only=True, eq=False)
class Unseen:
    """What networks say of N films that they have not seen.

    Logits `[N, C]`, class indices `truth` `[N]`, the number of each film's `patient` `[N]` and of its `fold` `[N]` (no
    patient is in two folds), and `weights` `[N]`, how much each film counts.
    """

    logits: Floats
    truth: Indices
    patient: Indices
    fold: Indices
    weights: Floats

    def at(self, rows: NDArray[np.bool_]) -> Self:
        """Some of the films, by a mask `bool [N]`."""
        return type(self)(**{name: values[rows] for name, values in vars(self).items()})

    def parts(self) -> Iterator[tuple[NDArray[np.bool_], Self]]:
        """Each fold as a mask `bool [N]`, and the films of the others; of a single fold, itself."""
        for number in np.unique(self.fold):
            held = self.fold == number
            yield held, self if held.all() else self.at(~held)


def fit(films: Unseen, method: Method) -> Scaling:
    """The cautious fit of a method to films; `none` leaves probabilities as the network gives them."""
    classes = films.logits.shape[1]
    if method == "none":
        return Scaling(method="none", scale=np.ones(classes), bias=np.zeros(classes))
    chosen = fit_vector if method == "vector" else fit_temperature
    return chosen(films.logits, films.truth, films.weights, cautious=True)


def cross_fitted(films: Unseen, method: Method) -> NDArray[np.float64]:
    """Probabilities `[N, C]` of every film by a calibration fitted to the other folds."""
    probabilities = np.empty(films.logits.shape)
    for held, others in films.parts():
        probabilities[held] = fit(others, method).probabilities(films.logits[held])
    return probabilities


def choose_method(films: Unseen, *, draws: int = 1000) -> Method:
    """`vector` where it is better than `temperature` on films that it was not fitted on, else `temperature`.

    Better means that the difference of their weighted mean losses on held-out folds lies below zero with the whole 95 %
    interval of a bootstrap over patients.
    """
    has_all = len(np.unique(films.truth)) == films.logits.shape[1]  # a class without films would lose its probability
    if not has_all or len(np.unique(films.fold)) == 1 or not _is_usable(fit(films, "vector")):
        return "temperature"
    losses = {method: film_losses(films.truth, cross_fitted(films, method)) for method in ("vector", "temperature")}
    _, high = gain_interval(losses["vector"], losses["temperature"], films, draws=draws)
    return "vector" if high < 0 else "temperature"


def gain_interval(one: Floats, two: Floats, films: Unseen, *, draws: int = 1000) -> tuple[float, float]:
    """The 95 % interval over patients of the weighted mean of `one - two`, both a figure of each film `[N]`."""
    patients = films.patient.astype(str).tolist()
    drawn = [
        counts @ (films.weights * (one - two)) / (counts @ films.weights)
        for counts in bootstrap_weights(patients, draws=draws)
    ]
    return percentile_interval(np.concatenate(drawn))


def _is_usable(scaling: Scaling) -> bool:
    """Whether every class's logit speaks for it, and no sharper than a temperature may make it."""
    return bool((scaling.scale >= 1 / FLATTEST).all() and (scaling.scale <= 1 / SHARPEST).all())
