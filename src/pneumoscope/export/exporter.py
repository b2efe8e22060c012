"""Export: from a finished run to a bundle."""

import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

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
    Gate,
    InputRule,
    Population,
    Provenance,
    Quantisation,
    save_contract,
)
from pneumoscope.dataset import Dataset, Record
from pneumoscope.dataset.grammar import KERMANY_AGES, parse_published
from pneumoscope.dataset.manifest import SOURCE_SEPARATOR
from pneumoscope.documents import first_problem
from pneumoscope.engine import MODEL_FILE, Engine, verify
from pneumoscope.engine.bundle import CPU, open_model
from pneumoscope.engine.normalisation import check_normalisation
from pneumoscope.errors import BundleError, RunError, UsageError
from pneumoscope.export.calibration import CalibrationSet, calibrate, evidence_of_run, frequencies, validation_films
from pneumoscope.export.description import BundleFacts, describe
from pneumoscope.export.gate import FILMS as GATE_FILMS
from pneumoscope.export.gate import fit_gate
from pneumoscope.export.golden import write_golden
from pneumoscope.export.graph import join_gate, write_onnx
from pneumoscope.export.quantise import Comparison, evenly_spaced, logits_of, quantise, speed_gain
from pneumoscope.files import sha256_of, whole_directory
from pneumoscope.imaging import DEFAULT_LIMITS, Luma
from pneumoscope.parallel import available_cores
from pneumoscope.phantom import is_phantom
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.option import Precision
from pneumoscope.settings.training import ExportConfig, TrainConfig
from pneumoscope.training.evidence import Evidence
from pneumoscope.training.inputs import CACHE_FOLDER, find_cached, read_inputs
from pneumoscope.training.predict import load_network
from pneumoscope.training.run_directory import RunCard, load_card, load_config

#: Largest difference of a probability between ONNX Runtime and PyTorch that is accepted.
PARITY_TOLERANCE = 1e-4
PARITY_FILMS = 64
#: Largest number of train films to compare on if a data set has no validation films.
STAND_IN_FILMS = 480
#: Number of train films that set the int8 model's activation ranges. They do not calibrate probabilities.
CALIBRATION_FILMS = 96


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The result of an export.

    `difference` is the largest difference of a probability between ONNX Runtime's fp32 and PyTorch. `quantisation` and
    `gain` are None unless the model is in int8; `gain` is the time of the fp32 model for one film, divided by that of
    the int8 model, on this machine. `decision` has the thresholds and their figures. `classes_predicted` is the number
    of classes that are most probable for at least one film that set the thresholds.
    """

    difference: float
    decision: Decision
    classes_predicted: int
    quantisation: Quantisation | None
    gain: float | None


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is exported: a run, with everything that is known before the model is written."""

    name: str
    config: TrainConfig
    card: RunCard
    population: Population
    published: bool
    evidence: Evidence | None
    evidence_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class _Model:
    """Facts on the ONNX model as written, and its logits `float32 [N, C]` for the films to compare on."""

    grid: tuple[int, int] | None
    difference: float
    quantisation: Quantisation | None
    gain: float | None
    logits: NDArray[np.float32]


