"""Films or patients that occur more than once: duplicates, conflicting labels, patients across splits."""

from collections.abc import Iterable, Sequence

from pneumoscope.audit.document import Alike, SharedPatient
from pneumoscope.audit.reading import NAIVE, ExaminedFilm
from pneumoscope.dataset.likeness import near_pairs
from pneumoscope.dataset.manifest import STRESS
from pneumoscope.dataset.split import grouped, join


def identical(films: Iterable[ExaminedFilm]) -> list[Alike]:
    """Groups of two or more films whose upright pixels are equal."""
    return [to_alike(group) for group in _by_pixels(films) if len(group) > 1]


def nearly_identical(films: Iterable[ExaminedFilm]) -> list[Alike]:
    """Pairs of nearly identical films; an entry names all films that are identical to one of its pair."""
    distinct = _by_pixels(films)
    return [
        to_alike([*distinct[pair.first], *distinct[pair.second]], distance=pair.distance)
        for pair in near_pairs([group[0].content.phash for group in distinct])
    ]


def to_alike(films: Sequence[ExaminedFilm], *, distance: int = 0) -> Alike:
    """An entry of the document for these films; `distance` is in bits of 256."""
    splits = tuple(film.claim.split for film in films)
    return Alike(
        films=tuple(film.claim.name for film in films),
        splits=splits,
        labels=tuple(film.claim.label for film in films),
        distance=distance,
        crosses=crosses(splits),
    )


def crosses(splits: Iterable[str]) -> bool:
    """Whether there are several splits among these. The stress split is made of val, and counts as val."""
    return len({"val" if split == STRESS else split for split in splits}) > 1


def shared_patients(films: Iterable[ExaminedFilm]) -> list[SharedPatient]:
    """Patients with films in several splits, under each rule that names patients."""
    by_patient = grouped(
        [(named, film) for film in films for named in film.claim.patients.items()], lambda each: each[0]
    )
    return [
        SharedPatient(
            rule=rule,
            patient=patient,
            films=tuple(film.claim.name for _, film in group),
            splits=tuple(sorted({film.claim.split for _, film in group})),
        )
        for (rule, patient), group in sorted(by_patient.items(), key=lambda item: item[0])
        if crosses(film.claim.split for _, film in group)
    ]


def patient_of_each(films: Sequence[ExaminedFilm]) -> list[str]:
    """A key per film; films of one patient by any rule but `NAIVE`, or of equal pixels, have the same key."""
    # `NAIVE` would join different children that have the same number.
    links = [
        [
            f"pixels {film.content.luma_sha256}",
            *(f"{rule} {who}" for rule, who in film.claim.patients.items() if rule != NAIVE),
        ]
        for film in films
    ]
    leader = join(links)
    return [leader[keys[0]] for keys in links]


def _by_pixels(films: Iterable[ExaminedFilm]) -> list[list[ExaminedFilm]]:
    return list(grouped(films, lambda film: film.content.luma_sha256).values())
