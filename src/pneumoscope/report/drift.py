"""Drift: whether films without labels differ from a bundle's reference, in embeddings or in decisions."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pneumoscope import __version__, metrics
from pneumoscope.contract import DISCLAIMER, Contract
from pneumoscope.documents import Document, Text, write_document
from pneumoscope.engine import Engine, ImageFile, Prediction
from pneumoscope.engine.document import ModelName
from pneumoscope.engine.reference import FAR_QUANTILE, Reference, load_reference
from pneumoscope.errors import UsageError
from pneumoscope.files import whole_directory, write_text
from pneumoscope.metrics import Weights
from pneumoscope.progress import SILENT, Listener
from pneumoscope.report.document import Figure, Figures, Number, UnjudgedFilm
from pneumoscope.report.external import independent_difference
from pneumoscope.report.figures import RESAMPLES, to_figures

DRIFT_FILE, PAGE_FILE, DECISIONS_FILE = "drift.json", "drift.html", "predictions.csv"
#: Differences of shares smaller than this do not matter in practice, even if there are enough films to prove them.
TOLERANCE = 0.02
_MANY = 0.1  # share of films with a distance over 1
_FAR = "share beyond distance 1"  # of the embedding; 1 is the distance that 99 % of the reference's films are within
_NORMAL_975 = 1.959963984540054  # the normal distribution's 97.5 % quantile

Grade: TypeAlias = Literal["alike", "different", "unknown"]


class Sign(Document):
    """One quantity on these films and in the reference, with a verdict on the difference."""

    quantity: Text
    here: Figure
    reference: Number
    grade: Grade
    verdict: Text


class Drift(Document):
    """The document `drift.json`."""

    schema_version: Literal[2]
    intended_use: Text
    pneumoscope: Text
    model: ModelName
    folder: Text
    n: int = Field(ge=1, description="Number of image files.")
    unjudged: tuple[UnjudgedFilm, ...]
    statuses: dict[str, int] = Field(description="Number of films that reached the model, per status.")
    reasons: dict[str, int]
    resamples: int = Field(description="Resamples of the bootstrap over films; the patients are not known.")
    reference: Text = Field(description="The films that these are compared with, in words.")
    signs: tuple[Sign, ...]
    verdict: Text


@dataclass(frozen=True, kw_only=True, eq=False)
class _JudgedFilms:
    """Films that reached the model: statuses, probabilities `[N, C]`, distances `[N]` (NaN without a reference).

    The probabilities are calibrated.
    """

    statuses: NDArray[np.str_]
    probabilities: NDArray[np.float64]
    distances: NDArray[np.float64]


def measure_drift(
    bundle: Path,
    films: Sequence[ImageFile],
    folder: Path,
    out: Path,
    *,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> Drift:
    """Run image files through a bundle, and make the folder `out` with `drift.json`, `drift.html`, `predictions.csv`.

    Args:
        bundle: folder of a bundle.
        films: the image files, at least one.
        folder: where they come from, as text for the document and messages; nothing is read from it.
        out: the folder to make.
        overwrite: replace an earlier result.
        listener: is notified of progress.

    Raises:
        UsageError: none of the files reaches the model, or `out` exists.
        BundleError: the folder `bundle` is not a bundle.
    """
    from pneumoscope.report.page import draw_drift

    engine = Engine.load(bundle)
    reference = load_reference(bundle, engine.contract)
    with whole_directory(out, overwrite=overwrite, holding=DRIFT_FILE) as target:
        predictions = list(_without_maps(listener.track("reading", engine.predict_many(films), len(films))))
        document = _document(engine, predictions, reference, folder)
        write_text(target / DECISIONS_FILE, _table(predictions, engine.contract))
        write_document(document, target / DRIFT_FILE)
        write_text(target / PAGE_FILE, draw_drift(document))
    return document


def _without_maps(predictions: Iterable[Prediction]) -> Iterable[Prediction]:
    """The predictions without their activation maps, so that memory is bounded for a large folder."""
    for prediction in predictions:
        outputs = prediction.outputs
        yield prediction if outputs is None else replace(prediction, outputs=replace(outputs, maps=None))


def _document(engine: Engine, predictions: list[Prediction], reference: Reference | None, folder: Path) -> Drift:
    lost = [each for each in predictions if each.outputs is None]
    rows = [(each.status, each.outputs) for each in predictions if each.outputs is not None]
    if not rows:
        raise UsageError(f"none of the {len(lost)} image files in {folder} reached the model: {lost[0].reasons[0]}")
    seen = _JudgedFilms(
        statuses=np.array([status for status, _ in rows]),
        probabilities=np.array([outputs.probabilities for _, outputs in rows], np.float64),
        distances=np.array(
            [np.nan if reference is None else reference.distance(outputs.embedding) for _, outputs in rows]
        ),
    )
    signs = tuple(_signs(engine.contract, seen, reference))
    return Drift(
        schema_version=2,
        intended_use=DISCLAIMER,
        pneumoscope=__version__,
        model=ModelName(**engine.model),
        folder=str(folder),
        n=len(predictions),
        unjudged=tuple(
            UnjudgedFilm(film=each.image, code=each.reason_codes[0], reason=each.reasons[0]) for each in lost
        ),
        statuses=dict(sorted(Counter(seen.statuses.tolist()).items())),
        reasons=dict(Counter(code for each in predictions for code in each.reason_codes).most_common()),
        resamples=RESAMPLES,
        reference=reference_words(reference),
        signs=signs,
        verdict=overall_verdict(signs),
    )


def _signs(contract: Contract, seen: _JudgedFilms, reference: Reference | None) -> list[Sign]:
    predicted = seen.probabilities.argmax(axis=1)

    def compute(weights: Weights) -> metrics.Figures:
        total = weights.sum(axis=1)
        found = {status: weights @ (seen.statuses == status) / total for status in ("rejected", "abstained")}
        for at, label in enumerate(contract.classes):
            found[f"share {label}"] = weights @ (predicted == at) / total
            found[f"probability {label}"] = weights @ seen.probabilities[:, at] / total
        found["far"] = weights @ (seen.distances > 1) / total
        found["distance"] = weights @ seen.distances / total
        return found

    films = [str(number) for number in range(len(predicted))]  # each film its own group: the patients are not known
    measured = to_figures(metrics.with_intervals(compute, films, resamples=RESAMPLES))
    return compare_with_reference(contract, measured, reference)


def compare_with_reference(contract: Contract, measured: Figures, reference: Reference | None) -> list[Sign]:
    """The signs of drift.

    Args:
        contract: names the classes.
        measured: of the films that reached the model: shares `rejected`, `abstained` and, by the most probable class,
            `share CLASS`; the means `probability CLASS` and `distance`; and `far`, the share of distances over 1.
        reference: of the bundle, if it has one.
    """
    decisions = None if reference is None else reference.about.answers
    expected: dict[str, float] = {}
    if decisions is not None:
        expected = {"rejected": decisions.rejected, "abstained": decisions.abstained}
        expected |= {f"share {label}": share for label, share in decisions.class_shares.items()}
        expected |= {f"probability {label}": share for label, share in decisions.mean_probabilities.items()}
    titles = {"rejected": "share rejected", "abstained": "share abstained on"}
    titles |= {f"share {label}": f"share predicted as {label}" for label in contract.classes}
    titles |= {f"probability {label}": f"mean probability of {label}" for label in contract.classes}
    count = 1 if decisions is None else decisions.films
    signs = [_share(title, measured[name], expected.get(name), count) for name, title in titles.items()]
    return [*signs, *_distances(measured, reference)]


def _share(quantity: str, here: Figure, expected: float | None, films: int) -> Sign:
    """A share compared with the reference's, which was measured on this number of films.

    It differs if the whole interval of the difference is farther from zero than `TOLERANCE`. The interval includes
    the sampling error of both sides.
    """
    if expected is None:
        return Sign(quantity=quantity, here=here, reference=None, grade="unknown", verdict="there is no reference")
    spread = _NORMAL_975 * math.sqrt(expected * (1 - expected) / films)
    apart = independent_difference(here, Figure(value=expected, low=expected - spread, high=expected + spread))
    grade: Grade = "different"
    if apart.low is not None and apart.low > TOLERANCE:
        verdict = "higher than the reference"
    elif apart.high is not None and apart.high < -TOLERANCE:
        verdict = "lower than the reference"
    else:
        grade, verdict = "alike", "no clear difference"
    return Sign(quantity=quantity, here=here, reference=expected, grade=grade, verdict=verdict)


def _distances(measured: Figures, reference: Reference | None) -> list[Sign]:
    """The signs from the films' embedding distances to the reference."""
    if reference is None:
        nothing = Figure(value=None, low=None, high=None)
        verdict = "the bundle has no reference; export it again to get one"
        return [Sign(quantity=_FAR, here=nothing, reference=None, grade="unknown", verdict=verdict)]
    far, distance = measured["far"], measured["distance"]
    expected, most = far_share(reference.about.embedded_films)
    grade: Grade = "alike"
    verdict = "no clear excess of films that are farther away than 99 % of the reference's films"
    if far.low is not None and far.low > max(_MANY, 2 * most):
        grade, verdict = "different", "many films are far from the reference films"
    elif far.low is not None and far.low > most:
        grade, verdict = "different", "more films than expected are far from the reference films"
    own = float(np.mean(reference.distances)) / reference.far if reference.far > 0 else None
    return [
        Sign(quantity=_FAR, here=far, reference=expected, grade=grade, verdict=verdict),
        Sign(
            quantity="mean embedding distance",
            here=distance,
            reference=own,
            grade="unknown",
            verdict="99 % of the reference's films have a distance of at most 1",
        ),
    ]


