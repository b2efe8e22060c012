"""The report as one self-contained page: charts and pictures are embedded, it has no script and makes no requests."""

import base64
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from pneumoscope import heatmap
from pneumoscope.dataset.split import grouped
from pneumoscope.imaging import Luma, encode
from pneumoscope.report import plots
from pneumoscope.report.card import HEADLINES, figure_title
from pneumoscope.report.compare import headline_differences
from pneumoscope.report.document import Figure, Report
from pneumoscope.report.drift import Drift
from pneumoscope.report.figures import HALF, MOST_PROBABLE
from pneumoscope.report.scoring import Mistake

_QUALITY = 72  # JPEG quality: a dozen films, each also with its map, stay under half a megabyte
_MOST_NAMES = 40
_FEATURES = {
    "metadata": "file metadata alone (size, format, JPEG tables, tags)",
    "intensity": "global brightness and sharpness",
    "border": "border strips and corners",
    "thumbnail": "a thumbnail of 16×16 pixels",
}


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """A mistake with its film, and the film overlaid with its activation map, as data URIs."""

    mistake: Mistake
    film: str
    overlay: str | None


def draw_page(report: Report, mistakes: Sequence[Mistake] = ()) -> str:
    """The page of a report as HTML; `mistakes` are shown with their films."""
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            headlines=HEADLINES,
            pictures=[_picture(each) for each in mistakes],
            subgroups=grouped(report.subgroups, lambda each: each.quantity).items(),
            points=_points(report),
            shortcuts=grouped(report.shortcuts.baselines, lambda each: each.task).items(),
            features=_FEATURES,
            checklists=checklists(),
            differences=None if report.comparison is None else headline_differences(report.comparison),
        )
    )


def draw_drift(drift: Drift) -> str:
    """The page of a drift document as HTML."""
    return _environment().get_template("drift.html").render(drift=drift)


def checklists() -> list[dict[str, object]]:
    """The reporting guidelines and their items from `checklists.toml`."""
    text = files(__package__).joinpath("checklists.toml").read_text(encoding="utf-8")
    guidelines: list[dict[str, object]] = tomllib.loads(text)["guideline"]
    return guidelines


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,  # file names and labels come from the user's data
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=PackageLoader("pneumoscope", "report"),
    )
    environment.globals.update(plots=plots, most_names=_MOST_NAMES)
    environment.filters.update(
        number=_number, interval=_interval, percent=_percent, percents=_percents, figure_title=figure_title
    )
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(figure: Figure, digits: int = 3) -> str:
    if figure.low is None or figure.high is None:
        return "–"
    return f"{figure.low:.{digits}f} to {figure.high:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _percents(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return "–"
    return f"{100 * figure.low:.1f} to {100 * figure.high:.1f} %"


def _points(report: Report) -> list[tuple[str, list[object]]]:
    """Operating points by title; those that the bundle stores come first."""
    titles = {MOST_PROBABLE: "By the most probable class", HALF: "By a probability of at least one half"}
    rows = grouped(report.points, lambda each: each.name)
    ordered = sorted(rows, key=lambda name: name in titles)
    return [(titles.get(name, f"Stored: {name}"), list(rows[name])) for name in ordered]


def _picture(mistake: Mistake) -> _Picture:
    overlay = None
    if mistake.activation is not None:
        overlay = _data_uri(heatmap.overlay(mistake.luma, mistake.activation))
    return _Picture(mistake=mistake, film=_data_uri(mistake.luma), overlay=overlay)


def _data_uri(pixels: Luma) -> str:
    content = encode(np.ascontiguousarray(pixels), "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
