"""The audit's shortcut baselines beside a model: how far anything gets on these films without seeing a lung."""

from collections.abc import Sequence

from pneumoscope.dataset import Dataset, Record
from pneumoscope.dataset.manifest import STRESS
from pneumoscope.progress import Listener
from pneumoscope.report.document import Baseline, Figure, Shortcuts

#: Enough to train trees on; more takes longer and tells no more.
MOST_TRAIN_FILMS = 2000
NOT_ASKED = Shortcuts(trained_on="", baselines=(), not_measured="not asked for (--no-shortcuts)")


def shortcuts(dataset: Dataset, tested: Sequence[Record], split: str, listener: Listener) -> Shortcuts:
    """Train the baselines on the data set's own train films, and test them on these.

    They are not of a model: they say what the data give away.
    """
    training = [film for film in dataset.films if film.split in _trained_splits(split)]
    if split == "train":
        return _without("the split is the one that the baselines would be trained on")
    if len({film.label for film in training}) < 2:
        return _without("the data set has no train films of two classes to train them on")
    try:
        from pneumoscope.audit.shortcuts import measure_on  # scikit-learn takes a second to load
    except ModuleNotFoundError as failure:
        return _without(f"{failure.name} is not installed; install it with: pip install 'pneumoscope[data]'")
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
    """The stress split is made of validation films, so that these must not be learnt from."""
    return ("train",) if split in (STRESS, "val") else ("train", "val")


def _without(why: str) -> Shortcuts:
    return Shortcuts(trained_on="", baselines=(), not_measured=why)
