"""The way from a finished run to a bundle."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from pneumoscope import __version__, metrics
from pneumoscope.backbone import Network
from pneumoscope.contract import (
    CONTRACT_FILE,
    DISCLAIMER,
    ActivationMap,
    Calibration,
    Contract,
    Decision,
    InputRule,
    Population,
    Provenance,
    Quantisation,
    save_contract,
)
from pneumoscope.dataset import Dataset, Film
from pneumoscope.dataset.grammar import KERMANY_AGES, published
from pneumoscope.dataset.manifest import SOURCE_SEPARATOR
from pneumoscope.documents import first_problem
from pneumoscope.engine import MODEL_FILE, Engine, verify
from pneumoscope.engine.normalisation import check_normalisation
from pneumoscope.errors import BundleError, RunError, UsageError
from pneumoscope.export.calibration import calibrated, decide_from, evidence_of_run
from pneumoscope.export.card import CARD_FILE, write_card
from pneumoscope.export.golden import write_golden
from pneumoscope.export.graph import write_onnx
from pneumoscope.export.quantise import Comparison, quantise, speed_gain, spread
from pneumoscope.files import sha256_of, whole_directory, write_text
from pneumoscope.imaging import Luma
from pneumoscope.parallel import available_cores, map_ordered
from pneumoscope.phantom import is_phantom
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.data import read_input
from pneumoscope.training.predict import load_network
from pneumoscope.training.run import RunCard, load_card, load_config

Precision: TypeAlias = Literal["fp32", "int8"]
Ages: TypeAlias = tuple[float, float]

#: Largest difference of a probability between ONNX Runtime and PyTorch that is accepted.
PARITY_TOLERANCE = 1e-4
PARITY_FILMS = 64
#: Most train films that stand in for validation where all films of a data set train.
STAND_IN_FILMS = 480
CALIBRATION_FILMS = 96
_BATCH = 8
_FP32_FILE = "fp32.onnx"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What export found out.

    `difference` is the largest of a probability between ONNX Runtime's fp32 and PyTorch. `quantisation`
    and `gain` (how many times faster than fp32 one film is answered on this machine) are of int8 only.
    `classes_told` is how many classes are the most probable one of any of the `films` that set the threshold.
    """

    difference: float
    answer_from: float
    films: int
    classes_told: int
    quantisation: Quantisation | None
    gain: float | None


@dataclass(frozen=True, kw_only=True)
class _Films:
    """Inputs to compare on, `uint8 [N, 1, S, S]`, their labels `int64 [N]`, and inputs to calibrate int8 with.

    They are those of validation or, where all films train, train films: enough to compare two forms of one
    network, and not to judge it.
    """

    validation: Luma
    labels: NDArray[np.int64]
    calibration: Luma | None


