"""One film once: matching the films of several sources, and naming and grouping their patients."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from pneumoscope.dataset.likeness import near_pairs
from pneumoscope.dataset.manifest import (
    SOURCE_SEPARATOR,
    DuplicateFilms,
    Film,
    NearFilms,
    RefusedFile,
)
from pneumoscope.dataset.sources import Taken
from pneumoscope.dataset.split import join
from pneumoscope.settings.data import PrepareConfig

if TYPE_CHECKING:
    from pneumoscope.dataset.grammar import Naming

#: Pairs of nearly identical films by the hashes of their pixels, and their distance; nearest first.
Likeness: TypeAlias = list[tuple[str, str, int]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One film of the data set: the files that hold it, at most one of each source; the first is kept."""

    files: tuple[Taken, ...]

    @property
    def kept(self) -> Taken:
        """The file that goes into the data set."""
        return self.files[0]

    @property
    def film(self) -> Film:
        """The manifest's row: with the names of all files, and the patient of the most trusted name."""
        best = max(self.files, key=lambda each: each.candidate.naming)
        names = SOURCE_SEPARATOR.join(each.film.source for each in self.files)
        return replace(self.kept.film, source=names, patient=best.film.patient)

    @property
    def pixels(self) -> str:
        """The hash of its pixels; of the kept file's, if nearly identical files were merged."""
        return self.kept.film.luma_sha256

    @property
    def tested(self) -> bool:
        """Whether any source has it in its test part."""
        return any(each.candidate.part == "test" for each in self.files)

    @property
    def patients(self) -> set[tuple["Naming", str]]:
        """Its patient, by each way of naming it."""
        return {(each.candidate.naming, each.film.patient) for each in self.files}

    @property
    def sources(self) -> set[int]:
        """Numbers of the sources that have it."""
        return {each.candidate.number for each in self.files}

    def refusals(self, reason: str) -> list[RefusedFile]:
        """What to say of its files when it is left out."""
        return [
            RefusedFile(source=each.candidate.source, name=each.candidate.member.name, reason=reason)
            for each in self.files
        ]


@dataclass(frozen=True, kw_only=True)
class United:
    """All sources as one.

    `known` is every film once, `entries` those of them that are used. `matched` counts each source's
    films that an earlier source has, too.
    """

    known: list[Entry]
    entries: list[Entry]
    likeness: Likeness
    matched: Mapping[str, int]
    duplicates: tuple[DuplicateFilms, ...]
    near_duplicates: tuple[NearFilms, ...]


def unite(taken: Sequence[Taken], config: PrepareConfig, refused: list[RefusedFile]) -> United:
    """Every film once; films whose pixels carry several labels are left out, and added to `refused`."""
    likeness = find_likeness(taken)
    entries, merged = match(taken), list[NearFilms]()
    if config.merge_near:
        entries, merged = merge_near(entries, likeness)
    near = [*merged, *_unmerged(entries, likeness)]
    same = [DuplicateFilms(films=tuple(entry.film.source for entry in group)) for group in _identical(entries)]
    matched = Counter(each.candidate.source for entry in entries for each in entry.files[1:])
    known = entries
    if not config.keep_conflicts:
        entries = _without_conflicts(entries, refused)
    if config.drop_duplicates:
        entries = _one_of_each(entries)
    return United(
        known=known,
        entries=entries,
        likeness=likeness,
        matched=matched,
        duplicates=tuple(same),
        near_duplicates=tuple(near),
    )


def find_likeness(taken: Iterable[Taken]) -> Likeness:
    """Nearly identical films among those that are not identical."""
    distinct = {each.film.luma_sha256: each.film.phash for each in taken}
    names = list(distinct)
    return [(names[pair.first], names[pair.second], pair.distance) for pair in near_pairs(list(distinct.values()))]


def match(taken: Sequence[Taken]) -> list[Entry]:
    """Match the films of different sources one to one by their pixels and label.

    Within one source nothing is matched: its exact duplicates stay films of their own.
    """
    slots: defaultdict[tuple[str, str], list[list[Taken]]] = defaultdict(list)
    made: list[list[Taken]] = []
    for each in taken:
        same = slots[each.film.luma_sha256, each.film.label]
        free = [slot for slot in same if all(held.candidate.number != each.candidate.number for held in slot)]
        if free:
            min(free, key=lambda slot: slot[0].candidate.part != each.candidate.part).append(each)
        else:
            same.append([each])
            made.append(same[-1])
    return [Entry(files=tuple(slot)) for slot in made]


