"""Shortcut baselines: how well the class can be predicted without any detail of the lungs.

Gradient-boosted trees (scikit-learn's `HistGradientBoostingClassifier`) on features that contain no
diagnosis. Their accuracy is a floor: a network that reaches it need not have seen a lung.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from pneumoscope import metrics
from pneumoscope.audit.document import Estimate, Shift, Shortcut
from pneumoscope.audit.features import FEATURES
from pneumoscope.audit.reading import BY_MANIFEST, ExaminedFilm, claim_of, examine
from pneumoscope.dataset import Dataset, Record
from pneumoscope.dataset.manifest import STRESS
from pneumoscope.progress import Listener

TEST, HELD_OUT = "test", "held-out folds"
CLASSES_TASK = "classes"
_TRAINING_SPLITS = {TEST: "train and val", STRESS: "train"}
_FOLDS = 5
_ROUNDS = 60
_SMALL = 400  # films, below which the trees are smaller
_RESAMPLES = 1000  # of the bootstrap
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Films with the patient of each, the classes, and the groups of classes that are reported together."""

    films: Sequence[ExaminedFilm]
    patients: Sequence[str]
    classes: tuple[str, ...]
    class_groups: dict[str, tuple[str, ...]]

    @property
    def truth(self) -> NDArray[np.int64]:
        """Class indices, `int64 [N]`."""
        return np.array([self.classes.index(film.claim.label) for film in self.films], np.int64)

    def in_split(self, split: str) -> NDArray[np.bool_]:
        """Which films are in a split, `bool [N]`."""
        return np.array([film.claim.split == split for film in self.films], bool)

    def inputs(self, features: str) -> NDArray[np.float32]:
        """One feature set of every film, `float32 [N, D]`."""
        return np.stack([film.measures.vector(features) for film in self.films])

    def subset(self, chosen: NDArray[np.bool_]) -> "Pool":
        """The pool of the films where `chosen` (`bool [N]`) is true."""
        at = np.flatnonzero(chosen).tolist()
        return replace(self, films=[self.films[each] for each in at], patients=[self.patients[each] for each in at])


@dataclass(frozen=True, kw_only=True)
class ShortcutResults:
    """The fields of `Audit` with these names; `not_measured` states in words what is missing for all classes.

    The shift of a single class with too few patients, or a task with one class only, is left out without a word.
    """

    shortcuts: tuple[Shortcut, ...]
    shifts: tuple[Shift, ...]
    not_measured: tuple[str, ...]


NOT_REQUESTED = ShortcutResults(
    shortcuts=(), shifts=(), not_measured=("the shortcut baselines and shifts: not requested",)
)


def measure_shortcuts(pool: Pool, listener: Listener) -> ShortcutResults:
    """Measure every feature set: in cross-validation, from train to test and to stress, and the shift per class."""
    stress, pool = pool.subset(pool.in_split(STRESS)), pool.subset(~pool.in_split(STRESS))
    # `train` has the films of the splits train and val.
    train, test = pool.subset(~pool.in_split(TEST)), pool.subset(pool.in_split(TEST))
    folds = _fold_count(train.truth, train.patients)
    baselines: list[Shortcut] = []
    shifts: list[Shift] = []
    missing: list[str] = []
    if not folds:
        missing.append(
            "the shortcut baselines and shifts: outside the test part there is only one class, or one has fewer than "
            "2 patients"
        )
    elif not test.films:
        missing.append("train against test: there is no test part")
    steps = len(FEATURES) * (2 + len(pool.classes))
    with listener.progress("measuring shortcuts", steps, "fits"):
        for features in FEATURES if folds else ():
            baselines += _cross_validated(train, features, folds)
            listener.advance(1)
            if stress.films:  # stress is made of val, so val must not be trained on
                baselines += _train_and_test(train.subset(train.in_split("train")), stress, features, STRESS)
            if test.films:
                baselines += _train_and_test(train, test, features, TEST)
                shifts += _shifts(pool, features, listener)
            listener.advance(1)
    return ShortcutResults(shortcuts=tuple(baselines), shifts=tuple(shifts), not_measured=tuple(missing))


def measure_on(
    dataset: Dataset, training: Sequence[Record], tested: Sequence[Record], listener: Listener
) -> tuple[Shortcut, ...]:
    """Train on some films of a data set and test on others, for every feature set. Unreadable films are left out.

    Empty if the remaining training films, or the remaining test films, are of fewer than two classes. `trained_on` and
    `tested_on` of each row always read "train and val" and "test", whatever splits the films are of.
    """
    claims = [claim_of(dataset, film) for film in (*training, *tested)]
    films = [each[0] for each in examine(claims, dataset.limits, listener) if not isinstance(each, str)]
    names = {film.path for film in tested}
    pool = Pool(
        films=films,
        patients=[film.claim.patients[BY_MANIFEST] for film in films],
        classes=dataset.classes,
        class_groups=dataset.groups,
    )
    is_tested = np.array([film.claim.name in names for film in films], bool)
    train, test = pool.subset(~is_tested), pool.subset(is_tested)
    if not test.films:
        return ()
    # With so few films, threads wait for each other more than they work, and longer on a busy machine.
    with threadpool_limits(limits=1):
        return tuple(row for features in FEATURES for row in _train_and_test(train, test, features, TEST))


def _cross_validated(train: Pool, features: str, folds: int) -> Iterator[Shortcut]:
    probabilities = _out_of_fold(train.inputs(features), train.truth, train.patients, folds, len(train.classes))
    trained_on = f"all but test, {folds}-fold by patient"
    yield from _baselines(train, probabilities, features, trained_on=trained_on, tested_on=HELD_OUT)


