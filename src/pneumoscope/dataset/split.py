"""Cutting a part of the films off, patient by patient."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pneumoscope.errors import DatasetError

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What a split needs to know of a film."""

    label: str
    patient: str


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by their keys, in the order of each key's first; `itertools.groupby` would want them sorted."""
    groups: defaultdict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def join(links: Iterable[Sequence[str]]) -> dict[str, str]:
    """Name of each key's group, given the keys that belong together; a group's name is its smallest key.

    >>> join([["b", "x"], ["a", "x"], ["c"]])
    {'b': 'a', 'x': 'a', 'a': 'a', 'c': 'c'}
    """
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while (above := leader[key]) != key:
            leader[key] = leader[above]  # halve the path
            key = leader[key]
        return key

    for keys in links:
        for key in keys:
            leader.setdefault(key, key)
            one, other = sorted((find(keys[0]), find(key)))
            leader[other] = one
    return {key: find(key) for key in leader}


def cut_patients(films: Sequence[Labelled], *, fraction: float, seed: int) -> set[str]:
    """Choose patients that hold about `fraction` of the films of every class.

    Patients are visited in an order set by a hash of `seed` and their name, so the choice does not
    depend on the order of `films`, nor on any random generator's version. A patient is taken when
    that brings the counts nearer to their targets. Every class keeps and gives at least one patient.

    Raises:
        DatasetError: a class has only one patient.
    """
    patients = _by_patient(films, seed)
    totals = Counter(film.label for film in films)
    _require_two_patients(patients, totals)
    targets = {label: fraction * total for label, total in totals.items()}
    chosen: set[str] = set()
    reached: Counter[str] = Counter()
    for patient, counts in patients.items():
        if _gain(counts, reached, targets) > 0:
            chosen.add(patient)
            reached += counts
    return _on_both_sides(chosen, patients, totals)


def deal_patients(films: Sequence[Labelled], *, folds: int, seed: int) -> list[int]:
    """Give every film one of `folds` folds, patient by patient, each with about as many films of every class.

    Patients are visited in an order set by a hash of `seed` and their name, those with most films first,
    and go where they bring the counts nearest to their targets. The fold of every film, from 0.

    Raises:
        DatasetError: a class has fewer patients than folds.
    """
    patients = _by_patient(films, seed)
    totals = Counter(film.label for film in films)
    for label in sorted(totals):
        if (count := sum(1 for counts in patients.values() if counts[label])) < folds:
            raise DatasetError(f"class {label!r} has {count} patients, too few for {folds} folds; ask for fewer.")
    targets = {label: total / folds for label, total in totals.items()}
    reached = [Counter[str]() for _ in range(folds)]
    dealt = {}
    for patient, counts in sorted(patients.items(), key=lambda item: -item[1].total()):
        gains = [_gain(counts, each, targets) for each in reached]
        dealt[patient] = gains.index(max(gains))
        reached[dealt[patient]] += counts
    return [dealt[film.patient] for film in films]


def _by_patient(films: Sequence[Labelled], seed: int) -> dict[str, Counter[str]]:
    """How many films of every label each patient has; in an order set by a hash of `seed` and their names."""
    patients: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for film in films:
        patients[film.patient][film.label] += 1
    return dict(sorted(patients.items(), key=lambda item: hashlib.sha256(f"{seed}:{item[0]}".encode()).digest()))


def _gain(films: Counter[str], reached: Counter[str], targets: dict[str, float]) -> float:
    """By how much the squared distance to the targets falls when these films are added.

    Labels are added up in one order: sums of floats depend on it in their last digit, which may decide a tie.
    """
    return sum(
        (targets[label] - reached[label]) ** 2 - (targets[label] - reached[label] - count) ** 2
        for label, count in sorted(films.items())
    )


def _on_both_sides(chosen: set[str], patients: dict[str, Counter[str]], totals: Counter[str]) -> set[str]:
    """The chosen patients, with every class on both sides: of one on one side only, the smallest patient is moved.

    A move that would take another class off one side is not made.
    """
    smallest = sorted(patients, key=lambda patient: patients[patient].total())
    holders = {label: [patient for patient in smallest if patients[patient][label]] for label in totals}

    def both(label: str, taken: set[str]) -> bool:
        return 0 < len(taken.intersection(holders[label])) < len(holders[label])

    for label in sorted(totals):
        for patient in [] if both(label, chosen) else holders[label]:
            moved = chosen ^ {patient}
            if all(both(each, moved) or not both(each, chosen) for each in patients[patient] if each != label):
                chosen = moved
                break
    if stuck := [label for label in sorted(totals) if not both(label, chosen)]:
        raise DatasetError(f"class {stuck[0]!r} cannot be on both sides of a cut by patient; add patients of it.")
    return chosen


def _require_two_patients(patients: dict[str, Counter[str]], totals: Counter[str]) -> None:
    for label in sorted(totals):
        if sum(1 for counts in patients.values() if counts[label]) < 2:
            raise DatasetError(
                f"class {label!r} has one patient left to cut from; train, val and test need one each, and patients "
                "of nearly identical films count as one. Add films, name patients with --patient-pattern, or, where "
                "the Patient IDs of DICOMs are no use, pass --ignore-patient-ids."
            )
