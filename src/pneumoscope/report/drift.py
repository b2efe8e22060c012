"""Films without labels: whether they look and are answered like those that the model is known on."""

import csv
import io
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
from pneumoscope.engine import Encoded, Engine, Prediction
from pneumoscope.engine.document import ModelName
from pneumoscope.engine.reference import Reference, load_reference
from pneumoscope.errors import UsageError
from pneumoscope.files import whole_directory, write_text
from pneumoscope.metrics import Weights
from pneumoscope.progress import SILENT, Listener
from pneumoscope.report.document import Figure, Figures, LostFilm, Number
from pneumoscope.report.figures import DRAWS, to_figures

DRIFT_FILE, PAGE_FILE, DECISIONS_FILE = "drift.json", "drift.html", "predictions.csv"
#: Differences of shares smaller than this are of no consequence, however many films show them.
TOLERANCE = 0.02
#: Of the reference's own films 1 in 100 is far; so many times as many are a shift, or a clear one.
_SHIFTED, _CLEARLY = 2, 10
_FAR_SHARE = 0.01

Grade: TypeAlias = Literal["alike", "different", "unknown"]


class Sign(Document):
    """One thing that may differ: here, in the reference, and what that means."""

    quantity: Text
    here: Figure
    reference: Number
    grade: Grade
    verdict: Text


class Drift(Document):
    """`drift.json`."""

    schema_version: Literal[1]
    intended_use: Text
    pneumoscope: Text
    model: ModelName
    folder: Text
    n: int = Field(ge=1, description="Image files.")
    undecodable: tuple[LostFilm, ...]
    statuses: dict[str, int] = Field(description="Of films that could be decoded.")
    reasons: dict[str, int]
    resamples: int = Field(description="Of the bootstrap over films: the patients are not known.")
    reference: Text = Field(description="What the films are compared with, in words.")
    signs: tuple[Sign, ...]
    verdict: Text


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """Decodable films: statuses, calibrated probabilities `[N, C]`, distances `[N]`, NaN without a reference."""

    statuses: NDArray[np.str_]
    probabilities: NDArray[np.float64]
    distances: NDArray[np.float64]


