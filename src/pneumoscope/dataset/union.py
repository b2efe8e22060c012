"""Uniting the sources: films are matched, so that each is used once, and their patients are named and grouped."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pneumoscope.dataset.grammar import Naming
from pneumoscope.dataset.likeness import near_pairs
from pneumoscope.dataset.manifest import SOURCE_SEPARATOR, DuplicateFilms, NearFilms, RefusedFile
from pneumoscope.dataset.sources import Source, SourceFilm
from pneumoscope.dataset.split import grouped, join
from pneumoscope.settings.data import PrepareConfig

#: Pairs of nearly identical films, as the SHA-256 of their pixels, with their distance in bits; nearest first.
Likeness: TypeAlias = list[tuple[str, str, int]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One film of the data set: the matching films of the sources, at most one per source. The first one is kept."""

    films: tuple[SourceFilm, ...]

    @property
    def kept(self) -> SourceFilm:
        """The film whose file is put into the data set."""
        return self.films[0]

    @property
    def name(self) -> str:
        """The names of all its films."""
        return SOURCE_SEPARATOR.join(film.name for film in self.films)

    @property
    def label(self) -> str:
        """The class, which is the same for all its films."""
        return self.kept.label

    @property
    def pixels(self) -> str:
        """The SHA-256 of the pixels; of the kept film's pixels, if nearly identical films were merged."""
        return self.kept.content.luma_sha256

    @property
    def naming(self) -> Naming:
        """The most trusted naming among its films."""
        return max(film.naming for film in self.films)

    @property
    def patient(self) -> str:
        """The patient, by the most trusted naming."""
        return max(self.films, key=lambda film: film.naming).patient

    @property
    def patients(self) -> set[tuple[Naming, str]]:
        """The patient, by each naming among its films."""
        return {(film.naming, film.patient) for film in self.films}

    @property
    def in_test_part(self) -> bool:
        """Whether any source has the film in its test part."""
        return any(film.part == "test" for film in self.films)

    def refusals(self, reason: str) -> list[RefusedFile]:
        """A `RefusedFile` for each of its files, in case the entry is left out."""
        return [RefusedFile(source=film.source, name=film.member, reason=reason) for film in self.films]


@dataclass(frozen=True, kw_only=True)
class Union:
    """All sources united: `entries` contains every used film exactly once.

    `groups` maps the `pixels` of every entry, used or not, to the name of its group: see `group_patients`.
    `test_groups` are the groups that any source has in its test part. `matched[source_index]` is the number of films of
    a source that an earlier source also has. `refused` are the files that the sources
    refused, and those of films left out because of conflicting labels.
    """

    entries: tuple[Entry, ...]
    groups: Mapping[str, str]
    test_groups: frozenset[str]
    matched: Counter[int]
    duplicates: tuple[DuplicateFilms, ...]
    near_duplicates: tuple[NearFilms, ...]
    refused: tuple[RefusedFile, ...]


def unite(sources: Sequence[Source], config: PrepareConfig) -> Union:
    """Unite the sources: match their films, and by default leave out those whose pixels have several labels.

    A patient of a test part stays a test patient even if the film in that part is not used or cannot be read.
    """
    films = [film for source in sources for film in source.films]
    likeness = find_likeness(films)
    known, merged = merge_near(match(films), likeness if config.merge_near else [])
    # Groups are made of all films, also of those left out below: a conflicting test film still ties its patient.
    groups = group_patients(known, likeness)
    unreadable = {patient for source in sources for patient in source.unreadable_test_patients}
    entries, conflicting = (known, []) if config.keep_conflicts else _without_conflicts(known)
    return Union(
        entries=tuple(_one_of_each(entries) if config.drop_duplicates else entries),
        groups=groups,
        test_groups=frozenset(
            groups[entry.pixels] for entry in known if entry.in_test_part or entry.patients & unreadable
        ),
        matched=Counter(film.source_index for entry in known for film in entry.films[1:]),
        duplicates=tuple(_identical(known)),
        near_duplicates=(*merged, *_unmerged(known, likeness)),
        refused=(*(each for source in sources for each in source.refused), *conflicting),
    )


def find_likeness(films: Iterable[SourceFilm]) -> Likeness:
    """Pairs of films that are nearly, but not exactly, identical."""
    distinct = {film.content.luma_sha256: film.content.phash for film in films}
    names = list(distinct)
    return [(names[one], names[other], distance) for distance, one, other in near_pairs(list(distinct.values()))]


def match(films: Sequence[SourceFilm]) -> list[Entry]:
    """Match the films of different sources one to one by their pixels and label.

    Films of one source are never matched: its exact duplicates stay separate films.
    """
    slots: defaultdict[tuple[str, str], list[list[SourceFilm]]] = defaultdict(list)
    matched: list[list[SourceFilm]] = []
    for film in films:
        # Compared by decoded pixels, because sources store the same film with different names, formats and metadata.
        same = slots[film.content.luma_sha256, film.label]
        # One to one, so that the published counts of a source still hold, duplicates included.
        free = [slot for slot in same if all(held.source_index != film.source_index for held in slot)]
        if free:
            # Train is matched with train and test with test, if possible.
            min(free, key=lambda slot: slot[0].part != film.part).append(film)
        else:
            same.append([film])
            matched.append(same[-1])
    return [Entry(films=tuple(slot)) for slot in matched]


