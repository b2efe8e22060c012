"""Synthetic chest radiographs of the three classes, drawn from random numbers.

With them, every stage can be run and tested without any patient's film. A phantom shows the idea of a finding
(an opaque lobe, a fine net over both lungs); it does not simulate physics.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoscope.errors import UsageError
from pneumoscope.files import whole_directory
from pneumoscope.imaging import Luma, encode

Finding: TypeAlias = Literal["bacteria", "normal", "virus"]
Field: TypeAlias = NDArray[np.floating[Any]]

FINDINGS: tuple[Finding, ...] = get_args(Finding)
_WORKING_ROWS = 288  # anatomy is drawn with this many rows, then enlarged; noise is added at full size
_COMMENT = b"Drawn by pneumoscope: a synthetic radiograph, of no patient."
_HEAD = 4096  # bytes at the start of a file in which the comment is looked for
_TEST_SHARE = 0.2  # of the films of each class
_ENCODINGS = ((75, False), (85, False), (92, False), (92, True))  # quality, progressive


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One synthetic film. `name` is a file name as in the version 2 archive; `luma` is `uint8 [H, W]`."""

    name: str
    finding: Finding
    patient: int
    luma: Luma


class _Anatomy:
    """A patient's build, in units of half the film's height.

    The order of the random draws must not change, or else the same seed would give other drawings.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self.lung_width = random.uniform(0.31, 0.38)
        self.lung_height = random.uniform(0.72, 0.82)
        self.gap = random.uniform(0.38, 0.43)
        self.heart = random.uniform(0.26, 0.35)
        self.ribs = int(random.integers(7, 10))
        self.rib_phase = random.uniform(0, 1)
        self.rib_strength = random.uniform(0.10, 0.16)
        self.vessels = int(random.integers(2**31))


def film(finding: Finding, *, patient: int, shot: int = 0, seed: int = 0, size: tuple[int, int] | None = None) -> Luma:
    """Draw one film of one patient; the same arguments give the same pixels.

    Args:
        finding: `normal` is clear; `bacteria` has one or two lobar consolidations; `virus` has a
            diffuse bilateral interstitial pattern.
        patient: seed of the anatomy.
        shot: seed of what differs between films of a patient: position, exposure, noise, extent of the finding.
        seed: seed of the whole population.
        size: height and width in pixels; by default random: a height of 320 to 559, a width of 1 to 1.35 heights.

    Returns:
        `uint8 [height, width]`.
    """
    anatomy = _Anatomy(np.random.default_rng([seed, patient, FINDINGS.index(finding)]))
    random = np.random.default_rng([seed, patient, FINDINGS.index(finding), shot + 1])
    height, width = size or _film_size(random)
    density = _compose(anatomy, finding, random, aspect=width / height)
    return _expose(density, (height, width), random)


def population(count: int, *, seed: int = 0) -> Iterator[Phantom]:
    """Yield `count` phantoms of balanced classes, one to four films per patient."""
    random = np.random.default_rng([seed, count])
    wanted = {finding: count // 3 + (place < count % 3) for place, finding in enumerate(FINDINGS)}
    drawn = dict.fromkeys(FINDINGS, 0)
    patient = 0
    while drawn != wanted:
        finding = max(FINDINGS, key=lambda each: wanted[each] - drawn[each])
        patient += 1
        for shot in range(min(int(random.integers(1, 5)), wanted[finding] - drawn[finding])):
            drawn[finding] += 1
            name = _file_name(finding, patient, shot, drawn[finding])
            yield Phantom(
                name=name, finding=finding, patient=patient, luma=film(finding, patient=patient, shot=shot, seed=seed)
            )


def write_archive_folder(out: Path, *, count: int, seed: int = 0, overwrite: bool) -> None:
    """Write phantoms as an extracted version 2 archive, `chest_xray/{train,test}/{NORMAL,PNEUMONIA}/`.

    All films of a patient are in one part. JPEG quality varies independently of the class, so that it is not a
    shortcut. A comment in each file marks it as a drawing: see `is_phantom`.

    Raises:
        UsageError: `count` is less than 30, or `out` exists and must not be replaced.
    """
    if count < 30:
        raise UsageError(f"--count is {count}; three classes in three splits need at least 30 phantoms.")
    with whole_directory(out, overwrite=overwrite, holding="chest_xray") as folder:
        for name, data in _archive_members(count, seed):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def write_archive_zip(out: Path, *, count: int, seed: int = 0) -> None:
    """Write the same phantoms as one ZIP archive, laid out like the version 2 download."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in _archive_members(count, seed):
            archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980: the same archive every time