def export(
    run: Path,
    dataset: Dataset,
    out: Path,
    *,
    name: str | None = None,
    precision: Precision = "fp32",
    ages: Ages | None = None,
    evidence: Path | None = None,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> Exported:
    """Write the bundle of a finished run.

    It appears only if ONNX Runtime's probabilities equal PyTorch's within `PARITY_TOLERANCE` on up to
    `PARITY_FILMS` validation films, spread over the split, and, in int8, if it answers like fp32 (see
    `quantise`). The decision's threshold is set so that `COVERAGE` of the validation films are answered; with
    evidence, of its films, which set the temperature of the probabilities, too.

    Args:
        run: a finished run directory.
        dataset: the data set the run was trained on.
        out: the bundle folder to make.
        name: the model's name; by default the run's folder name.
        precision: of the model's arithmetic.
        ages: youngest and oldest patient trained on, in years; by default those of the published archive's films.
        evidence: out-of-fold predictions of the same films and recipe, made by cross-validation.
        overwrite: replace what lies at `out`.
        listener: hears about the slow parts.

    Raises:
        RunError: not a finished run, or of another data set; or no evidence of the run's films.
        UsageError: ages out of their range or order, or no validation films and no evidence.
        BundleError: ONNX Runtime does not reproduce the network, or int8 does not answer like fp32.
    """
    population = _population(dataset, ages)
    config, card = load_config(run), load_card(run)
    if card.dataset != dataset.fingerprint:
        raise RunError(f"{dataset.root} is not the data set that {run} was trained on; give that one ({card.data}).")
    proof = None if evidence is None else evidence_of_run(evidence, config, card, dataset)
    if proof is None and not dataset.has("val"):
        raise UsageError(
            f"all films of {dataset.root} train, so that none can set the threshold; pass --evidence with the "
            "evidence.npz of `pneumoscope cross-validate`."
        )
    network = load_network(run)
    rule = InputRule.squash(config.size)
    films = _films(dataset, rule, precision, listener)
    with whole_directory(out, overwrite=overwrite, holding=CONTRACT_FILE) as folder, tempfile.TemporaryDirectory() as t:
        grid = write_onnx(network, config.size, folder / MODEL_FILE)
        contract = _contract(name or run.resolve().name, config, card, rule, grid, population)
        check_normalisation(folder / MODEL_FILE, contract.normalisation)
        engine = _load(contract, folder)
        difference = _parity(network, engine, films.validation)
        gain = None
        if films.calibration is not None:
            fp32 = Path(shutil.move(folder / MODEL_FILE, Path(t) / _FP32_FILE))
            comparison = Comparison(
                calibration=films.calibration,
                validation=films.validation,
                labels=films.labels,
                classes=len(card.classes),
            )
            figures = quantise(fp32, folder / MODEL_FILE, comparison, listener=listener)
            gain = speed_gain(fp32, folder / MODEL_FILE, films.validation[:1])
            contract = contract.model_copy(update={"precision": "int8", "quantisation": figures})
            engine = _load(contract, folder)
        if proof is None or evidence is None:
            probabilities = _probabilities(engine, films.validation)
        else:
            contract = calibrated(contract, proof, sha256_of(evidence))
            probabilities = metrics.softmax(proof.logits / contract.calibration.temperature)
        contract = contract.model_copy(update={"decision": decide_from(probabilities)})
        published = all(_is_published(film) for film in dataset.films) and not population.drawings
        text = write_card(contract, published=published, films=len(dataset.split("train")), evidence=proof)
        write_text(folder / CARD_FILE, text)
        write_golden(_load(contract, folder), folder)
        save_contract(contract.model_copy(update={"files": _hashes(folder)}), folder)
        verify(folder)
    return Exported(
        difference=difference,
        answer_from=contract.decision.answer_from,
        films=len(probabilities),
        classes_told=len(set(probabilities.argmax(axis=1).tolist())),
        quantisation=contract.quantisation,
        gain=gain,
    )


def _films(dataset: Dataset, rule: InputRule, precision: Precision, listener: Listener) -> _Films:
    if dataset.has("val"):
        chosen = dataset.split("val")
    else:
        every = dataset.split("train")
        chosen = [every[place] for place in np.linspace(0, len(every) - 1, min(len(every), STAND_IN_FILMS)).astype(int)]
    validation = _inputs(dataset, chosen, rule, listener)
    calibration = None if precision == "fp32" else _inputs(dataset, calibration_films(dataset), rule, listener)
    labels = np.array([dataset.classes.index(film.label) for film in chosen], np.int64)
    return _Films(validation=validation, labels=labels, calibration=calibration)


def calibration_films(dataset: Dataset) -> list[Film]:
    """Up to `CALIBRATION_FILMS` train films, as many of each class, spread over the split."""
    chosen = []
    for label in dataset.classes:
        films = [film for film in dataset.split("train") if film.label == label]
        count = min(len(films), CALIBRATION_FILMS // len(dataset.classes))
        chosen += [films[place * len(films) // count] for place in range(count)]
    return chosen


def _inputs(dataset: Dataset, films: Sequence[Film], rule: InputRule, listener: Listener) -> Luma:
    with listener.task(f"decoding {films[0].split}", len(films), "images"):
        images = np.empty((len(films), 1, rule.size, rule.size), np.uint8)
        cores = available_cores()
        for place, image in enumerate(
            map_ordered(lambda film: read_input(dataset, film, rule), films, workers=cores, ahead=8 * cores)
        ):
            images[place] = image
            listener.advance(1)
    return images


def _population(dataset: Dataset, given: Ages | None) -> Population:
    """Of the ages given; else of those of the published archive if every film bears one of its names.

    Drawings have such names too, but no age. Their bytes tell them apart; reading stops at the first real film.
    """
    drawings = all(is_phantom(dataset.read(film)) for film in dataset.split("train"))
    known = KERMANY_AGES if not drawings and all(_is_published(film) for film in dataset.films) else None
    try:
        return Population(age_years=given or known, drawings=drawings)
    except ValidationError as failure:
        raise UsageError(f"ages {given} cannot be: {first_problem(failure)}.") from failure


def _is_published(film: Film) -> bool:
    names = film.source.split(SOURCE_SEPARATOR)
    return any(published(PurePosixPath(name.rpartition(":")[2]).stem) for name in names)


def _contract(
    name: str, config: TrainConfig, card: RunCard, rule: InputRule, grid: tuple[int, int] | None, population: Population
) -> Contract:
    """The contract of an fp32 model that answers everything; it lists no files yet."""
    return Contract(
        schema_version=2,
        name=name,
        version=__version__,
        intended_use=DISCLAIMER,
        population=population,
        classes=card.classes,
        groups=card.groups,
        input=rule,
        normalisation=card.normalisation,
        calibration=Calibration(temperature=1.0, prior=config.prior, films=None),
        decision=Decision(answer_from=0.0, coverage=None, films=None),
        activation_map=None if grid is None else ActivationMap.of_grid(*grid),
        precision="fp32",
        quantisation=None,
        provenance=Provenance(
            arch=config.arch,
            recipe=config.recipe,
            weights=card.initial_weights,
            dataset=card.dataset,
            evidence=None,
            commit=card.commit,
            versions=card.versions | {name: metadata.version(name) for name in ("onnx", "onnxruntime")},
        ),
        files={},
    )


def _load(contract: Contract, folder: Path) -> Engine:
    """An engine of the bundle as far as it is made."""
    save_contract(contract.model_copy(update={"files": _hashes(folder)}), folder)
    return Engine.load(folder)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CONTRACT_FILE)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _probabilities(engine: Engine, images: Luma) -> NDArray[np.float64]:
    batches = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
    return np.concatenate([engine.run(batch).probabilities for batch in batches])


def _parity(network: Network, engine: Engine, validation: Luma) -> float:
    images = spread(validation, PARITY_FILMS)
    with torch.no_grad():
        logits = torch.cat([network(part) for part in torch.split(torch.from_numpy(images), 16)])
    difference = float(np.abs(engine.run(images).probabilities - logits.double().softmax(dim=1).numpy()).max())
    if not difference <= PARITY_TOLERANCE:
        raise BundleError(
            f"ONNX Runtime differs from PyTorch by {difference:.2g} on {len(images)} films; "
            f"at most {PARITY_TOLERANCE:g} is accepted, so no bundle was written."
        )
    return difference
