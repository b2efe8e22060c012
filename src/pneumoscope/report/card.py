"""The card, `card.md`: a model and its figures for people, made from its report alone.

After Mitchell et al. 2019, "Model cards for model reporting", arXiv:1810.03993. Every figure in it is in `report.json`.
"""

from collections.abc import Iterable
from importlib import resources

from pneumoscope.report.document import Figure, ModelFacts, Report

CARD_FILE = "card.md"
#: The figures that a reader looks for first, and what they are called.
HEADLINES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "mcc": "Matthews correlation (MCC)",
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "macro average precision",
    "cross_entropy": "cross-entropy, nats",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "classwise_ece": "class-wise ECE",
}


def in_words(name: str) -> str:
    """The name of a figure of `metrics.summarise` in words.

    >>> in_words("group_auroc.pneumonia"), in_words("class_ece.virus"), in_words("ece")
    ('pneumonia: AUROC', 'virus: ECE', 'calibration error (ECE)')
    """
    part, _, of = name.partition(".")
    if not of and part in HEADLINES:
        return HEADLINES[part]
    words = " ".join(
        _CAPITALS.get(word, word) for word in part.removeprefix("group_").removeprefix("class_").split("_")
    )
    return f"{of}: {words}" if of else words


_CAPITALS = {word: word.upper() for word in ("auroc", "ece", "ppv", "npv", "f1", "aurc", "mcc")}
_OF_SIDES = {
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "auroc": "AUROC",
    "average_precision": "average precision",
}
_KERMANY = (
    "Kermany, Zhang, Goldbaum 2018, *Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
    "Classification*, Mendeley Data, doi:10.17632/rscbjbr9sj, CC BY 4.0. Described in Kermany et al. 2018, "
    "*Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning*, Cell 172:1122-1131. "
    "Paediatric antero-posterior films of one hospital (Guangzhou Women and Children's Medical Center)."
)


def write_card(report: Report) -> str:
    """The card of a model that was reported on, as Markdown."""
    return _card(report.model, report.classes, _figures(report))


def write_bare_card(model: ModelFacts, classes: Iterable[str]) -> str:
    """The card of a model of which there is no report."""
    words = "None of unseen films are at hand: the bundle was exported without out-of-fold predictions."
    return _card(model, classes, words)


def _card(model: ModelFacts, classes: Iterable[str], figures: str) -> str:
    side = model.input_size
    network = (
        f"{model.arch}, recipe `{model.recipe}`, {model.precision}, one grey channel of {side} × {side} pixels. "
        f"Classes: {', '.join(classes)}. Initial weights: {model.initial_weights}."
    )
    trained = "" if model.trained_films is None else f"Trained on {model.trained_films:,} films. "
    sources = f"\n\n{_KERMANY}" if model.published else ""
    parts = [
        f"# {model.name} {model.version}",
        model.intended_use,
        "## What it is",
        network,
        "## Films",
        f"{trained}{_population(model)}{sources}",
        "## Figures",
        figures,
        "## Limits",
        _limits(model),
    ]
    if notes := _notes(model.recipe):
        parts += ["## What the recipe leans on", notes]
    return "\n\n".join(parts) + "\n"


def _population(model: ModelFacts) -> str:
    if model.drawings:
        return "They are drawings, of no patient."
    ages = model.age_years
    return "The patients' ages are not known." if ages is None else f"Patients of {ages[0]:g} to {ages[1]:g} years."


def _figures(report: Report) -> str:
    rows = [(words, report.metrics[name]) for name, words in HEADLINES.items()]
    for label, figures in (report.per_class | report.per_group).items():
        rows += [(f"{label}: {words}", figures[name]) for name, words in _OF_SIDES.items() if name in figures]
    rows += [
        (f"films {status}", figure)
        for status, figure in report.decisions.shares.items()
        if report.decisions.statuses[status]
    ]
    rows += [("accuracy of the films answered", report.decisions.answered["accuracy"])]
    rows += [(f"{label}: its sets hold it", found.coverage) for label, found in report.sets.per_class.items()]
    table = [f"| {name} | {number(figure.value)} | {interval(figure)} |" for name, figure in rows]
    return "\n".join([_how(report), "", "| figure | value | 95 % interval |", "|---|---|---|", *table])


def _how(report: Report) -> str:
    at = "equal frequencies of the classes" if report.calibration_at == "uniform" else "the films' own frequencies"
    common = (
        "All decodable films count, by their most probable class. Cross-entropy, Brier score and calibration errors "
        f"are at {at}. Intervals are of a bootstrap over patients."
    )
    films = f"{report.n:,} films of {report.dataset.patients:,} patients"
    notes = "".join(f" {note}" for note in report.notes)
    if report.kind == "out-of-fold":
        return (
            f"Of {films}, each by a network that has not seen its patient: {report.dataset.folds}-fold "
            "cross-validation with the same recipe, each calibrated on the other folds. The network in this bundle was "
            f"trained on these films, so that none of them can measure it.{notes} {common}"
        )
    where = f"split `{report.dataset.split}` of the data set `{report.dataset.fingerprint[:12]}`"
    return f"Of {films}, {where}.{notes} {common}"


def _limits(model: ModelFacts) -> str:
    frequencies = "at equal frequencies of the classes" if model.prior == "uniform" else "as frequent as there"
    limits = [
        "Films unlike those it was trained on, by age, machine, view or hospital, may be misread without a warning.",
        (
            "The gate knows frontal films, their faults and everyday pictures; "
            "a lateral or another body part may get a class."
        ),
        "It knows no finding but its classes; a film with another disease gets one of them.",
        "A film does not prove what caused a pneumonia, and some of the labels it learned from are wrong.",
        f"Probabilities are of the population it was trained on, {frequencies}.",
    ]
    return "\n".join(f"- {limit}" for limit in limits)


def _notes(recipe: str) -> str:
    """What comes with a shipped recipe: `recipes/NAME.md`."""
    path = resources.files("pneumoscope") / "recipes" / f"{recipe}.md"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def number(value: float | None) -> str:
    """A figure to three decimals."""
    return "undefined" if value is None else f"{value:.3f}"


def interval(figure: Figure) -> str:
    """A figure's interval to three decimals."""
    return "–" if figure.low is None or figure.high is None else f"{figure.low:.3f} to {figure.high:.3f}"
