"""Pictures that are not chest films, to fit the gate to: drawn anew for every export, or libraries' sample images.

They need no patient's film, and nothing is downloaded. Each kind is drawn with much variety, so that the gate learns
what the pictures of a kind have in common and not the style of one program; `docs/concepts/experiments.md` measures
what it recognises in pictures from other sources.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pneumoscope.imaging import Luma
from pneumoscope.phantom import FINDINGS
from pneumoscope.phantom import film as draw_phantom

Kind: TypeAlias = Literal["photograph", "drawing", "screenshot", "noise", "slice"]
Random: TypeAlias = np.random.Generator

_Pair: TypeAlias = tuple[float, float] | NDArray[np.float64]

KINDS: tuple[Kind, ...] = get_args(Kind)
WHITE = 255.0
_AIR = 8  # largest grey of a slice's background
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_PHANTOMS = 0.15  # share of drawings that are phantoms
_NEGATIVES = 0.2  # share of pictures that are inverted; slices and phantoms never are


def draw(kind: Kind, random: Random, side: int, *, phantoms: bool = True) -> Luma:
    """One picture of a kind, `uint8 [side, side]`, squashed like a film; with `phantoms` some drawings are phantoms."""
    if kind == "drawing" and phantoms and random.random() < _PHANTOMS:
        finding = FINDINGS[int(random.integers(len(FINDINGS)))]
        return draw_phantom(finding, patient=int(random.integers(1 << 20)), seed=1, size=(side, side))
    picture = _DRAW[kind](random, side)
    if random.random() < _NEGATIVES and kind != "slice":
        picture = 255 - picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR))


def _photograph(random: Random, side: int) -> Luma:
    """A part of a library's sample photograph, or overlapping shapes with the statistics of photographs.

    The shapes are the dead leaves model (Lee, Mumford and Huang 2001; as training images: Baradad et al. 2021,
    arXiv:2106.05963).
    """
    return _dead_leaves(random, side) if random.random() < 0.25 else photograph_part(random)


def photograph_part(random: Random, least: float = 0.25) -> Luma:
    """A part of a library's sample photograph, `uint8 [H, W]`, turned at random.

    It has at least the share `least` of each side of the photograph, and other brightness and contrast.
    """
    photographs = library_photographs()
    whole = photographs[int(random.integers(len(photographs)))]
    share = random.uniform(least, 1.0, size=2)
    rows, columns = np.maximum(32, (np.array(whole.shape) * share).astype(int))
    top, left = int(random.integers(len(whole) - rows + 1)), int(random.integers(whole.shape[1] - columns + 1))
    part = np.rot90(whole[top : top + rows, left : left + columns], int(random.integers(4)))
    part = part[:, ::-1] if random.random() < 0.5 else part
    levels = np.clip(part / WHITE * random.uniform(0.6, 1.3) + random.uniform(-0.15, 0.15), 0, 1)
    return np.asarray(levels ** random.uniform(0.6, 1.6) * WHITE, np.uint8)


def _dead_leaves(random: Random, side: int) -> Luma:
    image = Image.new("L", (side, side), int(random.integers(256)))
    pen = ImageDraw.Draw(image)
    for size in sorted(side * random.pareto(1.5, 300).clip(0.02, 0.5), reverse=True):
        x, y = random.uniform(-0.1, 1.1, 2) * side
        grey, half = int(random.integers(256)), size / 2
        shape = pen.ellipse if random.random() < 0.6 else pen.rectangle
        shape((x - half, y - half, x + half, y + half), fill=grey)
    blurred = image.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2.5)))
    return _grain(np.asarray(blurred), random, random.uniform(0, 12))


def _drawing(random: Random, side: int) -> Luma:
    """Flat shapes and outlines on an even background, as in diagrams, or one object of nested, shaded shapes."""
    scale = 2  # drawn at twice the size and shrunk, for soft edges
    if random.random() < 0.5:
        return _shrunk(_icon(random, side * scale), side)
    image = Image.fromarray(_ground(random, side * scale))
    pen = ImageDraw.Draw(image)
    greys = random.integers(0, 256, 5)
    for _ in range(int(random.integers(1, 14))):
        _shape(pen, random, side * scale, int(random.choice(greys)))
    if random.random() < 0.3:
        size = int(side * scale * random.uniform(0.1, 0.35))
        place = tuple(random.uniform(0, 0.6, 2) * side * scale)
        pen.text(place, random_word(random), fill=int(random.choice(greys)), font=random_font(random, size))
    if random.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 4)))
    return _shrunk(image, side)


def _icon(random: Random, side: int) -> Image.Image:
    """An object in the middle of a white, black or grey background: its outline, with parts and shades inside."""
    ground = int(random.choice([0, 255, 255, int(random.integers(256))]))
    image = Image.new("L", (side, side), ground)
    middle, reach = random.uniform(0.4, 0.6, 2) * side, random.uniform(0.15, 0.48, 2) * side
    for _ in range(int(random.integers(1, 7))):
        mask = Image.new("L", (side, side))
        pen = ImageDraw.Draw(mask)
        x, y = middle + random.uniform(-0.35, 0.35, 2) * reach
        box = (x - reach[0], y - reach[1], x + reach[0], y + reach[1])
        match int(random.integers(4)):
            case 0:
                pen.ellipse(box, fill=255)
            case 1:
                pen.rounded_rectangle(box, float(min(reach)) * random.uniform(0, 1), fill=255)
            case 2:
                angles = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(3, 11))))
                radii = random.uniform(0.4, 1, len(angles))
                pen.polygon(
                    [
                        (x + reach[0] * radius * np.cos(angle), y + reach[1] * radius * np.sin(angle))
                        for angle, radius in zip(angles, radii, strict=True)
                    ],
                    fill=255,
                )
            case _:
                pen.pieslice(box, random.uniform(0, 360), random.uniform(360, 700), fill=255)
        if random.random() < 0.5:  # an outline
            edge = mask.filter(ImageFilter.MaxFilter(2 * int(random.integers(1, 6)) + 1))
            image.paste(int(random.integers(256)), mask=edge)
        image.paste(Image.fromarray(_ground(random, side)), mask=mask)
        reach = reach * random.uniform(0.4, 0.95, 2)
    return image


def _shrunk(image: Image.Image, side: int) -> Luma:
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _ground(random: Random, side: int) -> Luma:
    """An even background, or a linear or radial gradient."""
    first, second = random.integers(0, 256, 2)
    if random.random() < 0.6:
        return np.full((side, side), random.choice([0, 255, first]), np.uint8)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    angle = random.uniform(0, 2 * np.pi)
    along = np.hypot(x - 0.5, y - 0.5) * 1.4 if random.random() < 0.3 else x * np.cos(angle) + y * np.sin(angle)
    return np.asarray(np.clip(first + (second - float(first)) * along, 0, 255), np.uint8)


def _shape(pen: ImageDraw.ImageDraw, random: Random, side: int, grey: int) -> None:
    x, y = random.uniform(-0.1, 0.8, 2) * side
    wide, tall = random.uniform(0.05, 0.8, 2) * side
    box = (x, y, x + wide, y + (wide if random.random() < 0.4 else tall))
    width = int(side * random.uniform(0.004, 0.05)) + 1
    fill, outline = (grey, None) if random.random() < 0.6 else (None, grey)
    start, points = random.uniform(0, 360), random.uniform(-0.1, 1.1, (int(random.integers(3, 9)), 2)) * side
    places = [(float(across), float(down)) for across, down in points]
    match int(random.integers(7)):
        case 0:
            pen.ellipse(box, fill=fill, outline=outline, width=width)
        case 1:
            pen.rounded_rectangle(box, min(wide, box[3] - y) * random.uniform(0, 0.4), fill, outline, width)
        case 2:
            pen.polygon(places, fill=fill, outline=outline, width=width)
        case 3:
            pen.line(places, fill=grey, width=width, joint="curve")
        case 4:
            pen.arc(box, start, start + random.uniform(30, 330), fill=grey, width=width)
        case 5:
            pen.pieslice(box, start, start + random.uniform(30, 330), fill=fill, outline=outline, width=width)
        case _:
            step, marks = side * random.uniform(0.03, 0.12), int(random.integers(3, 15))
            pen.line([(x + step * at, y + float(random.normal(0, 0.08)) * side) for at in range(marks)], grey, width)


def _screenshot(random: Random, side: int) -> Luma:
    """Lines of text, boxes and bars, as in pages, programs and terminals."""
    dark = random.random() < 0.3
    paper, ink = int(random.integers(0, 60)), int(random.integers(170, 256))
    paper, ink = (paper, ink) if dark else (255 - paper, 255 - ink)
    wide, tall = int(side * random.uniform(1, 5)), int(side * random.uniform(1, 4))
    image = Image.new("L", (wide, tall), paper)
    pen = ImageDraw.Draw(image)
    for _ in range(int(random.integers(0, 6))):  # windows, bars, buttons
        x, y = random.uniform(0, 0.8) * wide, random.uniform(0, 0.9) * tall
        box = (x, y, x + random.uniform(0.05, 1) * wide, y + random.uniform(0.02, 0.4) * tall)
        grey = int(np.clip(paper + random.normal(0, 40), 0, 255))
        pen.rectangle(box, fill=grey, outline=int(random.integers(256)) if random.random() < 0.5 else None)
    if random.random() < 0.25:
        paste_photograph(image, random)
    _text(pen, random, (wide, tall), ink)
    return np.asarray(image)


def paste_photograph(image: Image.Image, random: Random) -> None:
    """Paste a photograph into a page, a picture of mode `L`."""
    width, height = (int(length * random.uniform(0.15, 0.5)) for length in image.size)
    picture = Image.fromarray(_photograph(random, 128)).resize((width, height))
    left, top = (int(random.uniform(0, 0.6) * length) for length in image.size)
    image.paste(picture, (left, top))


def _text(pen: ImageDraw.ImageDraw, random: Random, size: tuple[int, int], ink: int) -> None:
    wide, tall = size
    y, left = random.uniform(0, 0.1) * tall, random.uniform(0, 0.25) * wide
    letter = random.uniform(8, 26)
    font, spacing = random_font(random, int(letter)), letter * random.uniform(1.1, 1.9)
    gaps, short = random.uniform(0, 0.3), random.uniform(0.3, 1)
    right = wide * random.uniform(0.6, 1)
    while y < tall:
        y += spacing
        if random.random() < gaps:
            continue
        count = int((right - left) / (letter * 0.55) * random.uniform(short, 1))
        line, indent = "", int(random.integers(4)) * letter if short < 0.6 else 0
        while len(line) < count:
            line += random_word(random) + " "
        pen.text((left + indent, y), line[: max(1, count)], fill=ink, font=font)


def random_word(random: Random) -> str:
    """One to ten letters, or a number."""
    letters = "".join(random.choice(list(_LETTERS), int(random.integers(1, 11))))
    return (
        letters.capitalize()
        if random.random() < 0.2
        else letters
        if random.random() < 0.9
        else str(int(random.integers(10_000)))
    )


def random_font(random: Random, size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font, or one that comes with matplotlib."""
    files = _fonts()
    at = int(random.integers(len(files) + 1))
    return ImageFont.load_default(size) if at == len(files) else ImageFont.truetype(str(files[at]), size)