def watch(
    bundle: Path,
    films: Sequence[Encoded],
    folder: Path,
    out: Path,
    *,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> Drift:
    """Run image files through a bundle, and make the folder `out` with `drift.json`, `drift.html`, `predictions.csv`.

    Args:
        bundle: folder of a bundle.
        films: at least one.
        folder: where they come from, to be named.
        out: the folder to make.
        overwrite: replace an earlier one.
        listener: hears of progress.

    Raises:
        UsageError: none of the files can be decoded, or `out` exists.
        BundleError: not a bundle.
    """
    from pneumoscope.report.page import draw_drift

    engine = Engine.load(bundle)
    reference = load_reference(bundle, engine.contract)
    with whole_directory(out, overwrite=overwrite, holding=DRIFT_FILE) as made:
        predictions = list(_without_pictures(listener.track("reading", engine.predict_many(films), len(films))))
        document = _document(engine, predictions, reference, folder)
        write_text(made / DECISIONS_FILE, _table(predictions, engine.contract))
        write_document(document, made / DRIFT_FILE)
        write_text(made / PAGE_FILE, draw_drift(document))
    return document


def _without_pictures(predictions: Iterable[Prediction]) -> Iterable[Prediction]:
    """The predictions without their maps, so that memory stays flat over a large folder."""
    for prediction in predictions:
        outputs = prediction.outputs
        yield prediction if outputs is None else replace(prediction, outputs=replace(outputs, maps=None))


def _document(engine: Engine, predictions: list[Prediction], reference: Reference | None, folder: Path) -> Drift:
    lost = [each for each in predictions if each.outputs is None]
    rows = [(each.status, each.outputs) for each in predictions if each.outputs is not None]
    if not rows:
        raise UsageError(f"none of the {len(lost)} image files in {folder} can be decoded: {lost[0].reasons[0]}")
    seen = _Seen(
        statuses=np.array([status for status, _ in rows]),
        probabilities=np.array([outputs.probabilities for _, outputs in rows], np.float64),
        distances=np.array([np.nan if reference is None else reference.distance(o.embedding) for _, o in rows]),
    )
    signs = tuple(_signs(engine.contract, seen, reference))
    return Drift(
        schema_version=1,
        intended_use=DISCLAIMER,
        pneumoscope=__version__,
        model=ModelName(**engine.model),
        folder=str(folder),
        n=len(predictions),
        undecodable=tuple(LostFilm(film=p.image, code=p.reason_codes[0], reason=p.reasons[0]) for p in lost),
        statuses=dict(sorted(Counter(seen.statuses.tolist()).items())),
        reasons=dict(Counter(code for each in predictions for code in each.reason_codes).most_common()),
        resamples=DRAWS,
        reference=_reference_words(reference),
        signs=signs,
        verdict=_overall(signs),
    )


def _signs(contract: Contract, seen: _Seen, reference: Reference | None) -> list[Sign]:
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

    films = [str(number) for number in range(len(predicted))]
    measured = to_figures(metrics.with_intervals(compute, films, draws=DRAWS))
    answers = None if reference is None else reference.about.answers
    signs = [
        _share("share rejected", measured["rejected"], None if answers is None else answers.rejected),
        _share("share abstained on", measured["abstained"], None if answers is None else answers.abstained),
    ]
    for label in contract.classes:
        expected = None if answers is None else answers.class_shares[label]
        signs.append(_share(f"share called {label}", measured[f"share {label}"], expected))
    for label in contract.classes:
        expected = None if answers is None else answers.mean_probabilities[label]
        signs.append(_share(f"mean probability of {label}", measured[f"probability {label}"], expected))
    return [*signs, *_distances(measured, reference)]


def _share(quantity: str, here: Figure, expected: float | None) -> Sign:
    """A share beside the reference's; it differs if its interval does not reach the reference's neighbourhood."""
    grade: Grade
    if expected is None or here.value is None or here.low is None or here.high is None:
        return Sign(quantity=quantity, here=here, reference=None, grade="unknown", verdict="there is no reference")
    if here.low > expected + TOLERANCE:
        grade, words = "different", f"higher than the reference's {expected:.1%}"
    elif here.high < expected - TOLERANCE:
        grade, words = "different", f"lower than the reference's {expected:.1%}"
    else:
        grade, words = "alike", f"no clear difference from the reference's {expected:.1%}"
    return Sign(quantity=quantity, here=here, reference=expected, grade=grade, verdict=words)


def _distances(measured: Figures, reference: Reference | None) -> list[Sign]:
    """How far the films' embeddings lie from the reference's."""
    if reference is None:
        nothing = Figure(value=None, low=None, high=None)
        words = "the bundle has no reference; export it again"
        return [Sign(quantity="embedding distance", here=nothing, reference=None, grade="unknown", verdict=words)]
    far, distance = measured["far"], measured["distance"]
    grade: Grade = "alike"
    words = "as for the reference: few films lie farther out than 99 % of the reference's films"
    if far.low is not None and far.low > _CLEARLY * _FAR_SHARE:
        grade, words = "different", "many films are unlike those that the model was trained on"
    elif far.low is not None and far.low > _SHIFTED * _FAR_SHARE:
        grade, words = "different", "more films than expected are unlike those that the model was trained on"
    own = float(np.mean(reference.distances)) / reference.far if reference.far > 0 else None
    return [
        Sign(quantity="share of films far out", here=far, reference=_FAR_SHARE, grade=grade, verdict=words),
        Sign(
            quantity="mean embedding distance",
            here=distance,
            reference=own,
            grade="unknown",
            verdict="in multiples of the distance within which 99 % of the reference's films lie",
        ),
    ]


def _reference_words(reference: Reference | None) -> str:
    if reference is None:
        return "none: the bundle was exported before bundles had one; export it again"
    about = reference.about
    split = {"val": "validation", "train": "train"}[about.embedded_split]
    words = f"shares: {about.answers.films:,} {about.answers.source} films; distances: "
    words += f"{about.embedded_films:,} {split} films"
    if about.embedded_split == "train":
        words += ", which the network has seen, so that films it has not seen lie somewhat farther out"
    return words


def _overall(signs: Sequence[Sign]) -> str:
    different = [sign.quantity for sign in signs if sign.grade == "different"]
    if all(sign.reference is None for sign in signs):
        return "The bundle has nothing to compare these films with."
    if not different:
        return (
            "Nothing tells these films from those that the model is known on. That does not prove that it is right on "
            "them."
        )
    return (
        f"These films differ from those that the model is known on, in: {', '.join(different)}. A difference in the "
        "shares of classes may be one of the patients; figures measured elsewhere may not hold here."
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
