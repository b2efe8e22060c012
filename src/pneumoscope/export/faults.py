"""Faults and variations of films that the gate is trained on.

All functions take model inputs, `uint8 [S, S]`. A film is squashed to a square, so turning the input equals turning
the film.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from pneumoscope.contract import MIRRORED
from pneumoscope.engine.gate import undo
from pneumoscope.export.pictures import WHITE, Random
from pneumoscope.imaging import Luma

_LEAST = 0.75  # share of each side that is kept
_BORDERED = 0.25  # share of films that get black borders


def augment(film: Luma, random: Random) -> Luma:
    """A film as another machine, exposure or framing would show it, still without a fault."""
    side = len(film)
    turned = Image.fromarray(film).rotate(random.uniform(-8, 8), Image.Resampling.BILINEAR, fillcolor=int(film[0, 0]))
    wide, tall = (random.uniform(_LEAST, 1, 2) * side).astype(int)
    left, top = int(random.integers(side - wide + 1)), int(random.integers(side - tall + 1))
    image = turned.crop((left, top, left + wide, top + tall)).resize((side, side), Image.Resampling.BILINEAR)
    if random.random() < _BORDERED:
        image = _with_borders(image, random)
    levels = (np.asarray(image) / WHITE) ** np.exp(random.uniform(-0.4, 0.4))
    levels = (levels - 0.5) * random.uniform(0.7, 1.3) + 0.5 + random.uniform(-0.08, 0.08)
    levels += random.normal(0, random.uniform(0, 0.03), levels.shape)
    return np.asarray(np.clip(levels, 0, 1) * WHITE, np.uint8)


def _with_borders(image: Image.Image, random: Random) -> Image.Image:
    """Black strips on two sides, as on a film that was padded to a square or collimated."""
    side = image.width
    strip = int(side * random.uniform(0.02, 0.16))
    inner = (side - 2 * strip, side) if random.random() < 0.5 else (side, side - 2 * strip)
    bordered = Image.new("L", image.size)
    bordered.paste(image.resize(inner), ((side - inner[0]) // 2, (side - inner[1]) // 2))
    return bordered


def mirror(film: Luma) -> Luma:
    """The film with left and right exchanged."""
    return film[:, ::-1]


def _inverted(film: Luma, random: Random) -> Luma:
    """A negative; 30 % of them are also turned by a random multiple of 90°, 0° included."""
    return 255 - (np.rot90(film, int(random.integers(4))) if random.random() < 0.3 else film)


#: Functions that give a film a fault, by its code. `undo` of a turn by 270° is a turn by 90°, and so on.
FAULT_MAKERS: dict[str, Callable[[Luma, Random], Luma]] = {
    MIRRORED: lambda film, _: mirror(film),
    "inverted": _inverted,
    "rotated-90": lambda film, _: undo("rotated-270", film),
    "rotated-180": lambda film, _: undo("rotated-180", film),
    "rotated-270": lambda film, _: undo("rotated-90", film),
}