@cache
def _fonts() -> list[Path]:
    import matplotlib as mpl

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return sorted(
        path for path in folder.glob("*.ttf") if path.name.startswith(("DejaVu", "STIXGeneral", "cmr", "cmtt"))
    )


def _noise(random: Random, side: int) -> Luma:
    """Noise of any grain: normal, uniform, sparse, in lines, or with a falling spectrum."""
    mean, strength = random.uniform(60, 200), random.uniform(10, 90)
    match int(random.integers(5)):
        case 0:
            field = random.standard_normal((side, side))
        case 1:
            field = random.uniform(-1.7, 1.7, (side, side))
        case 2:
            field = (random.random((side, side)) < random.uniform(0.02, 0.5)) * random.choice([-3.0, 3.0])
        case 3:
            field = np.broadcast_to(random.standard_normal((side, 1)), (side, side))
            field = field.T if random.random() < 0.5 else field
        case _:
            field = _coloured(random, side)
    if random.random() < 0.3:
        part = int(side / random.uniform(1.5, 8))  # enlarged, for a coarser grain
        field = np.asarray(Image.fromarray(field[:part, :part].astype(np.float32)).resize((side, side)))
    return np.asarray(np.clip(mean + strength * field, 0, 255), np.uint8)


def _coloured(random: Random, side: int) -> NDArray[np.float64]:
    """Noise of unit deviation whose amplitude falls with a power of the frequency, 0 to 2."""
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = frequency ** -random.uniform(0, 2)
    phases = random.standard_normal(spectrum.shape) + 1j * random.standard_normal(spectrum.shape)
    field = np.fft.irfft2(spectrum * phases, s=(side, side))
    return np.asarray(field / field.std())


