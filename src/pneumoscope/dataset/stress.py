"""The stress split: validation films whose storage and size no longer reveal their class.

In the published archive the JPEG quality, the metadata, the size, the framing and the place of the
letter marker differ by class, and the official test part differs from train in just these. A model
that relies on them does well on validation and worse here.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from pneumoscope.dataset.content import content_of
from pneumoscope.dataset.manifest import STRESS, Record
from pneumoscope.errors import ImageError
from pneumoscope.imaging import Limits, Luma, Radiograph, encode, read_luma, read_radiograph
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import Listener

QUALITY = 75
_LEAST, _MOST = 128, 512  # pixels of the shorter side
_FRAME = (0.82, 0.97)  # sides of the frame, as a share of those of the largest possible frame
_CORNER = 0.16  # share of each side that a corner covers
_MAX_DRAWS = 8  # of a frame, if the film is blank within it

Size: TypeAlias = tuple[int, int]


def write_stress(
    films: Sequence[Record], folder: Path, *, seed: int, limits: Limits, listener: Listener
) -> list[Record]:
    """Write the validation films once more below `stress/`, and return their records.

    Every film is cropped at random to one common aspect, and its corners are blurred. Whatever its class, it may get a
    letter marker in one of the corners. All are stored in one size as grey JPEGs of quality 75 without metadata. The
    same films and seed give the same bytes. A film that is blank in every crop is left out, and reported to the
    listener.
    """
    chosen = [film for film in films if film.split == "val"]
    names = _distinct_names([str(PurePosixPath(STRESS, *PurePosixPath(film.path).parts[1:])) for film in chosen])
    for label in {film.label for film in chosen}:
        (folder / STRESS / label).mkdir(parents=True, exist_ok=True)
    written_films = []
    work = partial(_write, folder=folder, size=common_size(chosen), seed=seed, limits=limits)
    results = map_ordered(work, zip(chosen, names, strict=True))
    for film, written in zip(chosen, listener.track("writing the stress split", results, len(chosen)), strict=True):
        if written is None:
            listener.say(f"{film.path} has no stress film: it is blank when it is cropped")
        else:
            written_films.append(written)
    return written_films


def render_stress_jpeg(luma: Luma, *, size: Size, random: np.random.Generator) -> bytes:
    """Crop a film (`uint8 [H, W]`), blur its corners, draw a marker or none, and encode it.

    Args:
        luma: the film.
        size: width and height of the result in pixels.
        random: draws the crop and the marker.

    Returns:
        The bytes of a JPEG file.
    """
    framed = Image.fromarray(_frame(luma, size, random)).resize(size, Image.Resampling.BILINEAR)
    return encode(_cover_corners(np.array(framed), random), "JPEG", quality=QUALITY)


def common_size(films: Sequence[Record]) -> Size:
    """Width and height of stress films in pixels.

    They have the median aspect; the shorter side is the tenth percentile of the films' shorter sides, so that few
    are enlarged; both are kept within limits.
    """
    side = int(np.clip(np.percentile([min(film.width, film.height) for film in films], 10), _LEAST, _MOST))
    aspect = float(np.clip(np.median([film.width / film.height for film in films]), 0.5, 2.0))
    return (round(side * aspect), side) if aspect >= 1 else (side, round(side / aspect))


def _frame(luma: Luma, size: Size, random: np.random.Generator) -> Luma:
    """A random crop with the aspect of `size`, nearly as large as fits into the film."""
    height, width = luma.shape
    unit = min(width / size[0], height / size[1]) * random.uniform(*_FRAME)
    columns, rows = (max(1, round(length * unit)) for length in size)
    top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
    return luma[top : top + rows, left : left + columns]


def _cover_corners(luma: Luma, random: np.random.Generator) -> Luma:
    """Dim and blur the corners, where markers are, then draw a marker in one of them or in none."""
    height, width = luma.shape
    tall, wide = round(height * _CORNER), round(width * _CORNER)
    rows, columns = (slice(0, tall), slice(height - tall, height)), (slice(0, wide), slice(width - wide, width))
    corners = [(row, column) for row in rows for column in columns]
    for corner in corners:
        patch = luma[corner]
        dim = np.minimum(patch, np.percentile(patch, 60)).astype(np.uint8)
        luma[corner] = np.asarray(Image.fromarray(dim).filter(ImageFilter.GaussianBlur(min(tall, wide) / 6)))
    marked = int(random.integers(len(corners) + 1))
    if marked < len(corners):
        _draw_marker(luma[corners[marked]], random)
    return luma


def _draw_marker(corner: Luma, random: np.random.Generator) -> None:
    """Draw a bright letter L, a third of the corner high, at a random place in it."""
    height, width = corner.shape
    tall = max(6, height // 3)
    thick = max(2, tall // 5)
    top, left = int(random.integers(max(1, height - tall))), int(random.integers(max(1, width - tall)))
    corner[top : top + tall, left : left + thick] = 240
    corner[top + tall - thick : top + tall, left : left + tall * 2 // 3] = 240


def _distinct_names(names: list[str]) -> list[str]:
    """The names with the suffix .jpeg; if films would share one, each keeps its own suffix before the new one."""
    preferred = [str(PurePosixPath(name).with_suffix(".jpeg")) for name in names]
    used = Counter(name.lower() for name in preferred)
    return [new if used[new.lower()] == 1 else f"{name}.jpeg" for name, new in zip(names, preferred, strict=True)]


def stress_film(film: Record, original: Luma, *, size: Size, seed: int) -> tuple[bytes, Radiograph] | None:
    """The stress file of one film and the radiograph that it decodes to, or None if it would be blank.

    Args:
        film: its record; the path and the file's hash, with `seed`, determine the random draws.
        original: its luma, `uint8 [H, W]`.
        size: see `common_size`.
        seed: seed of the random draws.
    """
    digest = hashlib.sha256(f"{seed}:{film.path}:{film.file_sha256}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    for _ in range(_MAX_DRAWS):
        data = render_stress_jpeg(original, size=size, random=random)
        try:
            return data, read_radiograph(data)
        except ImageError:
            continue
    return None


def _write(job: tuple[Record, str], *, folder: Path, size: Size, seed: int, limits: Limits) -> Record | None:
    """Write one stress film and return its record, or None if it would be blank."""
    film, name = job
    original = read_luma((folder / film.path).read_bytes(), limits=limits)
    rendered = stress_film(film, original, size=size, seed=seed)
    if rendered is None:
        return None
    data, radiograph = rendered
    (folder / name).write_bytes(data)
    return replace(film, path=name, split=STRESS, **asdict(content_of(data, radiograph)))
