"""Pictures of where the model looked: a film, a class's activation map over it, a legend, and the decision.

The colours are Matplotlib's inferno, whose lightness rises evenly with the value. Opacity rises with the value, too,
so that the film stays visible where the map is low. Negative values of a map are evidence against the class and are
not drawn.
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
_LEAST_WIDTH = 580  # pixels, so that the text has room
_OPACITY = 0.65  # where the map is largest: the film stays visible below
_LINE, _PAD = 20, 8  # height of a line of text and space around it, in pixels
_FONT_SIZE = 14
_SCALE_BAR = 120


@dataclass(frozen=True, kw_only=True, eq=False)
class HeatmapContent:
    """What a picture shows: a film `uint8 [H, W]`, a map `float32 [h, w]` over all of it, and lines of text."""

    luma: Luma
    activation: NDArray[np.float32]
    label: str
    lines: tuple[str, ...]


def content_of_prediction(prediction: Prediction) -> HeatmapContent | None:
    """The content for a prediction; None if it is rejected or lacks the film's pixels, or the model gives no maps."""
    if prediction.luma is None or prediction.maps is None or prediction.attention is None:
        return None
    label = prediction.attention.label
    return HeatmapContent(
        luma=prediction.luma,
        activation=prediction.maps[prediction.classes.index(label)],
        label=label,
        lines=(
            f"{prediction.status}: {prediction.label or 'undetermined'}   {_shares(prediction.probabilities)}",
            *prediction.reasons,
        ),
    )


def content_of_explanation(
    label: str, activation: NDArray[np.float32], probabilities: dict[str, float], luma: Luma
) -> HeatmapContent:
    """The content for a Grad-CAM."""
    return HeatmapContent(
        luma=luma, activation=activation, label=label, lines=(f"Grad-CAM   {_shares(probabilities)}",)
    )


def draw(content: HeatmapContent) -> bytes:
    """Draw the picture, as the bytes of an RGB PNG.

    The film keeps its aspect ratio, its longer side at most `LONGEST_SIDE` pixels; legend and text are below it.
    """
    film = fit(content.luma, LONGEST_SIDE)
    picture = Image.fromarray(overlay(film, content.activation))
    width, font = max(picture.width, _LEAST_WIDTH), ImageFont.load_default(_FONT_SIZE)
    lines = [part for line in (*content.lines, DISCLAIMER) for part in _wrap(line, font, width - 2 * _PAD)]
    canvas = Image.new("RGB", (width, picture.height + _LINE * (len(lines) + 1) + 2 * _PAD))
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    _legend(canvas, picture.height + _PAD, content.label)
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines, start=1):
        pen.text((_PAD, picture.height + _PAD + number * _LINE), line, "white", font=font)
    stream = BytesIO()
    canvas.save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def strength(activation: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map's positive part, divided by its largest value: 0 to 1, or all 0 if no value is positive."""
    positive = np.clip(activation, 0, None).astype(np.float32)
    largest = float(positive.max())
    return positive / np.float32(largest) if largest > 0 else positive


def _shares(probabilities: dict[str, float]) -> str:
    return "  ".join(f"{label} {value:.3f}" for label, value in probabilities.items())


def overlay(film: Luma, activation: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A film `uint8 [H, W]` in grey under the colours of a map `float32 [h, w]`, as RGB `uint8 [H, W, 3]`."""
    values = np.clip(enlarge(strength(activation), *film.shape), 0, 1)
    colours = palette()[np.rint(values * 255).astype(np.uint8)].astype(np.float32)
    opacity = (_OPACITY * values)[..., np.newaxis]
    return np.asarray(np.rint(film[..., np.newaxis] * (1 - opacity) + colours * opacity), np.uint8)


@cache
def palette() -> NDArray[np.uint8]:
    """The colours of a map, from 0 to its largest value, as RGB `uint8 [256, 3]`."""
    from cmap import Colormap  # only pictures need it

    return np.asarray(np.rint(np.asarray(Colormap("inferno").lut(256))[:, :3] * 255), np.uint8)


def _legend(canvas: Image.Image, top: int, label: str) -> None:
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE)
    pen.text((_PAD, top), "0", "white", font=font)
    left = _PAD + 14
    colours = palette()[np.arange(_SCALE_BAR) * 255 // (_SCALE_BAR - 1)]
    canvas.paste(Image.fromarray(np.repeat(colours[np.newaxis], 12, axis=0)), (left, top + 3))
    pen.text((left + _SCALE_BAR + 6, top), f"most   what speaks for {label}", "white", font=font)


def _wrap(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a line between words into parts of at most `width` pixels."""
    parts = [""]
    for word in line.split(" "):
        longer = f"{parts[-1]} {word}" if parts[-1] else word
        if parts[-1] and font.getlength(longer) > width:
            parts.append(word)
        else:
            parts[-1] = longer
    return parts