def encode_jpeg(luma: Luma, *, quality: int = 85, progressive: bool = False, comment: bytes = b"") -> bytes:
    """Encode a luma image, `uint8 [H, W]`, as a grey JPEG."""
    return encode(luma, "JPEG", quality=quality, progressive=progressive, comment=comment)


def is_phantom(data: bytes) -> bool:
    """Whether the bytes begin like a film that `write_archive_folder` or `write_archive_zip` wrote: by its comment.

    Such a file has a comment segment (ITU-T T.81, section B.2.4.5), which survives renaming and moving the file, but
    not encoding it anew.
    """
    segment = b"\xff\xfe" + (len(_COMMENT) + 2).to_bytes(2, "big") + _COMMENT
    return segment in data[:_HEAD]


def _archive_members(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    tested = dict.fromkeys(FINDINGS, 0)
    part_of: dict[int, str] = {}
    for index, phantom in enumerate(population(count, seed=seed)):
        if phantom.patient not in part_of:
            wanted = tested[phantom.finding] < _TEST_SHARE * (index / len(FINDINGS))
            part_of[phantom.patient] = "test" if wanted else "train"
        part = part_of[phantom.patient]
        tested[phantom.finding] += part == "test"
        folder = "NORMAL" if phantom.finding == "normal" else "PNEUMONIA"
        quality, progressive = _ENCODINGS[int(np.random.default_rng([seed, index, 7]).integers(len(_ENCODINGS)))]
        yield (
            f"chest_xray/{part}/{folder}/{phantom.name}",
            encode_jpeg(phantom.luma, quality=quality, progressive=progressive, comment=_COMMENT),
        )


def _file_name(finding: Finding, patient: int, shot: int, number: int) -> str:
    if finding == "normal":
        return f"IM-{patient:04d}-{shot + 1:04d}.jpeg"
    return f"person{patient}_{finding}_{number}.jpeg"


def _film_size(random: np.random.Generator) -> tuple[int, int]:
    height = int(random.integers(320, 560))
    return height, int(height * random.uniform(1.0, 1.35))


def _compose(anatomy: _Anatomy, finding: Finding, random: np.random.Generator, *, aspect: float) -> Field:
    """Density of the whole film, about 0 (air) to 1 (bone), `float32 [rows, columns]`."""
    x, y = _grid(random, aspect)
    lungs = [_lung(anatomy, side, x, y) for side in (-1, 1)]
    air = np.maximum(*lungs)
    body = _smooth_step(1 - np.hypot(x / 1.04, (y - 0.35) / 1.60) ** 4, 0.10)
    density = 0.62 * body - 0.44 * air + _spine(x, y) * body
    heart = _heart(anatomy, x, y)
    # Vessels and findings are not drawn over the heart.
    lungs = [lung * (1 - heart / heart.max()) for lung in lungs]
    air = np.maximum(*lungs)
    density = np.maximum(density, heart * body)
    density += _ribs(anatomy, x, y) * body
    density += _clavicles(x, y) * body
    density -= 0.10 * _smooth_step(0.05 - np.abs(x), 0.015) * _smooth_step(-0.35 - y, 0.05)  # trachea
    density += air * _vessels(anatomy, x, y)
    density += _finding_density(finding, lungs, random, x, y)
    return np.asarray(density, dtype=np.float32)


def _grid(random: np.random.Generator, aspect: float) -> tuple[Field, Field]:
    """Coordinates in half heights, rotated, shifted and zoomed: no two films are positioned alike."""
    rows, columns = _WORKING_ROWS, round(_WORKING_ROWS * aspect)
    y, x = np.mgrid[-1 : 1 : complex(rows), -aspect : aspect : complex(columns)].astype(np.float32)
    angle = np.deg2rad(random.uniform(-6, 6))
    zoom = random.uniform(0.92, 1.12)
    x, y = x - random.uniform(-0.08, 0.08), y - random.uniform(-0.07, 0.07)
    return (
        ((np.cos(angle) * x + np.sin(angle) * y) / zoom).astype(np.float32),
        ((np.cos(angle) * y - np.sin(angle) * x) / zoom).astype(np.float32),
    )


def _lung(anatomy: _Anatomy, side: int, x: Field, y: Field) -> Field:
    """A lung: rounded, narrow at the apex, cut off below by the dome of the diaphragm."""
    centre = side * anatomy.gap
    widening = 1 + 0.28 * np.clip(y, -0.8, 0.5)
    across = np.abs((x - centre) / (anatomy.lung_width * widening))
    along = np.abs((y + 0.05) / anatomy.lung_height)
    dome = 0.58 + 0.05 * side + 0.9 * (x - centre) ** 2
    return np.asarray(_smooth_step(1 - (across**2.6 + along**3.0), 0.08) * _smooth_step(dome - y, 0.02))


def _heart(anatomy: _Anatomy, x: Field, y: Field) -> Field:
    reach = np.hypot((x - 0.12) / anatomy.heart, (y - 0.34) / (anatomy.heart * 1.15))
    mediastinum = _smooth_step(0.13 - np.abs(x), 0.03) * _smooth_step(y + 0.75, 0.1)
    return np.asarray(np.maximum(0.64 * _smooth_step(1 - reach, 0.07), 0.60 * mediastinum))


def _spine(x: Field, y: Field) -> Field:
    column = np.exp(-((x / 0.07) ** 2))
    return np.asarray(column * (0.10 + 0.03 * np.cos(y * 34)), dtype=np.float32)


def _ribs(anatomy: _Anatomy, x: Field, y: Field) -> Field:
    reach = np.abs(x)
    spacing = 1.45 / anatomy.ribs
    # One wave serves for all ribs: its crests are the ribs, sloping down to the sides.
    phase = (y - 0.75 * reach**1.7 + anatomy.rib_phase * spacing) / spacing
    crest = np.clip(np.cos(2 * np.pi * phase) - 0.35, 0, None) / 0.65
    return np.asarray(
        anatomy.rib_strength * crest * _smooth_step(reach - 0.08, 0.04) * _smooth_step(0.75 - y, 0.1), dtype=np.float32
    )


def _clavicles(x: Field, y: Field) -> Field:
    distance = y + 0.62 - 0.22 * np.abs(np.abs(x) - 0.35)
    return np.asarray(
        0.14 * np.exp(-((distance / 0.035) ** 2)) * _smooth_step(np.abs(x) - 0.07, 0.03), dtype=np.float32
    )


def _vessels(anatomy: _Anatomy, x: Field, y: Field) -> Field:
    """Vessel markings, strongest near the hilum; alike on a patient's films whose aspects are nearly equal."""
    # A generator of its own, so that the patient's other films show the same vessels, if their grids have equal sizes.
    random = np.random.default_rng(anatomy.vessels)
    hilum = np.exp(-(((np.abs(x) - 0.20) / 0.16) ** 2) - ((y - 0.02) / 0.30) ** 2)
    return np.asarray((0.03 + 0.13 * hilum) * (_net(random, x.shape, cells=11) + 0.4), dtype=np.float32)


def _finding_density(finding: Finding, lungs: list[Field], random: np.random.Generator, x: Field, y: Field) -> Field:
    if finding == "bacteria":
        return _consolidation(lungs, random, x, y)
    if finding == "virus":
        return _interstitial(lungs, random)
    return np.zeros_like(x)


def _consolidation(lungs: list[Field], random: np.random.Generator, x: Field, y: Field) -> Field:
    """One lobe, sometimes two, with a cloudy density and uneven edges."""
    density = np.zeros_like(x)
    for _ in range(1 + int(random.random() < 0.25)):
        lung = lungs[int(random.integers(2))]
        rows, columns = np.nonzero(lung > 0.6)
        pick = int(random.integers(len(rows)))
        cx, cy = x[rows[pick], columns[pick]], y[rows[pick], columns[pick]]
        reach = np.hypot((x - cx) / random.uniform(0.20, 0.32), (y - cy) / random.uniform(0.18, 0.30))
        edge = 1 - reach + 0.35 * _cloud(random, x.shape, cells=9)
        density = np.maximum(density, random.uniform(0.22, 0.34) * _smooth_step(edge, 0.30) * lung)
    return np.asarray(density, dtype=np.float32)


def _interstitial(lungs: list[Field], random: np.random.Generator) -> Field:
    """A fine net and a light haze over both lungs."""
    air = np.maximum(*lungs)
    strength = random.uniform(0.10, 0.17)
    net = sum(_net(random, air.shape, cells=cells) for cells in (26, 36, 48))
    uneven = np.clip(0.9 + 0.25 * _cloud(random, air.shape, cells=4), 0.4, 1.4)
    return np.asarray(strength * air * uneven * (net + 0.35), dtype=np.float32)


def _expose(density: Field, size: tuple[int, int], random: np.random.Generator) -> Luma:
    """Enlarge the density, apply exposure, contrast and grain, add a marker, and convert to 8 bits."""
    height, width = size
    enlarged = np.asarray(Image.fromarray(density).resize((width, height), Image.Resampling.BICUBIC))
    span = random.uniform(0.85, 1.05)
    level = np.clip(enlarged / span, 0, 1) ** random.uniform(0.8, 1.25)
    level += random.uniform(0.006, 0.022) * random.standard_normal(level.shape, dtype=np.float32)
    level = random.uniform(0.0, 0.08) + random.uniform(0.82, 0.95) * level
    _draw_marker(level, random)
    return np.asarray(np.rint(np.clip(level, 0, 1) * 255), dtype=np.uint8)


def _draw_marker(level: Field, random: np.random.Generator) -> None:
    """Draw a lead letter into one of the upper corners, independently of the class."""
    height, width = level.shape
    tall = max(8, height // 24)
    left = int(width * random.uniform(0.03, 0.10))
    column = left if random.random() < 0.5 else width - left - tall
    row = int(height * random.uniform(0.03, 0.10))
    thick = max(2, tall // 5)
    level[row : row + tall, column : column + thick] = 1.0
    level[row + tall - thick : row + tall, column : column + tall * 2 // 3] = 1.0


def _cloud(random: np.random.Generator, shape: tuple[int, ...], *, cells: int) -> Field:
    """Smooth noise of zero mean and about unit deviation, with `cells` blotches per height."""
    grid = random.standard_normal((cells, max(2, cells * shape[1] // shape[0])), dtype=np.float32)
    smooth = Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


def _net(random: np.random.Generator, shape: tuple[int, ...], *, cells: int) -> Field:
    """A net of thin bright lines, 0 to 1: where smooth noise crosses zero."""
    return np.asarray(np.exp(-((_cloud(random, shape, cells=cells) / 0.22) ** 2)), dtype=np.float32)


def _smooth_step(distance: Field, width: float) -> Field:
    """A smooth step of `width` from 0, where the distance is negative (outside), to 1 (inside)."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance / width), dtype=np.float32)
