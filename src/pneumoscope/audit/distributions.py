"""How files and films differ between classes and splits: counts, spreads of quantities, shares of properties."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pneumoscope.audit.document import Count, Shares, Spread
from pneumoscope.audit.features import jpeg_quality
from pneumoscope.audit.reading import ExaminedFilm
from pneumoscope.dataset.split import grouped

#: Values of properties that a file has or lacks.
ABSENT, PRESENT = "no", "yes"
_BY_FLAG = (ABSENT, PRESENT)  # indexed by a bool: False is 0, True is 1

_QUANTITIES: dict[str, tuple[str, Callable[[ExaminedFilm], float | None]]] = {
    "width": ("px", lambda film: film.facts.width),
    "height": ("px", lambda film: film.facts.height),
    "aspect": ("", lambda film: film.facts.width / film.facts.height),
    "file size": ("kB", lambda film: film.content.bytes / 1000),
    "bytes per pixel": ("", lambda film: film.content.bytes / (film.facts.width * film.facts.height)),
    "brightness": ("of 255", lambda film: film.measures.brightness),
    "sharpness": ("grey levels", lambda film: film.measures.sharpness),
    "JPEG quality": ("of 100", lambda film: film.facts.quantiser and jpeg_quality(film.facts.quantiser)),
}
_PROPERTIES: dict[str, Callable[[ExaminedFilm], str]] = {
    "format": lambda film: film.facts.format,
    "colour mode": lambda film: film.facts.mode,
    "bits per sample": lambda film: str(film.facts.bits),
    "EXIF": lambda film: _BY_FLAG[film.facts.exif],
    "ICC profile": lambda film: _BY_FLAG[film.facts.icc],
    "progressive": lambda film: _BY_FLAG[film.facts.progressive],
    "EXIF orientation": lambda film: str(film.facts.orientation),
}


def by_split_and_class(films: Sequence[ExaminedFilm]) -> Iterator[tuple[str, str, list[ExaminedFilm]]]:
    """The films of every class in every split that has any; in the order train, val, test, others."""
    cells = grouped(films, lambda film: (film.claim.split, film.claim.label))
    order = {"train": 0, "val": 1, "test": 2}
    for split, label in sorted(cells, key=lambda cell: (order.get(cell[0], 3), cell)):
        yield split, label, cells[split, label]


def counts(films: Sequence[ExaminedFilm], patients: Sequence[str]) -> Iterator[Count]:
    """Films, patients and films per patient; `patients` is the patient of each film."""
    patient_of = dict(zip(map(id, films), patients, strict=True))
    for split, label, cell in by_split_and_class(films):
        sizes = np.array(list(Counter(patient_of[id(film)] for film in cell).values()))
        yield Count(
            split=split,
            label=label,
            films=len(cell),
            patients=len(sizes),
            mean=round(float(sizes.mean()), 2),
            median=float(np.median(sizes)),
            most=int(sizes.max()),
        )


def spreads(films: Sequence[ExaminedFilm]) -> Iterator[Spread]:
    """5th percentile, median and 95th percentile of every quantity."""
    for quantity, (unit, measure) in _QUANTITIES.items():
        for split, label, cell in by_split_and_class(films):
            values = [value for film in cell if (value := measure(film)) is not None]
            if values:
                low, median, high = (round(float(each), 4) for each in np.percentile(values, (5, 50, 95)))
                place = {"quantity": quantity, "unit": unit, "split": split, "label": label}
                yield Spread(**place, n=len(values), low=low, median=median, high=high)


def shares(films: Sequence[ExaminedFilm]) -> Iterator[Shares]:
    """How often each value of every property occurs, most frequent first."""
    for quantity, read in _PROPERTIES.items():
        for split, label, cell in by_split_and_class(films):
            values = Counter(read(film) for film in cell)
            of_values = {value: round(count / len(cell), 4) for value, count in values.most_common()}
            yield Shares(quantity=quantity, split=split, label=label, n=len(cell), shares=of_values)