def _train_and_test(train: Pool, test: Pool, features: str, name: str) -> Iterator[Shortcut]:
    if len(set(train.truth.tolist())) < 2:
        return
    trees = _trees(len(train.films)).fit(train.inputs(features), train.truth)
    probabilities = _class_probabilities(trees, test.inputs(features), len(train.classes))
    yield from _baselines(test, probabilities, features, trained_on=_TRAINING_SPLITS[name], tested_on=name)


def _baselines(
    pool: Pool, probabilities: NDArray[np.float64], features: str, *, trained_on: str, tested_on: str
) -> Iterator[Shortcut]:
    """The task of all classes, then every group of classes against the rest."""
    truth = pool.truth
    tasks = {CLASSES_TASK: (truth, probabilities)}
    for name, members in pool.class_groups.items():
        inside = [pool.classes.index(member) for member in members]
        share = probabilities[:, inside].sum(axis=1)
        tasks[name] = np.isin(truth, inside).astype(np.int64), np.stack([1 - share, share], axis=1)
    for name, (labels, scores) in tasks.items():
        if len(set(labels.tolist())) < 2:
            continue  # only one class to predict
        accuracy, auroc = _estimates(labels, scores, pool.patients)
        yield Shortcut(
            features=features,
            task=name,
            trained_on=trained_on,
            tested_on=tested_on,
            n=len(labels),
            accuracy=accuracy,
            chance=round(float(np.bincount(labels).max() / len(labels)), 4),
            auroc=auroc,
        )


def _shifts(pool: Pool, features: str, listener: Listener) -> Iterator[Shift]:
    """Per class: how well a classifier distinguishes the class's train films from the class's test films."""
    for index, label in enumerate(pool.classes):
        films = pool.subset(pool.truth == index)
        tested = films.in_split(TEST).astype(np.int64)
        folds = _fold_count(tested, films.patients)
        listener.advance(1)
        if folds:
            scores = _out_of_fold(films.inputs(features), tested, films.patients, folds, 2)
            yield Shift(
                label=label,
                features=features,
                n_train=int((tested == 0).sum()),
                n_test=int(tested.sum()),
                auroc=_estimates(tested, scores, films.patients)[1],
            )


def _estimates(
    truth: NDArray[np.int64], probabilities: NDArray[np.float64], patients: Sequence[str]
) -> tuple[Estimate, Estimate]:
    """Accuracy and one-versus-rest AUROC, each with its interval."""
    right = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    # Two classes have one ROC area, whichever is called positive.
    shown = range(1, 2) if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas = [metrics.auroc(truth == index, probabilities[:, index]) for index in shown]
    drawn: list[tuple[metrics.Floats, metrics.Floats]] = []
    for weights in metrics.bootstrap_weights(patients, resamples=_RESAMPLES, seed=_SEED):
        each = [metrics.weighted_aurocs(truth == index, probabilities[:, index], weights) for index in shown]
        drawn.append((weights @ right / weights.sum(axis=1), _defined_mean(np.array(each))))
    accuracies, aurocs = (np.concatenate(values) for values in zip(*drawn, strict=True))
    area = float(_defined_mean(np.array(areas)[:, np.newaxis])[0])
    return _estimate(float(right.mean()), accuracies), _estimate(area, aurocs)


def _defined_mean(areas: metrics.Floats) -> metrics.Floats:
    """Mean over the first axis of the defined values: a class may be missing from a split or a resample."""
    return np.asarray(np.ma.masked_invalid(areas).mean(axis=0).filled(np.nan))


def _estimate(value: float, resampled: metrics.Floats) -> Estimate:
    low, high = metrics.percentile_interval(resampled)
    return Estimate(value=round(value, 4), low=round(low, 4), high=round(high, 4))


def _out_of_fold(
    inputs: NDArray[np.float32], truth: NDArray[np.int64], patients: Sequence[str], folds: int, classes: int
) -> NDArray[np.float64]:
    """Probabilities `[N, C]` of each film by trees that were trained on other patients' films."""
    probabilities = np.zeros((len(truth), classes))
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=_SEED)
    for train, held_out in cut.split(inputs, truth, list(patients)):
        if len(set(truth[train].tolist())) == 1:  # all films of the other classes are of held-out patients
            probabilities[held_out, truth[train][0]] = 1
            continue
        trees = _trees(len(train)).fit(inputs[train], truth[train])
        probabilities[held_out] = _class_probabilities(trees, inputs[held_out], classes)
    return probabilities


def _trees(films: int) -> HistGradientBoostingClassifier:
    small = films < _SMALL  # the library's defaults, 20 films per leaf and 31 leaves, suit larger sets
    return HistGradientBoostingClassifier(
        learning_rate=0.15,
        max_iter=_ROUNDS // 2 if small else _ROUNDS,
        min_samples_leaf=max(2, films // 20) if small else 20,
        max_leaf_nodes=6 if small else 31,
        early_stopping=False,
        random_state=_SEED,
    )


def _class_probabilities(
    trees: HistGradientBoostingClassifier, inputs: NDArray[np.float32], classes: int
) -> NDArray[np.float64]:
    """Probabilities `[N, C]`; 0 for classes that these trees were not trained on."""
    probabilities = np.zeros((len(inputs), classes))
    probabilities[:, trees.classes_] = trees.predict_proba(inputs)
    return probabilities


def _fold_count(truth: NDArray[np.int64], patients: Sequence[str]) -> int:
    """The number of patients of the smallest class, at most five; 0 if that is below two or there is one class only."""
    patients_of_class = Counter(label for label, _ in set(zip(truth.tolist(), patients, strict=True)))
    least = min(patients_of_class.values(), default=0)
    return min(_FOLDS, least) if least >= 2 and len(patients_of_class) > 1 else 0
