"""Fitting the classifier that names the kind of a rejected picture (photograph, drawing, screenshot) by its textures.

The classifier learns from the pictures that the gate learns from, and from pictures that the gate's scores often
confuse: photographs cut out from their background, icons with shades, logos with names, and dialogs with few words.
"""

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pneumoscope.contract import Textures
from pneumoscope.engine.texture import textures
from pneumoscope.export.pictures import (
    WHITE,
    Kind,
    Random,
    draw,
    paste_photograph,
    photograph_part,
    random_font,
    random_word,
)
from pneumoscope.imaging import Luma
from pneumoscope.imaging.film import resize
from pneumoscope.metrics import Floats
from pneumoscope.parallel import map_ordered
from pneumoscope.phantom import encode_jpeg
from pneumoscope.progress import SILENT, Listener

_SCORE_WEIGHT = 0.25  # of the gate's own score, besides the textures
_PENALTY = 0.1  # scikit-learn's C, the inverse of the penalty's strength
_FEWEST = 40  # pictures of each source
_CONTRAST = 40  # least difference of a logo's greys from its background
_Box = tuple[float, float, float, float]


def fit_textures(side: int, *, films: int, seed: int = 0, listener: Listener = SILENT) -> Textures:
    """Fit the weights of textures to pictures of a model input's size. This needs neither films nor a network.

    Args:
        side: side of the model input, in pixels.
        films: number of films that the gate learns from; the more of them, the more pictures.
        seed: seed of the drawn pictures.
        listener: is notified of the progress.
    """
    rows = listener.track("fitting the kinds of pictures", _SOURCES, len(_SOURCES), "sources")
    counts = [max(_FEWEST, round(share * films)) for _, share, _ in _SOURCES]
    found = [_textures_of(number, counts[number], side, seed) for number, _ in enumerate(rows)]
    kinds = np.repeat([kind for kind, _, _ in _SOURCES], counts)
    scaler = StandardScaler().fit(np.concatenate(found))
    model = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=3000)
    model.fit(scaler.transform(np.concatenate(found)), kinds)
    weights = model.coef_ / scaler.scale_  # standardisation becomes part of the weights
    biases = model.intercept_ - weights @ scaler.mean_
    return Textures(
        score_weight=_SCORE_WEIGHT,
        weights={str(kind): tuple(row.round(6).tolist()) for kind, row in zip(model.classes_, weights, strict=True)},
        bias={str(kind): round(float(bias), 6) for kind, bias in zip(model.classes_, biases, strict=True)},
    )


@cache
def _textures_of(number: int, count: int, side: int, seed: int) -> Floats:
    """Textures `[count, T]` of pictures of one source."""
    make = _SOURCES[number][2]

    def one(random: Random) -> Floats:
        return textures(resize(make(random, side), side, side))

    return np.stack(list(map_ordered(one, [np.random.default_rng([seed, number, row]) for row in range(count)])))


def _drawn(kind: Kind) -> Callable[[Random, int], Luma]:
    return lambda random, side: draw(kind, random, side, phantoms=False)


def _part(random: Random, _: int) -> Luma:
    """A part of a photograph, sometimes blurred or stored as JPEG."""
    image = Image.fromarray(_stored(photograph_part(random), random, 0.5))
    blur = random.uniform(0.3, 2) if random.random() < 0.2 else 0
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur)))


def _cut_out(random: Random, _: int) -> Luma:
    """An object cut out of a photograph, on an even background."""
    photograph = Image.fromarray(photograph_part(random, least=0.45))
    size = [max(48, int(length * random.uniform(0.4, 1))) for length in photograph.size]
    photograph = photograph.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    mask = Image.new("L", photograph.size)
    for _ in range(int(random.integers(1, 5))):
        middle, reach = random.normal(0.5, 0.13, 2) * size, random.uniform(0.1, 0.45, 2) * size
        mask.paste(255, mask=_shape(random, mask.size, (*(middle - reach), *(middle + reach))))
    ground = Image.new("L", photograph.size, int(random.choice([0, 0, 255, 255, int(random.integers(256))])))
    ground.paste(photograph, mask=mask.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1))))
    return _stored(np.asarray(ground), random, 0.4)


