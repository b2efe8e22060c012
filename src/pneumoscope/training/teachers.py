"""Soft targets: the probabilities that teachers (finished runs or out-of-fold predictions) give the train films."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import InputRule
from pneumoscope.dataset import Dataset
from pneumoscope.errors import RunError
from pneumoscope.files import sha256_of
from pneumoscope.metrics import Floats, choose_method, fit, softmax
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.evidence import load_evidence
from pneumoscope.training.inputs import cache_inputs, labels_of
from pneumoscope.training.loss import log_prior
from pneumoscope.training.predict import predict_inputs
from pneumoscope.training.run_directory import WEIGHTS_FILE, load_card, load_config


def teacher_probabilities(
    dataset: Dataset, teachers: Sequence[Path], *, cache: Path, listener: Listener = SILENT
) -> NDArray[np.float32]:
    """Mean probabilities of the teachers for the train films, `float32 [N, C]`, at the train part's class frequencies.

    A folder is a finished run: its network predicts the films. A file is cross-validation's evidence: its
    networks have not seen the films that they predict, so that they do not repeat wrong labels
    (arXiv:2210.08388). Its probabilities are calibrated first, as `export` does with such a file.

    Raises:
        RunError: a teacher is neither, or has other classes or films.
    """
    probabilities = [
        _from_run(dataset, teacher, cache, listener) if teacher.is_dir() else _from_evidence(dataset, teacher)
        for teacher in teachers
    ]
    return np.asarray(np.mean(probabilities, axis=0), np.float32)


def describe_teacher(teacher: Path) -> str:
    """A teacher's name and the hash of its weights or predictions, for the run's card."""
    file = teacher / WEIGHTS_FILE if teacher.is_dir() else teacher
    if not file.is_file():
        raise RunError(f"teacher {teacher} is neither a finished run nor a file of predictions; see --teachers.")
    return f"{teacher.name}, SHA-256 {sha256_of(file)}"


def _from_run(dataset: Dataset, run: Path, cache: Path, listener: Listener) -> NDArray[np.float64]:
    config, card = load_config(run), load_card(run)
    _require_classes(run, card.classes, dataset)
    images = cache_inputs(dataset, "train", InputRule.squash(config.size), cache, listener=listener)
    logits, _ = predict_inputs(run, images, listener=listener)
    return _at_train_prior(logits, config, dataset)


def _from_evidence(dataset: Dataset, path: Path) -> NDArray[np.float64]:
    evidence = load_evidence(path)
    _require_classes(path, evidence.about.classes, dataset)
    rows = evidence.rows([film.file_sha256 for film in dataset.split("train")])
    films = evidence.unseen()
    scaling = fit(films, choose_method(films))
    return _at_train_prior(scaling.logits(evidence.logits[rows]), evidence.about.config, dataset)


def _at_train_prior(logits: Floats, config: TrainConfig, dataset: Dataset) -> NDArray[np.float64]:
    """Probabilities at the labels' class frequencies, because the loss adds the log prior to a network's logits."""
    if config.prior == "uniform":
        logits = logits + log_prior(labels_of(dataset, "train"), len(dataset.classes))
    return softmax(logits)


def _require_classes(teacher: Path, classes: tuple[str, ...], dataset: Dataset) -> None:
    if classes != dataset.classes:
        raise RunError(
            f"teacher {teacher} has the classes {', '.join(classes)}, the data set {', '.join(dataset.classes)}; "
            "they must be the same."
        )
