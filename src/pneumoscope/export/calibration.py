"""What unseen films tell: the temperature of the probabilities, and from which one on to answer."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pneumoscope import metrics
from pneumoscope.contract import Calibration, Decision
from pneumoscope.dataset import Dataset
from pneumoscope.errors import RunError
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.evidence import Evidence, load_evidence
from pneumoscope.training.run import RunCard

#: Share of unseen films that the exported threshold answers.
COVERAGE = 0.95


def evidence_of_run(path: Path, config: TrainConfig, card: RunCard, dataset: Dataset) -> Evidence:
    """The evidence of a file, if it speaks of this run's films, network, classes and prior.

    Raises:
        RunError: it does not, or it is no evidence file.
    """
    evidence = load_evidence(path)
    about = evidence.about
    if (about.classes, about.config.arch, about.config.prior) != (card.classes, config.arch, config.prior):
        raise RunError(
            f"{path} is of {about.config.arch} with the classes {', '.join(about.classes)} and the prior "
            f"{about.config.prior}, the run of {config.arch}, {', '.join(card.classes)} and {config.prior}; "
            "cross-validate with the run's recipe."
        )
    evidence.rows([film.file_sha256 for film in dataset.split("train")])
    return evidence


def calibrate(
    prior: Literal["train", "uniform"], evidence: Evidence | None, logits: NDArray[np.float32]
) -> tuple[Calibration, NDArray[np.float64]]:
    """The calibration, and the probabilities `[N, C]` of unseen films that are to set the threshold.

    Evidence sets the temperature and has the films; without it the network's own probabilities are kept, and the
    films are those of `logits` `[N, C]`.
    """
    if evidence is None:
        return Calibration(temperature=1.0, prior=prior, films=None), metrics.softmax(logits)
    temperature = evidence.temperature()
    calibration = Calibration(temperature=temperature, prior=prior, films=len(evidence.label))
    return calibration, metrics.softmax(evidence.logits / temperature)


def decide_from(probabilities: NDArray[np.float64]) -> Decision:
    """Answer the surest `COVERAGE` of unseen films, whose probabilities `[N, C]` are given."""
    threshold = metrics.coverage_threshold(probabilities.max(axis=1), COVERAGE)
    return Decision(answer_from=threshold, coverage=COVERAGE, films=len(probabilities))