def _slice(random: Random, side: int) -> Luma:
    """A drawn slice through a body or a head on black: skin, bone, organs or lungs, as in CT and MR."""
    body = _Body(random, side * 2)  # drawn at twice the size and shrunk, for soft edges
    body.wall()
    if random.random() < 0.5:
        body.chest()
    body.organs()
    turned = body.image.rotate(random.uniform(-15, 15)).filter(ImageFilter.GaussianBlur(random.uniform(0.5, 4)))
    small = _shrunk(turned, side)
    texture = _coloured(random, side) * (small > _AIR) * random.uniform(2, 16)
    return _grain(np.asarray(np.clip(small + texture, 0, 255), np.uint8), random, random.uniform(0, 8))


class _Body:
    """An oval cross-section; lengths are relative to its half axes."""

    def __init__(self, random: Random, side: int) -> None:
        self.random, self.image = random, Image.new("L", (side, side))
        self.axes = random.uniform((0.55, 0.45), (0.98, 0.95)) * side / 2
        self.middle = random.uniform(0.46, 0.54, 2) * side
        self.skin, self.fat, self.flesh, self.bone = random.uniform((60, 20, 80, 160), (200, 110, 170, 255))
        self._pen = ImageDraw.Draw(self.image)

    def wall(self) -> None:
        """Draw skin, fat, and muscle or the skull."""
        rim = self.random.uniform(0.8, 0.94)
        ring = self.bone if self.random.random() < 0.4 else self.flesh
        for reach, grey in ((1.0, self.skin), (0.97, self.fat), (rim, ring), (rim - 0.08, self.flesh)):
            self._oval((0, 0), (reach, reach), grey)

    def chest(self) -> None:
        """Draw two lungs, a heart and ribs."""
        air = self.random.uniform(0, 40)
        for sign in (-1, 1):
            x, y = self.random.uniform((0.38, -0.15), (0.5, 0.1))
            self._oval((sign * x, y), self.random.uniform((0.2, 0.35), (0.38, 0.6)), air)
        place, size = self.random.uniform((-0.05, -0.4), (0.2, 0)), self.random.uniform(0.15, 0.35, 2)
        self._oval(place, size, self.flesh + self.random.uniform(0, 60))
        for angle in np.linspace(0, 2 * np.pi, int(self.random.integers(8, 18)), endpoint=False):
            rib = (0.84 * np.cos(angle), 0.84 * np.sin(angle))
            self._oval(rib, (self.random.uniform(0.03, 0.09), 0.03), self.bone)

    def organs(self) -> None:
        """Draw organs, vessels or gyri; a vertebra; often the table below."""
        for _ in range(int(self.random.integers(3, 18))):
            grey = self.flesh + self.random.normal(0, 35)
            self._oval(self.random.uniform(-0.6, 0.6, 2), self.random.uniform(0.02, 0.3, 2), grey)
        self._oval((0, self.random.uniform(0.5, 0.7)), self.random.uniform((0.1, 0.08), (0.18, 0.16)), self.bone)
        if self.random.random() < 0.4:
            side = self.image.width
            box = (0.1 * side, 0.5 * side, 0.9 * side, self.random.uniform(0.96, 1.2) * side)
            self._pen.arc(box, 20, 160, fill=int(self.bone * 0.7), width=4)

    def _oval(self, place: _Pair, size: _Pair, grey: float) -> None:
        at, reach = self.middle + np.array(place) * self.axes, np.array(size) * self.axes
        self._pen.ellipse((*(at - reach), *(at + reach)), fill=int(np.clip(grey, 0, 255)))


def _grain(luma: Luma, random: Random, strength: float) -> Luma:
    return np.asarray(np.clip(luma + strength * random.standard_normal(luma.shape), 0, 255), np.uint8)


@cache
def library_photographs() -> Sequence[Luma]:
    """The sample photographs of installed libraries, scikit-learn, scikit-image and matplotlib, in grey."""
    folders = {
        "sklearn.datasets": ("images/china.jpg", "images/flower.jpg"),
        "skimage": tuple(f"data/{name}" for name in _SKIMAGE),
        "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    }
    found = []
    for package, names in folders.items():
        for name in names:
            with resources.as_file(resources.files(package) / name) as path, Image.open(path) as image:
                grey = image.convert("L")
                grey.thumbnail((768, 768))
                found.append(np.asarray(grey))
    return found


_SKIMAGE = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png"),
    *("gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)
_DRAW: dict[Kind, Callable[[Random, int], Luma]] = {
    "photograph": _photograph,
    "drawing": _drawing,
    "screenshot": _screenshot,
    "noise": _noise,
    "slice": _slice,
}