def far_share(films: int) -> tuple[float, float]:
    """The share of distances over 1 to expect of films like the reference's, and the largest that chance explains.

    The share beyond an order statistic of this number of films follows a beta distribution (David and Nagaraja 2003,
    Order Statistics, section 2.3). The largest share is two standard deviations above its mean.

    >>> [round(value, 3) for value in far_share(480)]
    [0.012, 0.022]
    """
    beyond = films * (1 - FAR_QUANTILE / 100) + 1
    mean = beyond / (films + 1)
    return mean, mean + 2 * math.sqrt(mean * (1 - mean) / (films + 2))


def reference_words(reference: Reference | None) -> str:
    """The films that are compared with, as text."""
    if reference is None:
        return "none: the bundle was exported before bundles had a reference; export it again"
    about = reference.about
    split = {"val": "validation", "train": "train"}[about.embedded_split]
    text = f"shares: {about.answers.films:,} {about.answers.source} films; distances: "
    text += f"{about.embedded_films:,} {split} films"
    if about.embedded_split == "train":
        text += ", which the network has seen; unseen films are somewhat farther away"
    return text


def overall_verdict(signs: Sequence[Sign]) -> str:
    """One sentence or two on all signs."""
    different = [sign.quantity for sign in signs if sign.grade == "different"]
    if all(sign.reference is None for sign in signs):
        return "The bundle has nothing to compare these films with."
    if not different:
        return (
            "No difference from the reference films was found. That does not prove that the model is right on these "
            "films."
        )
    return (
        f"These films differ from the reference films in: {', '.join(different)}. A difference in the shares of "
        "classes may be a difference between the patients; figures measured elsewhere might not hold here."
    )


def _table(predictions: list[Prediction], contract: Contract) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "status", "label", *(f"p_{label}" for label in contract.classes), "reason_codes"])
    for each in predictions:
        shares = (
            [f"{value:.9f}" for value in each.outputs.probabilities] if each.outputs else [""] * len(contract.classes)
        )
        writer.writerow([each.image, each.status, each.label or "", *shares, "; ".join(each.reason_codes)])
    return stream.getvalue()
