"""The summary of scored films, `_summary.json`: counts, rates, drift figures and shards, from the parts' tallies."""

import math
from typing import Any, Literal

from pydantic import Field

from pneumoscope import __version__
from pneumoscope.contract import DISCLAIMER, Contract
from pneumoscope.documents import Document, Sha256, Text
from pneumoscope.engine.bundle import model_name
from pneumoscope.engine.document import ModelName
from pneumoscope.engine.reference import Reference
from pneumoscope.report.document import Figure, Figures
from pneumoscope.report.drift import Sign, compare_with_reference, overall_verdict, reference_words
from pneumoscope.score.parts import contract_sha256
from pneumoscope.score.tally import Tally

#: The leading underscore hides it from readers that take every file of a folder for a part.
SUMMARY_FILE = "_summary.json"
_NORMAL_975 = 1.959963984540054  # the normal distribution's 97.5 % quantile


class Shards(Document):
    """The shards of a run. The `again_…` fields count tries after the first: after a loss, or because one was slow."""

    total: int = Field(ge=0)
    there: int = Field(ge=0, description="Shards whose parts were there already when the run began.")
    again_after_loss: int = Field(ge=0)
    again_as_slow: int = Field(ge=0)


class Summary(Document):
    """The document `_summary.json`."""

    schema_version: Literal[1]
    intended_use: Text
    pneumoscope: Text
    model: ModelName
    contract: Sha256
    sources: tuple[Text, ...]
    options: dict[str, bool | int | float | str | None]
    shards: Shards
    films: int = Field(ge=0)
    statuses: dict[str, int]
    rates: Figures = Field(description="Shares of all films by status, with 95 % intervals.")
    unread: int = Field(ge=0, description="Films from which no image could be read.")
    reasons: dict[str, int]
    seconds: float = Field(ge=0, description="Of this run, without the listing.")
    films_per_second: float = Field(ge=0, description="Of this run: films of the shards that it scored.")
    workers: int = Field(ge=0)
    threads: int = Field(ge=0, description="Per worker.")
    reference: Text = Field(description="The films that these are compared with, in words.")
    signs: tuple[Sign, ...] = Field(description="Signs of drift, as in drift.json of `evaluate --unlabelled`.")
    verdict: Text


def rates(tally: Tally) -> Figures:
    """The share of each status among all films.

    >>> rates(Tally.of([]))["answered"].value is None
    True
    """
    return {name: share(tally.statuses.get(name, 0), tally.films) for name in ("answered", "abstained", "rejected")}


def drift_figures(contract: Contract, tally: Tally) -> Figures:
    """The figures that `evaluate --unlabelled` compares with the reference, from counts and sums.

    Intervals are those of the normal distribution, and not from resampling, which needs every film's values in memory.
    From some hundred films on, the two agree.
    """
    found = {name: share(tally.judged_statuses.get(name, 0), tally.judged) for name in ("rejected", "abstained")}
    for label in contract.classes:
        found[f"share {label}"] = share(tally.most_probable.get(label, 0), tally.weighed)
        total, squares = tally.probability_sums.get(label, 0.0), tally.probability_squares.get(label, 0.0)
        found[f"probability {label}"] = mean(total, squares, tally.weighed)
    found["far"] = share(tally.far, tally.measured)
    found["distance"] = mean(tally.distance_sum, tally.distance_squares, tally.measured)
    return found


def share(count: int, films: int) -> Figure:
    """A share of films with its 95 % interval; undefined for no films."""
    return mean(count, count, films)


def mean(total: float, squares: float, films: int) -> Figure:
    """A mean with its 95 % interval, from a sum and a sum of squares; undefined for no films.

    >>> figure = mean(50, 50, 100)
    >>> figure.value, round(figure.low, 3), round(figure.high, 3)
    (0.5, 0.402, 0.598)
    """
    if not films:
        return Figure(value=None, low=None, high=None)
    value = total / films
    spread = _NORMAL_975 * math.sqrt(max(0.0, squares / films - value**2) / films)
    return Figure(value=value, low=value - spread, high=value + spread)


def summarise(
    contract: Contract,
    reference: Reference | None,
    tally: Tally,
    *,
    shards: Shards,
    sources: tuple[str, ...],
    options: dict[str, Any],
    scored: int,
    seconds: float,
    workers: int,
    threads: int,
) -> Summary:
    """The summary of all parts.

    Args:
        contract: of the model that decided.
        reference: of its bundle, if it has one.
        tally: of all parts.
        shards: counts of this run.
        sources: addresses.
        options: how films were decided on.
        scored: films of the shards that this run scored.
        seconds: that it took.
        workers: largest number of workers at a time.
        threads: per worker.
    """
    signs = tuple(compare_with_reference(contract, drift_figures(contract, tally), reference))
    return Summary(
        schema_version=1,
        intended_use=DISCLAIMER,
        pneumoscope=__version__,
        model=ModelName(**model_name(contract)),
        contract=contract_sha256(contract),
        sources=sources,
        options=options,
        shards=shards,
        films=tally.films,
        statuses=dict(sorted(tally.statuses.items())),
        rates=rates(tally),
        unread=tally.unread,
        reasons=dict(sorted(tally.reasons.items(), key=lambda item: (-item[1], item[0]))),
        seconds=round(seconds, 2),
        films_per_second=round(scored / max(seconds, 1e-9), 2),
        workers=workers,
        threads=threads,
        reference=reference_words(reference),
        signs=signs,
        verdict=overall_verdict(signs) if tally.judged else "The model was run on none of the files.",
    )
