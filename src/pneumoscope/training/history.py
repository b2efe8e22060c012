"""The figures of each epoch, and what follows from them: the best epoch, and when to stop."""

from typing import TypeAlias

from pneumoscope.settings.training import TrainConfig

FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1")
#: Those of a run without validation films.
TRAIN_FIGURES = FIGURES[:2]
Record: TypeAlias = dict[str, float]


def best_epoch(history: list[Record]) -> int:
    """Index of the record with the highest validation macro-F1, the earliest of equals."""
    return max(range(len(history)), key=lambda index: (history[index]["val_macro_f1"], -index))


def ran_out(history: list[Record], config: TrainConfig) -> bool:
    """Whether training is over after this history: all epochs done, or patience at its end."""
    if len(history) >= config.epochs:
        return True
    return config.patience is not None and bool(history) and len(history) - 1 - best_epoch(history) >= config.patience
