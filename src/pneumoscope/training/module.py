"""The Lightning module: one step, the optimiser, and the figures of each epoch."""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from typing_extensions import override

from pneumoscope.backbone import Network
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.augment import derive_seed
from pneumoscope.training.history import FIGURES, TRAIN_FIGURES, EpochRecord
from pneumoscope.training.inputs import Batch
from pneumoscope.training.loss import Objective, mix


class Classifier(pl.LightningModule):
    """Trains a `Network`; `history` has one record per epoch: `epoch` from 1, and `FIGURES`.

    Without validation films (`validates` is false), a record has only `TRAIN_FIGURES`.
    """

    def __init__(
        self, network: Network, config: TrainConfig, *, objective: Objective, classes: int, validates: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.history: list[EpochRecord] = []
        self.objective = objective
        self.figure_names = FIGURES if validates else TRAIN_FIGURES
        self.val_loss = nn.CrossEntropyLoss()
        self.figures = MetricCollection(
            {
                "train_loss": MeanMetric(),
                "train_accuracy": MulticlassAccuracy(classes, average="micro"),
                "val_loss": MeanMetric(),
                "val_accuracy": MulticlassAccuracy(classes, average="micro"),
                "val_macro_f1": MulticlassF1Score(classes, average="macro"),
            },
            compute_groups=False,
        )
        # In `__dict__`, not as a submodule: checkpoints would store the network's tensors twice.
        self.__dict__["forward_pass"] = torch.compile(network, dynamic=False) if config.compiled else network

    @override
    def on_train_epoch_start(self) -> None:
        """In the head epochs, train the classifier only; the other layers are frozen, with their batch norms."""
        if not self.config.head_epochs or self.config.freeze:
            return
        if self.current_epoch < self.config.head_epochs:
            self.network.freeze_features()
        elif self.network.frozen:
            self.network.unfreeze()

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout draws from the global random state. So do the loaders, but not equally often in an uninterrupted and
        # in a resumed run. Seeding every step makes the two runs equal.
        torch.manual_seed(derive_seed(self.config.seed, self.current_epoch, batch_idx, self.global_rank))
        images, targets = mix(batch, self.objective.targets(batch), self.config.mixup)
        logits = self.__dict__["forward_pass"](images).float()
        loss: Tensor = self.objective(logits, targets)
        self.figures["train_loss"].update(loss.detach(), len(batch.labels))
        self.figures["train_accuracy"].update(logits.detach(), batch.labels)
        return loss

    @override
    def on_validation_epoch_start(self) -> None:
        """Copy the leader's buffers to every process, so that all validate the network that the leader saves.

        Gradients keep the parameters equal, but each process computes batch norm's running means from its own
        films. Callbacks have run by now: if the moving average is validated, these are its buffers.
        """
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, labels = self.network(batch.images).float(), batch.labels
        self.figures["val_loss"].update(self.val_loss(logits, labels), len(labels))
        self.figures["val_accuracy"].update(logits, labels)
        self.figures["val_macro_f1"].update(logits, labels)

    @override
    def on_train_epoch_end(self) -> None:
        """Complete the epoch's record; validation has run by now."""
        record: EpochRecord = {"epoch": self.current_epoch + 1}
        for name in self.figure_names:
            record[name] = float(self.figures[name].compute())
            self.figures[name].reset()
        self.history.append(record)
        if self.logger is not None:
            self.logger.log_metrics(record, step=self.current_epoch + 1)

    @override
    def configure_optimizers(self) -> Any:
        config = self.config
        head_first = config.head_epochs > 0 and not config.freeze
        # With head epochs, the optimiser has all parameters from the start; the frozen ones get no gradients.
        parameters = [each for each in self.network.parameters() if each.requires_grad or head_first]
        optimizer: torch.optim.Optimizer
        if config.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
            )
        else:
            optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        head = steps * config.head_epochs // config.epochs
        scheduler = LambdaLR(optimizer, rate_factor(config.schedule, steps, rise=config.rise, head=head))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


def rate_factor(schedule: str, steps: int, *, rise: float = 0.3, head: int = 0) -> Callable[[int], float]:
    """The learning rate at a step, as a factor of the peak: a pure function, so resuming is exact.

    `cosine` falls from 1 to 0; `onecycle` rises from 0.04 to 1 over the first `rise` (a share) of the steps, then
    falls by a cosine (Smith and Topin 2018). The first `head` steps have the peak rate; the schedule begins after
    them.

    >>> [round(rate_factor("cosine", 10)(step), 2) for step in (0, 5, 10)]
    [1.0, 0.5, 0.0]
    """

    def factor(step: int) -> float:
        if step < head:
            return 1.0
        done = min(1.0, (step - head) / max(1, steps - head))
        if schedule == "constant":
            return 1.0
        start = rise if schedule == "onecycle" else 0.0
        if done < start:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / rise))
        return 0.5 * (1 + math.cos(math.pi * (done - start) / (1 - start)))

    return factor
