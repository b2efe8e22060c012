"""The stress split: validation films whose class their storage and size no longer tell.

In the published archive the JPEG quality, the metadata, the size, the framing and the place of the
letter marker differ by class, and the official test part differs from train in just these. A model
that leans on them does well on validation and worse here.
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
from pneumoscope.dataset.manifest import STRESS, Film
from pneumoscope.errors import ImageError
from pneumoscope.imaging import Limits, Luma, Radiograph, encode, read_luma, read_radiograph
from pneumoscope.parallel import map_ordered
from pneumoscope.progress import Listener

QUALITY = 75
_LEAST, _MOST = 128, 512  # pixels of the shorter side
_FRAME = (0.82, 0.97)  # share of the largest possible frame that is kept
_CORNER = 0.16  # share of each side that a corner covers
_DRAWS = 8  # of a frame, until one is not blank

Size: TypeAlias = tuple[int, int]


def write_stress(films: Sequence[Film], folder: Path, *, seed: int, limits: Limits, listener: Listener) -> list[Film]:
    """Write the validation films once more below `stress/`, and return their rows.

    Every film is framed anew at random in one common aspect, its corners are covered and, whatever its
    class, may get a marker in one of them; then all are stored in one size as grey JPEG of quality 75
    without metadata. The same film and seed give the same bytes. A film of which nothing but one
    brightness is left is passed over, and said.
    """
    chosen = [film for film in films if film.split == "val"]
    names = _distinct([str(PurePosixPath(STRESS, *PurePosixPath(film.path).parts[1:])) for film in chosen])
    for label in {film.label for film in chosen}:
        (folder / STRESS / label).mkdir(parents=True, exist_ok=True)
    made = []
    work = partial(_write, folder=folder, size=common_size(chosen), seed=seed, limits=limits)
    results = map_ordered(work, zip(chosen, names, strict=True))
    for film, written in zip(chosen, listener.track("writing the stress split", results, len(chosen)), strict=True):
        if written is None:
            listener.say(f"{film.path} has no stress film: framed anew, it is blank")
        else:
            made.append(written)
    return made


def stressed(luma: Luma, *, size: Size, random: np.random.Generator) -> bytes:
    """One film (`uint8 [H, W]`) framed, covered and stored anew.

    Args:
        luma: the film.
        size: width and height of the result in pixels.
        random: draws frame and marker.

    Returns:
        The bytes of a JPEG file.
    """
    framed = Image.fromarray(_frame(luma, size, random)).resize(size, Image.Resampling.BILINEAR)
    return encode(_cover_corners(np.array(framed), random), "JPEG", quality=QUALITY)


def common_size(films: Sequence[Film]) -> Size:
    """Width and height of stress films.

    The median aspect, at the tenth percentile of the shorter sides: few films must be enlarged.
    """
    side = int(np.clip(np.percentile([min(film.width, film.height) for film in films], 10), _LEAST, _MOST))
    aspect = float(np.clip(np.median([film.width / film.height for film in films]), 0.5, 2.0))
    return (round(side * aspect), side) if aspect >= 1 else (side, round(side / aspect))


def _frame(luma: Luma, size: Size, random: np.random.Generator) -> Luma:
    """A random rectangle of the wished aspect, nearly as large as fits into the film."""
    height, width = luma.shape
    unit = min(width / size[0], height / size[1]) * random.uniform(*_FRAME)
    columns, rows = (max(1, round(length * unit)) for length in size)
    top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
    return luma[top : top + rows, left : left + columns]


def _cover_corners(luma: Luma, random: np.random.Generator) -> Luma:
    """Blur what is in the corners away, then draw a marker in one of them or in none."""
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
        _mark(luma[corners[marked]], random)
    return luma


def _mark(corner: Luma, random: np.random.Generator) -> None:
    """A bright letter L, a third of the corner high, at a random place in it."""
    height, width = corner.shape
    tall = max(6, height // 3)
    thick = max(2, tall // 5)
    top, left = int(random.integers(max(1, height - tall))), int(random.integers(max(1, width - tall)))
    corner[top : top + tall, left : left + thick] = 240
    corner[top + tall - thick : top + tall, left : left + tall * 2 // 3] = 240


def _distinct(names: list[str]) -> list[str]:
    """The names as JPEG files; one that two films would share keeps its own suffix before the new one."""
    wished = [str(PurePosixPath(name).with_suffix(".jpeg")) for name in names]
    used = Counter(name.lower() for name in wished)
    return [wish if used[wish.lower()] == 1 else f"{name}.jpeg" for name, wish in zip(names, wished, strict=True)]


def stress_film(film: Film, original: Luma, *, size: Size, seed: int) -> tuple[bytes, Radiograph] | None:
    """One film's stress file, and the radiograph read back from it, or None if it would be blank.

    Args:
        film: its row; the path and the file's hash set what is drawn.
        original: its luma, `uint8 [H, W]`.
        size: see `common_size`.
        seed: of the draws.
    """
    digest = hashlib.sha256(f"{seed}:{film.path}:{film.file_sha256}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    for _ in range(_DRAWS):
        data = stressed(original, size=size, random=random)
        try:
            return data, read_radiograph(data)
        except ImageError:
            continue
    return None


def _write(job: tuple[Film, str], *, folder: Path, size: Size, seed: int, limits: Limits) -> Film | None:
    """The row of the stress film, or None if it would be blank."""
    film, name = job
    original = read_luma((folder / film.path).read_bytes(), limits=limits)
    made = stress_film(film, original, size=size, seed=seed)
    if made is None:
        return None
    data, radiograph = made
    (folder / name).write_bytes(data)
    return replace(film, path=name, split=STRESS, **asdict(content_of(data, radiograph)))
