"""What training minimises: cross-entropy of labels or of teachers' probabilities, at a declared prior."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.inputs import Batch


class Objective(nn.Module):
    """The loss of logits `float [N, C]` against targets, `int64 [N]` or shares `float [N, C]`.

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
        """A batch's labels; as shares for mixup, and with teachers between the labels and what the teachers say."""
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
    """Images and targets, each mixed with another of the batch (mixup, Zhang et al. 2018, arXiv:1710.09412).

    One share, drawn from Beta(alpha, alpha), serves the batch; a film's own share is the larger one. With
    alpha 0 everything stays as it is. `targets` are shares `float [N, C]` unless alpha is 0.
    """
    if not alpha:
        return batch.images, targets
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    own = max(share, 1 - share)
    other = torch.randperm(len(batch.labels), device=batch.images.device)
    images = batch.images.float()
    return torch.lerp(images[other], images, own), torch.lerp(targets[other], targets, own)


def log_prior(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Logarithms of the class frequencies `[C]`, as multiples of a uniform prior's.

    Added to logits that stand for equally frequent classes, they give those at the labels' frequencies.

    >>> log_prior(np.array([0, 0, 0, 1]), 2).round(3).tolist()
    [0.405, -0.693]
    """
    frequencies = np.bincount(labels, minlength=classes) / max(1, len(labels))
    return np.asarray(np.log(np.maximum(frequencies, 1e-6) * classes))


def weigh_classes(labels: NDArray[np.int64], classes: int, how: str) -> Tensor | None:
    """Weights of mean 1 by inverse frequency (`balanced`) or its square root (`sqrt`)."""
    if how == "none":
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = (1 / np.maximum(counts, 1)) ** (0.5 if how == "sqrt" else 1.0)
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)
