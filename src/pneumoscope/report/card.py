"""The model card, `card.md`: a model and its figures, for human readers, generated from its report.

After Mitchell et al. 2019, "Model cards for model reporting", arXiv:1810.03993. Every figure in it is in `report.json`.
"""

from collections.abc import Iterable
from importlib import resources

from pneumoscope.report.document import Figure, ModelFacts, Report

CARD_FILE = "card.md"
#: The figures that a reader looks for first, with their titles.
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
_ABBREVIATIONS = {"auroc", "ece", "ppv", "npv", "f1", "aurc", "mcc"}


def figure_title(name: str) -> str:
    """The title of a figure of `metrics.summarise`, from its key.

    >>> figure_title("group_auroc.pneumonia"), figure_title("class_ece.virus"), figure_title("ece")
    ('pneumonia: AUROC', 'virus: ECE', 'calibration error (ECE)')
    """
    part, _, label = name.partition(".")
    if not label and part in HEADLINES:
        return HEADLINES[part]
    words = part.removeprefix("group_").removeprefix("class_").split("_")
    title = " ".join(word.upper() if word in _ABBREVIATIONS else word for word in words)
    return f"{label}: {title}" if label else title


#: Figures of one class or group against the rest, with their titles.
_ONE_VS_REST = {
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
    """The card of a model that has a report, as Markdown."""
    return _card(report.model, report.classes, _figures(report))


def write_bare_card(model: ModelFacts, classes: Iterable[str]) -> str:
    """The card of a model that has no report, as Markdown."""
    reason = "There are no figures on unseen films: the bundle was exported without out-of-fold predictions."
    return _card(model, classes, reason)


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
        parts += ["## What the recipe is based on", notes]
    return "\n\n".join(parts) + "\n"


def _population(model: ModelFacts) -> str:
    if model.drawings:
        return "All training films are drawings, not radiographs of patients."
    ages = model.age_years
    return "The patients' ages are not known." if ages is None else f"Patients aged {ages[0]:g} to {ages[1]:g} years."


def _figures(report: Report) -> str:
    rows = [(title, report.metrics[name]) for name, title in HEADLINES.items()]
    for label, figures in (report.per_class | report.per_group).items():
        rows += [(f"{label}: {title}", figures[name]) for name, title in _ONE_VS_REST.items() if name in figures]
    rows += [
        (f"share of films {'abstained on' if status == 'abstained' else status}", figure)
        for status, figure in report.decisions.shares.items()
        if report.decisions.statuses[status]
    ]
    rows += [("accuracy of the answered films", report.decisions.answered["accuracy"])]
    rows += [
        (f"{label}: coverage of the prediction sets", each.coverage) for label, each in report.sets.per_class.items()
    ]
    table = [f"| {name} | {format_value(figure.value)} | {format_interval(figure)} |" for name, figure in rows]
    return "\n".join([_method(report), "", "| figure | value | 95 % interval |", "|---|---|---|", *table])


def _method(report: Report) -> str:
    """Which films the figures are of, and how they were measured."""
    weighting = (
        "with the films weighted so that all classes are equally frequent"
        if report.calibration_at == "uniform"
        else "at the class frequencies of these films"
    )
    common = (
        "All films that the model was run on count, by their most probable class. Cross-entropy, Brier score and "
        f"calibration errors are computed {weighting}. Intervals are from a bootstrap over patients."
    )
    films = f"{report.n:,} films of {report.dataset.patients:,} patients"
    notes = "".join(f" {note}" for note in report.notes)
    if report.kind == "out-of-fold":
        return (
            f"Measured on {films} by {report.dataset.folds}-fold cross-validation with the same recipe: each film was "
            "predicted by a network that has not seen its patient, and calibrated on the other folds. The network in "
            "this bundle was trained on all these films, so its performance cannot be measured on them."
            f"{notes} {common}"
        )
    where = f"split `{report.dataset.split}` of the data set `{report.dataset.fingerprint[:12]}`"
    return f"Measured on {films}, {where}.{notes} {common}"


def _limits(model: ModelFacts) -> str:
    prior = (
        "if all classes are equally frequent"
        if model.prior == "uniform"
        else "at the class frequencies of the training films"
    )
    limits = [
        (
            "Films that differ from the model's training films in age, machine, view or hospital may be misread "
            "without a warning."
        ),
        (
            "The gate was trained on frontal films, their faults and everyday pictures; "
            "a lateral view or another body part may still be answered with a class."
        ),
        "The model knows only its own classes; a film of another disease may be answered with one of them.",
        "A film does not prove the cause of pneumonia, and some labels that the model was trained on are wrong.",
        f"Probabilities are valid for films like the training films, {prior}.",
    ]
    return "\n".join(f"- {limit}" for limit in limits)


def _notes(recipe: str) -> str:
    """The notes that come with a shipped recipe: `recipes/NAME.md`; empty if it has none."""
    path = resources.files("pneumoscope") / "recipes" / f"{recipe}.md"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def format_value(value: float | None) -> str:
    """A figure's value to three decimals."""
    return "undefined" if value is None else f"{value:.3f}"


def format_interval(figure: Figure) -> str:
    """A figure's interval to three decimals."""
    return "–" if figure.low is None or figure.high is None else f"{figure.low:.3f} to {figure.high:.3f}"