def _icon(random: Random, side: int) -> Luma:
    """An object of shaded, overlapping parts with shadows and gloss, on an even background."""
    size = 2 * side  # drawn at twice the size and shrunk, for soft edges
    image = Image.new("L", (size, size), int(random.choice([0, 0, 0, 255, 255, int(random.integers(256))])))
    middle, reach = random.uniform(0.4, 0.6, 2) * size, random.uniform(0.3, 0.5, 2) * size
    for number in range(int(random.integers(2, 14))):
        place = middle + random.uniform(-0.5, 0.5, 2) * reach * (number > 0)
        half = reach * (random.uniform(0.08, 0.8, 2) if number else 1)
        _icon_part(image, random, (*(place - half), *(place + half)))
    pen = ImageDraw.Draw(image)
    left, y = middle - 0.6 * reach
    for _ in range(int(random.integers(2, 9)) if random.random() < 0.35 else 0):  # lines, as on the icon of a document
        y += reach[1] * random.uniform(0.08, 0.2)
        right = left + reach[0] * random.uniform(0.2, 1.2)
        pen.line((left, y, right, y), fill=int(random.integers(256)), width=int(random.integers(1, 6)))
    if random.random() < 0.2:
        font = random_font(random, int(size * random.uniform(0.07, 0.25)))
        pen.text((left, middle[1]), random_word(random), fill=int(random.integers(256)), font=font)
    luma = np.asarray(image) if random.random() < 0.9 else 255 - np.asarray(image)
    small = int(size * random.choice([0.25, 0.3, 0.5, 0.5, 1]))
    return _stored(resize(luma, small, small), random, 0.3)


def _icon_part(image: Image.Image, random: Random, box: _Box) -> None:
    mask = _shape(random, image.size, box)
    if random.random() < 0.4:
        mask = mask.rotate(random.uniform(-30, 30))
    if random.random() < 0.3:  # a shadow or a glow
        soft = mask.filter(ImageFilter.GaussianBlur(image.width * random.uniform(0.01, 0.04)))
        image.paste(int(random.choice([0, 255])), mask=_faded(soft, random))
    if random.random() < 0.4:  # an outline
        wider = mask.filter(ImageFilter.MaxFilter(2 * int(random.integers(1, 5)) + 1))
        image.paste(int(random.integers(256)), mask=wider)
    fill = _shades(random, image.width) if random.random() < 0.7 else Image.new("L", image.size, _level(random))
    image.paste(fill, mask=_faded(mask, random) if random.random() < 0.2 else mask)
    if random.random() < 0.25:
        gloss = _shape(random, image.size, (box[0], box[1] - 0.1 * (box[3] - box[1]), box[2], (box[1] + box[3]) / 2))
        image.paste(255, mask=Image.fromarray(np.minimum(np.asarray(_faded(gloss, random)), np.asarray(mask))))


def _shape(random: Random, size: tuple[int, int], box: _Box) -> Image.Image:
    """A mask with an ellipse, a rectangle or a polygon in a box."""
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    middle, reach = np.array([box[0] + box[2], box[1] + box[3]]) / 2, np.array([box[2] - box[0], box[3] - box[1]]) / 2
    match int(random.integers(4)):
        case 0:
            pen.ellipse(box, fill=255)
        case 1:
            pen.rounded_rectangle(box, float(min(reach)) * random.uniform(0, 0.8), fill=255)
        case _:
            angles = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(3, 14))))
            far = random.uniform(0.45, 1.05, len(angles))
            points = middle + (far * np.array([np.cos(angles), np.sin(angles)])).T * reach
            pen.polygon([(float(x), float(y)) for x, y in points], fill=255)
    return mask


def _shades(random: Random, side: int) -> Image.Image:
    """A linear or radial gradient, sometimes in waves."""
    first, second = random.integers(0, 256, 2).astype(float)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    angle, (left, top) = random.uniform(0, 2 * np.pi), random.uniform(0.2, 0.8, 2)
    along = np.hypot(x - left, y - top) * 1.4 if random.random() < 0.4 else x * np.cos(angle) + y * np.sin(angle)
    if random.random() < 0.3:
        along = np.abs(np.sin(along * random.uniform(1, 6)))
    return Image.fromarray(np.clip(first + (second - first) * along, 0, WHITE).astype(np.uint8))


def _level(random: Random) -> int:
    return int(random.choice([0, 255, int(random.integers(256))]))