def merge_near(entries: Sequence[Entry], likeness: Likeness) -> tuple[list[Entry], list[NearFilms]]:
    """Match nearly identical films of different sources that `match` has not matched: one to one, nearest first."""
    holding = grouped(range(len(entries)), lambda index: entries[index].pixels)
    current = dict(enumerate(entries))
    merged = []
    for first, second, distance in likeness:
        # The entry of the earlier source stays, so that its file is kept.
        for stays, goes in (sorted((one, other)) for one in holding[first] for other in holding[second]):
            if stays in current and goes in current and _mergeable(current[stays], current[goes]):
                merged.append(_near(current[stays], current[goes], distance, merged=True))
                current[stays] = Entry(films=current[stays].films + current.pop(goes).films)
    return list(current.values()), merged


def group_patients(entries: Sequence[Entry], likeness: Likeness | None = None) -> dict[str, str]:
    """Group films that may be of the same patient. The keys are the entries' pixels, the values the groups' names.

    Two entries are in one group if any naming gives both the same patient, if their pixels are equal, or if a chain of
    such entries connects them; with `likeness`, also if they are nearly identical. A group is named by its
    alphabetically first patient.
    """
    links = [_keys(entry) for entry in entries]
    links += [[f"pixels {first}", f"pixels {second}"] for first, second, _ in likeness or ()]
    leader = join(links)
    leaders = {entry.pixels: leader[f"pixels {entry.pixels}"] for entry in entries}
    smallest: dict[str, str] = {}
    for entry in sorted(entries, key=lambda entry: entry.patient):
        smallest.setdefault(leaders[entry.pixels], entry.patient)
    return {pixels: smallest[group] for pixels, group in leaders.items()}


def name_patients(entries: Sequence[Entry]) -> list[str]:
    """The patient of each entry: by its own most trusted name, or by a more trusted one of its group.

    For example, a film that is only in version 2 of the archive gets the patient number of version 3 if another film
    connects its version 2 patient to such a number. The more trusted name is used only if it is the only one of its
    kind in the group.
    """
    groups = group_patients(entries)
    known: defaultdict[str, defaultdict[Naming, set[str]]] = defaultdict(lambda: defaultdict(set))
    for entry in entries:
        known[groups[entry.pixels]][entry.naming].add(entry.patient)
    patients = []
    for entry in entries:
        named = known[groups[entry.pixels]]
        best = max(named)
        adopts = entry.naming < best and len(named[best]) == 1
        patients.append(min(named[best]) if adopts else entry.patient)
    return patients


def _keys(entry: Entry) -> list[str]:
    """The keys that link an entry to others: its pixels, and its patients by each naming."""
    keys = [f"pixels {film.content.luma_sha256}" for film in entry.films]
    return keys + [f"{film.naming.name} {film.patient}" for film in entry.films]


def _mergeable(one: Entry, other: Entry) -> bool:
    """Whether two entries have the same label and no source in common."""
    held = {film.source_index for film in one.films}
    return one.label == other.label and not any(film.source_index in held for film in other.films)


def _identical(entries: Iterable[Entry]) -> list[DuplicateFilms]:
    """Entries of equal pixels, in groups of two or more."""
    same = grouped(entries, lambda entry: entry.pixels).values()
    return [DuplicateFilms(films=tuple(entry.name for entry in group)) for group in same if len(group) > 1]


def _unmerged(entries: Iterable[Entry], likeness: Likeness) -> Iterator[NearFilms]:
    """The nearly identical pairs that stay two films; exact duplicates are represented by the first one."""
    first: dict[str, Entry] = {}
    for entry in entries:
        for film in entry.films:
            first.setdefault(film.content.luma_sha256, entry)
    for one, other, distance in likeness:
        if first[one] is not first[other]:
            yield _near(first[one], first[other], distance, merged=False)


def _near(one: Entry, other: Entry, distance: int, *, merged: bool) -> NearFilms:
    return NearFilms(films=(one.name, other.name), labels=(one.label, other.label), distance=distance, merged=merged)


def _without_conflicts(entries: Sequence[Entry]) -> tuple[list[Entry], list[RefusedFile]]:
    """The entries whose pixels have one label only, and the files of the others."""
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        for film in entry.films:
            labels[film.content.luma_sha256].add(film.label)
    kept, refused = list[Entry](), list[RefusedFile]()
    for entry in entries:
        # All films of an entry: merged near duplicates may each conflict with other films of their own pixels.
        found = sorted(set().union(*(labels[film.content.luma_sha256] for film in entry.films)))
        if len(found) == 1:
            kept.append(entry)
        else:
            refused += entry.refusals(
                f"conflicting labels: the same pixels are labelled {' and '.join(found)} (--keep-conflicts keeps them)"
            )
    return kept, refused


def _one_of_each(entries: Sequence[Entry]) -> list[Entry]:
    """One entry for equal pixels and label: one in a test part if there is one, else the first."""
    chosen: dict[tuple[str, str], Entry] = {}
    # A test film is preferred to its copy in train: leaving it out would change the published test part.
    for entry in sorted(entries, key=lambda each: not each.in_test_part):
        chosen.setdefault((entry.pixels, entry.label), entry)
    return [entry for entry in entries if chosen[entry.pixels, entry.label] is entry]
