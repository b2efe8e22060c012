"""The loss: cross-entropy with labels or teachers' probabilities, at a declared prior."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.inputs import Batch


class Objective(nn.Module):
    """The loss of logits `float [N, C]` for targets, `int64 [N]` or probabilities `float [N, C]`.

    With `prior` uniform, the logarithms of the train part's class frequencies are added to the logits, here and
    nowhere else: the network's own probabilities are then those of equally frequent classes (Menon et al. 2021,
    arXiv:2007.07314).
    """

    adjustment: Tensor

    def __init__(self, config: TrainConfig, labels: NDArray[np.int64], classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        weights = weigh_classes(labels, classes, config.class_weights)
        self.cross_entropy = nn.CrossEntropyLoss(weight=weights, label_smoothing=config.label_smoothing)
        shift = log_prior(labels, classes) if config.prior == "uniform" else np.zeros(classes)
        self.register_buffer("adjustment", torch.tensor(shift, dtype=torch.float32), persistent=False)

    def targets(self, batch: Batch) -> Tensor:
        """A batch's labels: one-hot for mixup; with teachers, interpolated towards the teachers' probabilities."""
        if batch.teacher is None and not self.config.mixup:
            return batch.labels
        certain = one_hot(batch.labels, self.classes).float()
        if batch.teacher is None:
            return certain
        return torch.lerp(certain, batch.teacher, self.config.teacher_share)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.cross_entropy(logits + self.adjustment, targets)
        if self.config.logit_penalty:
            loss = loss + self.config.logit_penalty / 2 * logits.square().sum(dim=1).mean()
        return loss


def mix(batch: Batch, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix each film and its target with another of the batch (mixup, Zhang et al. 2018, arXiv:1710.09412).

    One share, drawn from Beta(alpha, alpha), applies to the whole batch; a film keeps the larger part of itself.
    With alpha 0 nothing changes. `targets` are probabilities `float [N, C]` unless alpha is 0.
    """
    if not alpha:
        return batch.images, targets
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    own = max(share, 1 - share)
    other = torch.randperm(len(batch.labels), device=batch.images.device)
    images = batch.images.float()
    return torch.lerp(images[other], images, own), torch.lerp(targets[other], targets, own)


def log_prior(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Logarithms of the class frequencies `[C]`, relative to a uniform prior.

    Added to logits for equally frequent classes, they give the logits at the labels' frequencies.

    >>> log_prior(np.array([0, 0, 0, 1]), 2).round(3).tolist()
    [0.405, -0.693]
    """
    frequencies = np.bincount(labels, minlength=classes) / max(1, len(labels))
    return np.asarray(np.log(np.maximum(frequencies, 1e-6) * classes))  # finite for a class without films


def weigh_classes(labels: NDArray[np.int64], classes: int, how: str) -> Tensor | None:
    """Class weights with mean 1, by inverse frequency (`balanced`) or its square root (`sqrt`); None for `none`."""
    if how == "none":
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = (1 / np.maximum(counts, 1)) ** (0.5 if how == "sqrt" else 1.0)
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)
