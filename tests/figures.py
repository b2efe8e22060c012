"""The figures in a text, and whether a report contains them; for the card and the README."""

import json
import re
from collections.abc import Iterator
from typing import Any

#: Not figures: code, links and their targets, identifiers of publications, licences, and versions.
_OTHER = re.compile(
    r"`[^`]*`|```.*?```|https?://\S+|\]\([^)]*\)|doi:\S+|arXiv:\S+|CC BY \d\.\d|\b\d+\.\d+\.\d+\b|\d+:\d+-\d+",
    re.DOTALL,
)
#: A decimal number, a percentage, or a number with thousands.
_FIGURE = re.compile(r"(?<![\w.])(-?\d{1,3}(?:,\d{3})+|-?\d+\.\d+|-?\d+)( ?%)?(?![\w.]*\d)")


def figures_in(text: str) -> list[str]:
    """The figures that a Markdown text shows, as they are written: `0.794`, `5,232`, `15 %`."""
    found = _FIGURE.findall(_OTHER.sub(" ", text))
    return [number + percent for number, percent in found if percent or "." in number or "," in number]


def unsupported(text: str, *reports: Any) -> list[str]:
    """The figures of a text that no number of these JSON documents gives when it is rounded to the same precision."""
    numbers = [number for report in reports for number in _numbers(report)]
    return [figure for figure in figures_in(text) if not any(_is(figure, number) for number in numbers)]


def _numbers(document: Any) -> Iterator[float]:
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list | tuple):
        for each in document:
            yield from _numbers(each)
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield float(document)


def _is(figure: str, number: float) -> bool:
    """Whether a number, rounded like the figure, equals the figure."""
    digits: str = figure.rstrip(" %").replace(",", "")
    value = number * 100 if figure.endswith("%") else number
    decimals = len(digits.partition(".")[2])
    # Half a unit of the last place, and a little more for a number that was stored rounded.
    return bool(abs(value - float(digits)) <= 0.5 * 10**-decimals + 1e-6)


def load(path: Any) -> Any:
    """A JSON document."""
    return json.loads(path.read_text())