def merge_near(entries: Sequence[Entry], likeness: Likeness) -> tuple[list[Entry], list[NearFilms]]:
    """Match what `match` left alone across sources, if nearly identical: one to one, nearest first."""
    holding: defaultdict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        holding[entry.pixels].append(index)
    current = dict(enumerate(entries))
    merged = []
    for first, second, distance in likeness:
        for stays, goes in (sorted((one, other)) for one in holding[first] for other in holding[second]):
            if stays in current and goes in current and _mergeable(current[stays], current[goes]):
                merged.append(_near(current[stays].film, current[goes].film, distance, merged=True))
                current[stays] = Entry(files=current[stays].files + current.pop(goes).files)
    return list(current.values()), merged


def group_patients(entries: Sequence[Entry], likeness: Likeness | None = None) -> list[str]:
    """Each entry's group, by its smallest patient: its films are of one child, as far as anybody knows.

    Two entries are in one group when any of their names tells the same patient, when their pixels are
    equal, or when a chain of such entries joins them. With `likeness`, nearly identical films are
    joined, too.
    """
    links = [_keys(entry) for entry in entries]
    links += [[f"pixels {first}", f"pixels {second}"] for first, second, _ in likeness or ()]
    leader = join(links)
    groups = [leader[f"pixels {entry.pixels}"] for entry in entries]
    smallest: dict[str, str] = {}
    for entry, group in zip(entries, groups, strict=True):
        smallest[group] = min(smallest.get(group, entry.film.patient), entry.film.patient)
    return [smallest[group] for group in groups]


def name_patients(entries: Sequence[Entry], groups: Sequence[str]) -> list[str]:
    """The patient of each entry: by its most trusted name, or else by that of its group.

    A film that only version 2 has takes version 3's number when its version 2 patient has one there.
    """
    trust = [max(each.candidate.naming for each in entry.files) for entry in entries]
    known: defaultdict[str, defaultdict[Naming, set[str]]] = defaultdict(lambda: defaultdict(set))
    for entry, group, naming in zip(entries, groups, trust, strict=True):
        known[group][naming].add(entry.film.patient)
    patients = []
    for entry, group, naming in zip(entries, groups, trust, strict=True):
        best = max(known[group])
        adopts = naming < best and len(known[group][best]) == 1
        patients.append(min(known[group][best]) if adopts else entry.film.patient)
    return patients


def _keys(entry: Entry) -> list[str]:
    """What ties an entry to others: its pixels and its patients, by each way of naming them."""
    keys = [f"pixels {each.film.luma_sha256}" for each in entry.files]
    return keys + [f"{each.candidate.naming.name} {each.film.patient}" for each in entry.files]


def _mergeable(one: Entry, other: Entry) -> bool:
    return not one.sources & other.sources and one.kept.film.label == other.kept.film.label


def _identical(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries of equal pixels, in groups of two or more."""
    groups: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.pixels].append(entry)
    return [group for group in groups.values() if len(group) > 1]


def _unmerged(entries: Iterable[Entry], likeness: Likeness) -> Iterator[NearFilms]:
    """The nearly identical pairs that stay two films; of exact duplicates the first speaks for all."""
    first: dict[str, Film] = {}
    for entry in entries:
        for each in entry.files:
            first.setdefault(each.film.luma_sha256, entry.film)
    for one, other, distance in likeness:
        if first[one].source != first[other].source:
            yield _near(first[one], first[other], distance, merged=False)


def _near(one: Film, other: Film, distance: int, *, merged: bool) -> NearFilms:
    return NearFilms(
        films=(one.source, other.source), labels=(one.label, other.label), distance=distance, merged=merged
    )


def _without_conflicts(entries: Sequence[Entry], refused: list[RefusedFile]) -> list[Entry]:
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        for each in entry.files:
            labels[each.film.luma_sha256].add(each.film.label)
    kept = []
    for entry in entries:
        found = sorted(set().union(*(labels[each.film.luma_sha256] for each in entry.files)))
        if len(found) == 1:
            kept.append(entry)
        else:
            refused += entry.refusals(
                f"conflicting labels: the same pixels are called {' and '.join(found)} (--keep-conflicts keeps them)"
            )
    return kept


def _one_of_each(entries: Sequence[Entry]) -> list[Entry]:
    """One entry of equal pixels and label: one of a test part if any, else the first."""
    chosen: dict[tuple[str, str], Entry] = {}
    for entry in sorted(entries, key=lambda each: not each.tested):
        chosen.setdefault((entry.pixels, entry.film.label), entry)
    return [entry for entry in entries if chosen[entry.pixels, entry.film.label] is entry]
