"""The figures of each epoch; they decide which epoch is the best and when training stops."""

from typing import TypeAlias

from pneumoscope.settings.training import TrainConfig

FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1")
#: The figures of a run without validation films.
TRAIN_FIGURES = FIGURES[:2]
EpochRecord: TypeAlias = dict[str, float]


def best_epoch(history: list[EpochRecord]) -> int:
    """Index of the record with the highest validation macro-F1; of equals, the earliest."""
    return max(range(len(history)), key=lambda index: (history[index]["val_macro_f1"], -index))


def is_finished(history: list[EpochRecord], config: TrainConfig) -> bool:
    """Whether training ends after this history: all epochs are done, or `patience` epochs passed without a new best."""
    if len(history) >= config.epochs:
        return True
    return config.patience is not None and bool(history) and len(history) - 1 - best_epoch(history) >= config.patience
