"""One film or one child in two places: duplicates, conflicting labels, patients across splits."""

from collections.abc import Iterable, Sequence

from pneumoscope.audit.document import Alike, SharedPatient
from pneumoscope.audit.reading import NAIVE, Examined
from pneumoscope.dataset.likeness import near_pairs
from pneumoscope.dataset.manifest import STRESS
from pneumoscope.dataset.split import grouped, join


def identical(films: Iterable[Examined]) -> list[Alike]:
    """Groups of two or more films whose upright pixels are equal."""
    return [alike(group) for group in _by_pixels(films) if len(group) > 1]


def nearly_identical(films: Iterable[Examined]) -> list[Alike]:
    """Pairs of films that are re-encodings of each other; of identical films all are named."""
    distinct = _by_pixels(films)
    return [
        alike([*distinct[pair.first], *distinct[pair.second]], distance=pair.distance)
        for pair in near_pairs([group[0].content.phash for group in distinct])
    ]


def alike(films: Sequence[Examined], *, distance: int = 0) -> Alike:
    """These films as one entry of the document."""
    splits = tuple(film.claim.split for film in films)
    return Alike(
        films=tuple(film.claim.name for film in films),
        splits=splits,
        labels=tuple(film.claim.label for film in films),
        distance=distance,
        crosses=crosses(splits),
    )


def crosses(splits: Iterable[str]) -> bool:
    """Whether these splits are more than one. The stress split is made of val, and counts as it."""
    return len({"val" if split == STRESS else split for split in splits}) > 1


def shared_patients(films: Iterable[Examined]) -> list[SharedPatient]:
    """Patients with films in several splits, under each rule that names patients."""
    held = grouped([(named, film) for film in films for named in film.claim.patients.items()], lambda each: each[0])
    return [
        SharedPatient(
            rule=rule,
            patient=patient,
            films=tuple(film.claim.name for _, film in group),
            splits=tuple(sorted({film.claim.split for _, film in group})),
        )
        for (rule, patient), group in sorted(held.items(), key=lambda item: item[0])
        if crosses(film.claim.split for _, film in group)
    ]


def group_films(films: Sequence[Examined]) -> list[str]:
    """A name of each film's group: films of one patient by any rule but `NAIVE`, or of equal pixels."""
    links = [
        [
            f"pixels {film.content.luma_sha256}",
            *(f"{rule} {who}" for rule, who in film.claim.patients.items() if rule != NAIVE),
        ]
        for film in films
    ]
    leader = join(links)
    return [leader[keys[0]] for keys in links]


def _by_pixels(films: Iterable[Examined]) -> list[list[Examined]]:
    return list(grouped(films, lambda film: film.content.luma_sha256).values())
