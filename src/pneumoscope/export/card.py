"""The bundle's card, `card.md`: what the model is, for whom, how well it does, and what it must not be used for.

After Mitchell et al. 2019, "Model cards for model reporting", arXiv:1810.03993.
"""

from importlib import resources

from pneumoscope.contract import Contract
from pneumoscope.metrics import cross_fitted
from pneumoscope.training.evidence import Evidence

CARD_FILE = "card.md"
_KERMANY = (
    "Kermany, Zhang, Goldbaum 2018, *Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
    "Classification*, Mendeley Data, doi:10.17632/rscbjbr9sj, CC BY 4.0. Described in Kermany et al. 2018, "
    "*Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning*, Cell 172:1122-1131. "
    "Paediatric antero-posterior films of one hospital (Guangzhou Women and Children's Medical Center)."
)


def write_card(contract: Contract, *, published: bool, films: int, evidence: Evidence | None) -> str:
    """The card as Markdown.

    Args:
        contract: of the bundle.
        published: the films are of the published archive, which is then cited.
        films: how many it was trained on.
        evidence: out-of-fold predictions, if there are any.
    """
    origin, side = contract.provenance, contract.input.size
    network = (
        f"{origin.arch}, recipe `{origin.recipe}`, {contract.precision}, one grey channel of {side} × {side} pixels. "
        f"Classes: {', '.join(contract.classes)}. Initial weights: {origin.weights}."
    )
    sources = f"\n\n{_KERMANY}" if published else ""
    parts = [
        f"# {contract.name} {contract.version}",
        contract.intended_use,
        "## What it is",
        network,
        "## Films",
        f"Trained on {films:,} films. {_population(contract)}{sources}",
        "## Figures",
        _figures(contract, evidence),
        "## Limits",
        _limits(contract),
    ]
    if notes := _notes(origin.recipe):
        parts += ["## What the recipe leans on", notes]
    return "\n\n".join(parts) + "\n"


def _population(contract: Contract) -> str:
    if contract.population.drawings:
        return "They are drawings, of no patient."
    ages = contract.population.age_years
    return "The patients' ages are not known." if ages is None else f"Patients of {ages[0]:g} to {ages[1]:g} years."


def _figures(contract: Contract, evidence: Evidence | None) -> str:
    if evidence is None:
        return "None of unseen films are at hand: the bundle was exported without out-of-fold predictions."
    about = evidence.about
    summary = evidence.figures(cross_fitted(evidence.unseen(), contract.calibration.method))
    texts = {name: {key: _number(value) for key, value in row.items()} for name, row in summary.items()}
    rows = [f"| {name} | {row['value']} | {row['low']} to {row['high']} |" for name, row in texts.items()]
    how = (
        f"Of {len(evidence.label):,} films, each by a network that has not seen its patient: {about.folds}-fold "
        f"cross-validation with the same recipe, {about.config.epochs} epochs a network. The network in this bundle "
        "was trained on all of these films, so that none of them can measure it. Intervals are of a bootstrap over "
        f"patients. The probabilities are at the prior {about.config.prior!r}, each calibrated on the other folds."
    )
    return "\n".join([how, "", "| figure | value | 95 % interval |", "|---|---|---|", *rows])


def _limits(contract: Contract) -> str:
    prior = contract.calibration.prior
    uniform = prior is not None and len({*prior.values()}) == 1
    frequencies = "at equal frequencies of the classes" if uniform else "as frequent as there"
    limits = [
        "Films unlike those it was trained on, by age, machine, view or hospital, may be misread without a warning.",
        "A readable picture that is no chest film may get a class.",
        "It knows no finding but its classes; a film with another disease gets one of them.",
        "A film does not prove what caused a pneumonia, and some of the labels it learned from are wrong.",
        f"Probabilities are of the population it was trained on, {frequencies}.",
    ]
    return "\n".join(f"- {limit}" for limit in limits)


def _notes(recipe: str) -> str:
    """What comes with a shipped recipe: `recipes/NAME.md`."""
    path = resources.files("pneumoscope") / "recipes" / f"{recipe}.md"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
