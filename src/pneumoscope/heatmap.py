"""A picture of where the model looked: the film, the class's activation map over it, a legend, the words.

The colour is Matplotlib's inferno, whose lightness rises evenly with the value; so does the opacity, so
that the film stays in sight where the map is low. Negative values of a map speak against the class and
are not drawn.
"""

from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Prediction
from pneumoscope.imaging import Luma, enlarge, fit

LONGEST_SIDE = 768
_SHORTEST_WIDTH = 580  # so that the words have room
_OPACITY = 0.65
_LINE, _PAD = 20, 8
_FONT_SIZE = 14
_SCALE_BAR = 120


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """What is drawn: a film `uint8 [H, W]`, a map `float32 [h, w]` over all of it, and lines of words."""

    luma: Luma
    activation: NDArray[np.float32]
    label: str
    lines: tuple[str, ...]


def of_prediction(prediction: Prediction) -> Explained | None:
    """What to draw of a prediction with its film; None if that was not kept or rejected, or the model gives no maps."""
    if prediction.luma is None or prediction.maps is None or prediction.attention is None:
        return None
    label = prediction.attention.label
    return Explained(
        luma=prediction.luma,
        activation=prediction.maps[prediction.classes.index(label)],
        label=label,
        lines=(
            f"{prediction.status}: {prediction.label or 'undetermined'}   {_shares(prediction.probabilities)}",
            *prediction.reasons,
        ),
    )


def of_explanation(
    label: str, activation: NDArray[np.float32], probabilities: dict[str, float], luma: Luma
) -> Explained:
    """What to draw of a Grad-CAM."""
    return Explained(luma=luma, activation=activation, label=label, lines=(f"Grad-CAM   {_shares(probabilities)}",))


def draw(explained: Explained) -> bytes:
    """The overlay as the bytes of an RGB PNG.

    The film keeps its aspect and is at most `LONGEST_SIDE` pixels long; legend and words are below it.
    """
    film = fit(explained.luma, LONGEST_SIDE)
    picture = Image.fromarray(overlay(film, explained.activation))
    width, font = max(picture.width, _SHORTEST_WIDTH), ImageFont.load_default(_FONT_SIZE)
    lines = [part for line in (*explained.lines, DISCLAIMER) for part in _wrap(line, font, width - 2 * _PAD)]
    canvas = Image.new("RGB", (width, picture.height + _LINE * (len(lines) + 1) + 2 * _PAD))
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    _legend(canvas, picture.height + _PAD, explained.label)
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines, start=1):
        pen.text((_PAD, picture.height + _PAD + number * _LINE), line, "white", font=font)
    stream = BytesIO()
    canvas.save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def strength(activation: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map's positive part as shares of its largest value, 0 to 1; all 0 if it has none."""
    positive = np.clip(activation, 0, None).astype(np.float32)
    most = float(positive.max())
    return positive / np.float32(most) if most > 0 else positive


def _shares(probabilities: dict[str, float]) -> str:
    return "  ".join(f"{label} {value:.3f}" for label, value in probabilities.items())


def overlay(film: Luma, activation: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A film `uint8 [H, W]` in grey with the colours of a map `float32 [h, w]` over it, `uint8 [H, W, 3]`."""
    values = np.clip(enlarge(strength(activation), *film.shape), 0, 1)
    colours = palette()[np.rint(values * 255).astype(np.uint8)].astype(np.float32)
    opacity = (_OPACITY * values)[..., np.newaxis]
    return np.asarray(np.rint(film[..., np.newaxis] * (1 - opacity) + colours * opacity), np.uint8)


@cache
def palette() -> NDArray[np.uint8]:
    """The colours of a map from nothing to most, `uint8 [256, 3]`, red, green, blue."""
    from cmap import Colormap

    return np.asarray(np.rint(np.asarray(Colormap("inferno").lut(256))[:, :3] * 255), np.uint8)


def _legend(canvas: Image.Image, top: int, label: str) -> None:
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE)
    pen.text((_PAD, top), "0", "white", font=font)
    left = _PAD + 14
    colours = palette()[np.arange(_SCALE_BAR) * 255 // (_SCALE_BAR - 1)]
    canvas.paste(Image.fromarray(np.repeat(colours[np.newaxis], 12, axis=0)), (left, top + 3))
    pen.text((left + _SCALE_BAR + 6, top), f"most   what speaks for {label}", "white", font=font)


def _wrap(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The line in parts that fit into so many pixels, broken between words."""
    parts = [""]
    for word in line.split(" "):
        longer = f"{parts[-1]} {word}" if parts[-1] else word
        if parts[-1] and font.getlength(longer) > width:
            parts.append(word)
        else:
            parts[-1] = longer
    return parts