def _faded(mask: Image.Image, random: Random) -> Image.Image:
    return Image.fromarray((np.asarray(mask) * random.uniform(0.2, 0.8)).astype(np.uint8))


def _logo(random: Random, side: int) -> Luma:
    """A symbol, a name or both, in one to three flat greys on an even background, with a margin."""
    size = 3 * side  # height of the canvas; the logo is cut out of it and shrunk, for soft edges
    ground = int(random.choice([255, 255, 255, 0, int(random.integers(256))]))
    greys = [grey for grey in (_level(random) for _ in range(6)) if abs(grey - ground) > _CONTRAST][:3]
    greys = greys or [0 if ground > WHITE / 2 else 255]
    image = Image.new("L", (2 * size, size), ground)
    tall, parts, left = size * random.uniform(0.08, 0.35), random.choice(["symbol", "name", "both"]), size / 8
    half = tall * random.uniform(0.45, 0.8) if parts == "both" else size * random.uniform(0.2, 0.25)
    if parts != "name":
        _symbol(image, random, (left + half, size / 2), half, [*greys, ground])
        left += 2 * half + tall * random.uniform(0.1, 0.5)
    if parts != "symbol":
        top = size / 2 - tall * 0.6
        if parts == "both" and random.random() < 0.3:  # the name is below the symbol
            left, top = size / 8, size / 2 + 1.1 * half
        _name(image, random, (left, top), tall, greys)
    return _stored(_trimmed(image, random, side, ground), random, 0.4)


def _symbol(image: Image.Image, random: Random, middle: tuple[float, float], half: float, greys: list[int]) -> None:
    """Draw bars, lines or overlapping shapes; the last of the greys is the background's."""
    pen = ImageDraw.Draw(image)
    style, width = random.choice(["bars", "lines", "shapes"]), max(2, int(half * random.uniform(0.02, 0.12)))
    for number in range(int(random.integers(1, 7)) + 2 * (style == "lines")):
        grey = greys[-1] if number and random.random() < 0.15 else int(random.choice(greys[:-1]))
        reach = half * (random.uniform(0.15, 1, 2) if number else np.ones(2))
        place = middle + random.uniform(-1, 1, 2) * (half - reach)
        box = (*(place - reach), *(place + reach))
        match style:
            case "bars":
                pen.rounded_rectangle(box, float(min(reach)) * random.choice([0, 0, 0.3]), fill=grey)
            case "lines" if random.random() < 0.3:
                pen.ellipse(box, outline=grey, width=width)
            case "lines":
                points = middle + random.uniform(-half, half, (int(random.integers(2, 7)), 2))
                pen.line([(float(x), float(y)) for x, y in points], fill=grey, width=width, joint="curve")
            case _:
                image.paste(grey, mask=_shape(random, image.size, box))


def _name(image: Image.Image, random: Random, place: tuple[float, float], tall: float, greys: list[int]) -> None:
    """Write a word in large letters, and sometimes a few smaller words below it."""
    pen = ImageDraw.Draw(image)
    word = random_word(random) + random_word(random)[: int(random.integers(1, 4))]
    word = word.upper() if random.random() < 0.3 else word
    font = random_font(random, int(tall))
    pen.text(place, word, fill=int(random.choice(greys)), font=font)
    if random.random() < 0.3:
        below = (place[0], pen.textbbox(place, word, font=font)[3])
        words = " ".join(random_word(random) for _ in range(int(random.integers(1, 4))))
        font = random_font(random, int(tall * random.uniform(0.25, 0.6)))
        pen.text(below, words, fill=int(random.choice(greys)), font=font)


def _trimmed(image: Image.Image, random: Random, side: int, ground: int) -> Luma:
    """The part of the picture that is not background, with a margin of it, in half of the cases made square."""
    cut = image.crop(ImageChops.difference(image, Image.new("L", image.size, ground)).getbbox())
    if random.random() < 0.5:
        cut = ImageOps.pad(cut, (max(cut.size), max(cut.size)), color=ground)
    cut = ImageOps.expand(cut, int(max(cut.size) * random.uniform(0.01, 0.25)), fill=ground)
    scale = side * random.uniform(0.8, 2) / max(cut.size)
    height, width = (max(8, int(length * scale)) for length in (cut.height, cut.width))
    return resize(np.asarray(cut if random.random() < 0.9 else ImageOps.invert(cut)), height, width)


