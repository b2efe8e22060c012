"""The audit's shortcut baselines for a report: how well these films are classified without seeing a lung."""

from collections.abc import Sequence

from pneumoscope.dataset import Dataset, Record
from pneumoscope.dataset.manifest import STRESS
from pneumoscope.progress import Listener
from pneumoscope.report.document import Baseline, Figure, Shortcuts

#: Enough to train trees on; more films take longer and add little.
MOST_TRAIN_FILMS = 2000
NOT_REQUESTED = Shortcuts(trained_on="", baselines=(), not_measured="not requested (--no-shortcuts)")


def shortcuts(dataset: Dataset, tested: Sequence[Record], split: str, listener: Listener) -> Shortcuts:
    """Train the baselines on the data set's train films, and test them on the films `tested`.

    They do not depend on the model: they show what the data reveal by properties other than the lungs.
    """
    training = [film for film in dataset.films if film.split in _trained_splits(split)]
    if split == "train":
        return _not_measured("the baselines would be trained on this split")
    if len({film.label for film in training}) < 2:
        return _not_measured("the data set has no train films of two classes to train them on")
    try:
        from pneumoscope.audit.shortcuts import measure_on  # scikit-learn takes a second to load
    except ModuleNotFoundError as failure:
        return _not_measured(f"{failure.name} is not installed; install it with: pip install 'pneumoscope[data]'")
    chosen = training[:: -(-len(training) // MOST_TRAIN_FILMS)]
    found = measure_on(dataset, chosen, tested, listener)
    return Shortcuts(
        trained_on=f"{len(chosen):,} films of {' and '.join(dict.fromkeys(film.split for film in chosen))}",
        baselines=tuple(
            Baseline(
                features=each.features,
                task=each.task,
                accuracy=Figure.model_validate(each.accuracy.model_dump()),
                auroc=Figure.model_validate(each.auroc.model_dump()),
            )
            for each in found
        ),
        not_measured="" if found else "too few films of two classes",
    )


def _trained_splits(split: str) -> tuple[str, ...]:
    """The splits to train on; to test `val`, or `stress`, which is made from validation films, only `train`."""
    return ("train",) if split in (STRESS, "val") else ("train", "val")


def _not_measured(why: str) -> Shortcuts:
    return Shortcuts(trained_on="", baselines=(), not_measured=why)
