"""Calibration evaluated on films that it was not fitted to: folds by patient, and the choice between two methods."""

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
class HeldOutFilms:
    """Outputs of networks for N films that they were not trained on.

    Logits `[N, C]`, class indices `truth` `[N]`, the number of each film's `patient` `[N]` and `fold` `[N]` (no patient
    is in two folds), and `weights` `[N]`, how much each film counts.
    """

    logits: Floats
    truth: Indices
    patient: Indices
    fold: Indices
    weights: Floats

    def at(self, rows: NDArray[np.bool_]) -> Self:
        """The films that a mask `bool [N]` selects."""
        return type(self)(**{name: values[rows] for name, values in vars(self).items()})

    def parts(self) -> Iterator[tuple[NDArray[np.bool_], Self]]:
        """Each fold as a mask `bool [N]`, and the films of the other folds; a single fold comes with its own films."""
        for number in np.unique(self.fold):
            held = self.fold == number
            yield held, self if held.all() else self.at(~held)


def fit(films: HeldOutFilms, method: Method) -> Scaling:
    """Fit a calibration method to films, with `cautious=True`; `none` keeps the network's probabilities."""
    classes = films.logits.shape[1]
    if method == "none":
        return Scaling(method="none", scale=np.ones(classes), bias=np.zeros(classes))
    chosen = fit_vector if method == "vector" else fit_temperature
    return chosen(films.logits, films.truth, films.weights, cautious=True)


def cross_fitted(films: HeldOutFilms, method: Method) -> NDArray[np.float64]:
    """Probabilities `[N, C]`: each film's by a calibration that was fitted to the other folds."""
    probabilities = np.empty(films.logits.shape)
    for held, others in films.parts():
        probabilities[held] = fit(others, method).probabilities(films.logits[held])
    return probabilities


def choose_method(films: HeldOutFilms, *, resamples: int = 1000) -> Method:
    """`vector` if it is better than `temperature` on films that it was not fitted to, else `temperature`.

    It is better if its weighted mean loss on held-out folds is lower, and the whole 95 % interval of the difference,
    from a bootstrap over patients, is below zero. In doubt, the method with fewer parameters wins: also if a class has
    no films, if there is only one fold, or if a scale of `vector` is outside the range that a temperature allows.
    """
    # Vector scaling fitted to no film of a class would push that class's probability towards zero.
    has_all = len(np.unique(films.truth)) == films.logits.shape[1]
    if not has_all or len(np.unique(films.fold)) == 1 or not _is_usable(fit(films, "vector")):
        return "temperature"
    losses = {method: film_losses(films.truth, cross_fitted(films, method)) for method in ("vector", "temperature")}
    _, high = difference_interval(losses["vector"], losses["temperature"], films, resamples=resamples)
    return "vector" if high < 0 else "temperature"


def difference_interval(one: Floats, two: Floats, films: HeldOutFilms, *, resamples: int = 1000) -> tuple[float, float]:
    """The 95 % interval, over patients, of the weighted mean of `one - two`, a value per film `[N]` each."""
    patients = films.patient.astype(str).tolist()
    drawn = [
        counts @ (films.weights * (one - two)) / (counts @ films.weights)
        for counts in bootstrap_weights(patients, resamples=resamples)
    ]
    return percentile_interval(np.concatenate(drawn))


def _is_usable(scaling: Scaling) -> bool:
    """Whether every class's scale is positive and within the range that a temperature may have."""
    return bool((scaling.scale >= 1 / FLATTEST).all() and (scaling.scale <= 1 / SHARPEST).all())
