"""Predictions of a finished run's network for model inputs."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pneumoscope.backbone import Network, build
from pneumoscope.errors import RunError
from pneumoscope.imaging import Luma
from pneumoscope.progress import SILENT, Listener
from pneumoscope.training.run_directory import load_card, load_config, load_weights

_BATCH = 64


def load_network(run: Path) -> Network:
    """The trained network of a finished run, in evaluation mode, on the CPU.

    Raises:
        RunError: the run has no weights, or they do not fit its configuration.
    """
    config, card = load_config(run), load_card(run)
    weights = load_weights(run)
    network, _ = build(
        config.arch,
        classes=len(card.classes),
        size=config.size,
        normalisation=card.normalisation,
        low_pass=config.low_pass,
        eval_low_pass=config.eval_low_pass,
    )
    try:
        network.load_state_dict(weights)
    except RuntimeError as failure:
        raise RunError(f"{run}: the weights do not fit {config.arch!r}; train again.") from failure
    return network.eval()


def predict_inputs(
    run: Path, images: Luma, *, listener: Listener = SILENT
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits `float32 [N, C]` and embeddings `float32 [N, D]` of inputs `uint8 [N, 1, S, S]`.

    Raises:
        RunError: `run` is not a finished run.
    """
    network = load_network(run).to(memory_format=torch.channels_last)
    logits, embeddings = [], []
    with listener.progress("predicting", len(images), "images"), torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(np.array(images[start : start + _BATCH]))
            part, embedding = network.forward_with_embedding(batch)
            logits.append(part.float().numpy())
            embeddings.append(embedding.float().numpy())
            listener.advance(len(batch))
    return np.concatenate(logits), np.concatenate(embeddings)