def _dialog(random: Random, _: int) -> Luma:
    """A window of a program with few words: a title, labels, fields, boxes, lines and buttons, light or dark."""
    window = _Window(random)
    if random.random() < 0.6:
        window.title()
    density = random.uniform(0.1, 0.95)
    while window.y < window.image.height - 1.5 * window.letter:
        if random.random() < density:
            window.row()
        window.y += window.letter * random.uniform(1.3, 2.4)
    if random.random() < 0.25:
        paste_photograph(window.image, random)
    if random.random() < 0.3:
        window.buttons()
    return _stored(np.asarray(window.image), random, 0.2)


class _Window:
    """A window that is drawn from its top, row by row."""

    def __init__(self, random: Random) -> None:
        self.random = random
        paper, ink = random.uniform((0, 150), (70, 256))
        self.paper, self.ink = (paper, ink) if random.random() < 0.35 else (WHITE - paper, WHITE - ink)
        self.image = Image.new("L", (int(random.integers(250, 1100)), int(random.integers(250, 900))), int(self.paper))
        self.letter, self.y = int(random.integers(10, 18)), random.uniform(10, 60)
        self._pen, self._font = ImageDraw.Draw(self.image), random_font(random, self.letter)

    def title(self) -> None:
        """Draw a bar along the top, with words."""
        tall = self.random.uniform(18, 40)
        self._pen.rectangle((0, 0, self.image.width, tall), fill=self._shade(50))
        self._text(0.3 * self.image.width, 0.2 * tall, 3)

    def row(self) -> None:
        """Draw a label and, often, a field, a box or a line; sometimes a bar that covers the label."""
        wide, y, letter = self.image.width, self.y, self.letter
        self._text(float(self.random.choice([8, 20, wide * 0.1, wide * 0.4])), y, int(self.random.integers(1, 6)))
        match int(self.random.integers(10)):
            case 0 | 1 | 2:
                left = wide * self.random.uniform(0.35, 0.7)
                right = min(wide - 10, left + wide * self.random.uniform(0.1, 0.5))
                box = (left, y, right, y + 1.3 * letter)
                self._pen.rectangle(box, fill=self._shade(25), outline=self._shade(60))
                self._text(left + 4, y, 1)
            case 3:
                self._pen.rectangle((6, y + 2, 6 + 0.8 * letter, y + 2 + 0.8 * letter), outline=int(self.ink))
            case 4:
                self._pen.rectangle((0, y - 2, wide, y + 1.4 * letter), fill=self._shade(90))
            case 5:
                self._pen.line((0, y, wide, y), fill=self._shade(60))

    def buttons(self) -> None:
        """Draw one to three buttons at the bottom."""
        wide, bottom = self.image.width, self.image.height - 8
        for number in range(1, int(self.random.integers(2, 5))):
            left = wide * (1 - 0.22 * number)
            box = (left, bottom - 26, left + 0.18 * wide, bottom)
            self._pen.rounded_rectangle(box, 4, fill=self._shade(30), outline=self._shade(70))
            self._text(left + 8, bottom - 22, 1)

    def _text(self, x: float, y: float, count: int) -> None:
        words = " ".join(random_word(self.random) for _ in range(count))
        self._pen.text((x, y), words, fill=int(self.ink), font=self._font)

    def _shade(self, spread: float) -> int:
        return int(np.clip(self.paper + self.random.normal(0, spread), 0, WHITE))


def _stored(luma: Luma, random: Random, share: float) -> Luma:
    """The picture; a `share` of the pictures, chosen at random, are first encoded as JPEG and decoded again."""
    if random.random() >= share:
        return luma
    with Image.open(io.BytesIO(encode_jpeg(luma, quality=int(random.integers(50, 96))))) as image:
        return np.asarray(image)


#: Kind, number of pictures per film, and the function that draws one for a model input of a given side.
_SOURCES: tuple[tuple[Kind, float, Callable[[Random, int], Luma]], ...] = (
    ("photograph", 2 / 3, _drawn("photograph")),
    ("photograph", 2 / 3, _part),
    ("photograph", 1 / 6, _cut_out),
    ("drawing", 2 / 3, _drawn("drawing")),
    ("drawing", 1 / 3, _icon),
    ("drawing", 2 / 3, _logo),
    ("screenshot", 2 / 3, _drawn("screenshot")),
    ("screenshot", 1 / 2, _dialog),
)