def export(
    run: Path,
    dataset: Dataset,
    out: Path,
    config: ExportConfig | None = None,
    *,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> ExportSummary:
    """Write the bundle of a finished run.

    The bundle is written only if ONNX Runtime's probabilities equal PyTorch's within `PARITY_TOLERANCE` on up to
    `PARITY_FILMS` films, evenly spaced over the validation split or, without one, over the train split. An int8 model
    must also answer like the fp32 one (see `quantise`). The films of the evidence or, without evidence, of the
    validation split set the calibration and the decision's thresholds.

    Args:
        run: a finished run directory.
        dataset: the data set that the run was trained on.
        out: the bundle folder to make.
        config: name, precision, ages and evidence; ages are known for films of the published archive.
        overwrite: replace a bundle at `out`.
        listener: is notified of the progress of slow parts.

    Raises:
        RunError: the run is not finished or belongs to another data set; or evidence is given although the run had
            teachers, or evidence that is not of the run's films, classes and settings.
        UsageError: the ages are out of range or order, or there are neither validation films nor evidence.
        BundleError: ONNX Runtime does not reproduce the network, or int8 does not answer like fp32.
    """
    config = config or ExportConfig()
    subject = _subject(run, dataset, config)
    network = load_network(run)
    films = _comparison(dataset, InputRule.squash(subject.config.size), config.precision, listener)
    with whole_directory(out, overwrite=overwrite, holding=CONTRACT_FILE) as folder:
        model = _write_model(network, subject, films, folder / MODEL_FILE, listener)
        gate = _add_gate(dataset, subject, folder / MODEL_FILE, listener)
        calibrating = _calibrating(subject, dataset, model.logits)
        calibration, decision = calibrate(calibrating)
        # The engine describes the bundle and writes its golden cases; only then are all files there to be hashed, and
        # the contract is saved last. `verify` reads everything back as a user's machine would.
        contract = _contract(subject, model, calibration, decision, gate, folder)
        session = open_model(folder, contract, provider=CPU, threads=available_cores())
        engine = Engine(contract, session, DEFAULT_LIMITS)
        describe(_described(subject, dataset, calibrating, films), engine, folder)
        write_golden(engine, folder)
        save_contract(contract.model_copy(update={"files": _hashes(folder)}), folder)
        verify(folder)
    return ExportSummary(
        difference=model.difference,
        decision=decision,
        classes_predicted=len(set(calibrating.films.logits.argmax(axis=1).tolist())),
        quantisation=model.quantisation,
        gain=model.gain,
    )


def _subject(run: Path, dataset: Dataset, options: ExportConfig) -> _Subject:
    population = _population(dataset, options.ages)
    config, card = load_config(run), load_card(run)
    # Films of another data set would set thresholds, gate and hashes of a network that was not trained on them.
    if card.dataset != dataset.fingerprint:
        raise RunError(f"{dataset.root} is not the data set that {run} was trained on; pass that one ({card.data}).")
    path = options.evidence
    if path is None and not dataset.has("val"):
        raise UsageError(
            f"all films of {dataset.root} are train films, so none is left to set thresholds; pass --evidence with "
            "the evidence.npz of `pneumoscope cross-validate`."
        )
    return _Subject(
        name=options.name or run.resolve().name,
        config=config,
        card=card,
        population=population,
        published=all(_is_published(film) for film in dataset.films) and not population.drawings,
        evidence=None if path is None else evidence_of_run(path, config, card, dataset),
        evidence_sha256=None if path is None else sha256_of(path),
    )


def _calibrating(subject: _Subject, dataset: Dataset, logits: NDArray[np.float32]) -> CalibrationSet:
    """The films that set calibration and thresholds; `logits` are of the validation split, unused with evidence."""
    prior, evidence = frequencies(subject.config.prior, dataset), subject.evidence
    return CalibrationSet(
        films=evidence.unseen() if evidence else validation_films(dataset.split("val"), logits, dataset, prior),
        kind="out-of-fold" if evidence else "validation",
        prior=prior,
        classes=dataset.classes,
        groups=dataset.groups,
    )


def _write_model(network: Network, subject: _Subject, films: Comparison, path: Path, listener: Listener) -> _Model:
    """Write `model.onnx`, compare it with PyTorch, and quantise it if there are films to calibrate with."""
    grid = write_onnx(network, subject.config.size, path)
    # Parity with PyTorch does not show whether the contract states the normalisation that the graph has.
    check_normalisation(path, subject.card.normalisation)
    logits = logits_of(path, films.validation)
    difference = _parity(network, films.validation, logits)
    # `_comparison` reads no films to calibrate with if fp32 is wanted.
    if not len(films.calibration):
        return _Model(grid=grid, difference=difference, quantisation=None, gain=None, logits=logits)
    with tempfile.TemporaryDirectory() as other:
        fp32 = Path(shutil.move(path, Path(other) / "fp32.onnx"))
        figures = quantise(fp32, path, films, listener=listener)
        gain = speed_gain(fp32, path, films.validation[:1])
    logits = logits_of(path, films.validation)
    return _Model(grid=grid, difference=difference, quantisation=figures, gain=gain, logits=logits)


def _add_gate(dataset: Dataset, subject: _Subject, path: Path, listener: Listener) -> Gate:
    """Fit the gate on train films, to the features of the model as written, and join it to the file."""
    # After quantisation: the gate must see the features that the shipped graph computes.
    films = dataset.split("train")
    films = [films[place] for place in evenly_spaced(len(films), GATE_FILMS)]
    inputs = np.stack(list(read_inputs(dataset, films, InputRule.squash(subject.config.size), listener)))
    drawings = bool(subject.population.drawings)
    patients = [film.patient for film in films]
    gate, weights = fit_gate(path, inputs, patients, drawings=drawings, listener=listener)
    join_gate(path, weights)
    return gate


def _comparison(dataset: Dataset, rule: InputRule, precision: Precision, listener: Listener) -> Comparison:
    """The films to compare on: validation films, or train films of a data set without a validation split.

    Train films are enough to compare two forms of one network, though not to evaluate it.
    """
    validates = dataset.has("val")
    chosen = dataset.split("val" if validates else "train")
    cached = find_cached(dataset, "val", rule, dataset.root / CACHE_FOLDER) if validates else None
    if not validates:
        chosen = [chosen[place] for place in evenly_spaced(len(chosen), STAND_IN_FILMS)]

    def inputs(films: list[Record]) -> Luma:
        return np.stack(list(read_inputs(dataset, films, rule, listener)))

    return Comparison(
        validation=inputs(chosen) if cached is None else cached,
        labels=np.array([dataset.classes.index(film.label) for film in chosen], np.int64),
        classes=len(dataset.classes),
        calibration=inputs(calibration_films(dataset)) if precision == "int8" else np.empty(0, np.uint8),
    )


def calibration_films(dataset: Dataset) -> list[Record]:
    """Up to `CALIBRATION_FILMS` train films, equally many per class where there are enough, evenly spaced."""
    chosen = []
    for label in dataset.classes:
        films = [film for film in dataset.split("train") if film.label == label]
        count = min(len(films), CALIBRATION_FILMS // len(dataset.classes))
        chosen += [films[place * len(films) // count] for place in range(count)]
    return chosen


def _population(dataset: Dataset, ages: tuple[float, float] | None) -> Population:
    """The population: the given ages, or those of the published archive if every film is named like a file of it.

    Phantoms are named so, too, but have no ages. Their bytes identify them; reading stops at the first real film.
    """
    drawings = all(is_phantom(dataset.read(film)) for film in dataset.split("train"))
    known = KERMANY_AGES if not drawings and all(_is_published(film) for film in dataset.films) else None
    try:
        return Population(age_years=ages or known, drawings=drawings)
    except ValidationError as failure:
        raise UsageError(f"ages {ages} are not valid: {first_problem(failure)}.") from failure


def _is_published(film: Record) -> bool:
    names = film.source.split(SOURCE_SEPARATOR)
    return any(parse_published(PurePosixPath(name.rpartition(":")[2]).stem) for name in names)


def _contract(
    subject: _Subject, model: _Model, calibration: Calibration, decision: Decision, gate: Gate, folder: Path
) -> Contract:
    """The contract of the files in the folder."""
    config, card = subject.config, subject.card
    return Contract(
        schema_version=4,
        name=subject.name,
        version=__version__,
        intended_use=DISCLAIMER,
        population=subject.population,
        classes=card.classes,
        groups=card.groups,
        input=InputRule.squash(config.size),
        normalisation=card.normalisation,
        calibration=calibration,
        decision=decision,
        activation_map=None if model.grid is None else ActivationMap.of_grid(*model.grid),
        gate=gate,
        precision="fp32" if model.quantisation is None else "int8",
        quantisation=model.quantisation,
        provenance=Provenance(
            arch=config.arch,
            recipe=config.recipe,
            weights=card.initial_weights,
            dataset=card.dataset,
            evidence=subject.evidence_sha256,
            commit=card.commit,
            versions=card.versions | {name: metadata.version(name) for name in ("onnx", "onnxruntime")},
        ),
        files=_hashes(folder),
    )


def _described(subject: _Subject, dataset: Dataset, calibrating: CalibrationSet, films: Comparison) -> BundleFacts:
    return BundleFacts(
        dataset=dataset,
        calibrating=calibrating,
        folds=None if subject.evidence is None else subject.evidence.about.folds,
        published=subject.published,
        images=films.validation,
    )


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CONTRACT_FILE)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _parity(network: Network, images: Luma, logits: NDArray[np.float32]) -> float:
    """The largest difference of a probability between PyTorch and the model's logits for the same images."""
    places = evenly_spaced(len(images), PARITY_FILMS)
    with torch.no_grad():
        expected = torch.cat([network(part) for part in torch.split(torch.from_numpy(images[places]), 16)])
    difference = float(np.abs(metrics.softmax(logits[places]) - metrics.softmax(expected.numpy())).max())
    if not difference <= PARITY_TOLERANCE:  # also refuses NaN
        raise BundleError(
            f"ONNX Runtime differs from PyTorch by {difference:.2g} on {len(places)} films; "
            f"at most {PARITY_TOLERANCE:g} is accepted, so no bundle was written."
        )
    return difference
