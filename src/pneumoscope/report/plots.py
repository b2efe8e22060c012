"""The report's charts as SVG elements; their colours come from the page's style, light or dark."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pneumoscope.report.document import Band, Curve, DecisionCurve, Number, Reliability

_WIDTH, _HEIGHT = 340, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 42
_COLOURS = 5  # in the page's style, c0 to c4; each has its own dash pattern, so that lines differ in grey, too
_TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart: its points, a band around it, and whether it is a reference line (`guide`)."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    band: Band | None = None
    guide: bool = False


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Titles of a chart's axes, and the range of y; x is from 0 to 1."""

    x: str
    y: str
    low: float = 0.0
    high: float = 1.0

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The position of a point in the drawing's units; points out of range are moved to the frame."""
        across = min(max(x, 0.0), 1.0)
        up = min(max((y - self.low) / (self.high - self.low), 0.0), 1.0)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """The confusion matrix: rows are true classes, columns the most probable ones; shading is the share of the row."""
    side, left, top = 74, 84, 46
    width, height = left + side * len(classes) + 4, top + side * len(classes) + 4
    parts = [_text(left + side * len(classes) / 2, 14, "predicted", "axis")]
    for row, (label, line) in enumerate(zip(classes, counts, strict=True)):
        parts.append(_text(left - 8, top + side * (row + 0.5) + 4, label, "end"))
        parts.append(_text(left + side * (row + 0.5), top - 8, label, "axis"))
        for column, count in enumerate(line):
            share = count / sum(line) if sum(line) else 0.0
            x, y = left + side * column, top + side * row
            css_class = "hit" if row == column else "miss"
            parts.append(
                _tag(
                    "rect", x=x, y=y, width=side - 3, height=side - 3, css_class=css_class, opacity=0.08 + 0.62 * share
                )
            )
            parts.append(_text(x + side / 2, y + side / 2, f"{count:,}", "count"))
            parts.append(_text(x + side / 2, y + side / 2 + 16, f"{100 * share:.0f} %", "share"))
    description = "; ".join(
        f"of {sum(line):,} {label}: "
        + ", ".join(f"{count:,} predicted as {name}" for name, count in zip(classes, line, strict=True))
        for label, line in zip(classes, counts, strict=True)
    )
    return _svg(parts, f"Confusion matrix. {description}", width, height)


def roc(curves: dict[str, Curve]) -> Markup:
    """ROC curves with their bands, and the diagonal of guessing."""
    guess = Line(name="guessing", x=(0, 1), y=(0, 1), guide=True)
    axes = Axes(x="1 - specificity", y="sensitivity")
    return lines("ROC curves", axes, [*_curve_lines(curves), guess])


def precision_recall(curves: dict[str, Curve]) -> Markup:
    """Precision-recall curves with their bands."""
    return lines("Precision-recall curves", Axes(x="sensitivity (recall)", y="PPV (precision)"), _curve_lines(curves))


def selective(curve: Curve, accuracy: Number) -> Markup:
    """Accuracy against the share of films answered, if those of highest confidence are answered first."""
    values = [value for value in (*curve.y, *(curve.band.low if curve.band else ())) if value is not None]
    # The axis starts as high as the lowest value allows, so that differences near 1 can be seen.
    low = next((floor for floor in (0.75, 0.5) if min(values, default=0.0) >= floor), 0.0)
    all_films = Line(name="all films", x=(0, 1), y=(accuracy, accuracy), guide=True)
    axes = Axes(x="share of films answered", y="accuracy", low=low)
    return lines("Accuracy of the answered films", axes, [*_curve_lines({"answered films": curve}), all_films])


def decision(name: str, curve: DecisionCurve) -> Markup:
    """Net benefit of acting on the model's probabilities, on all films, and on none."""
    band = curve.model
    top = max((value for value in (*band.high, *curve.treat_all) if value is not None), default=0.1)
    step = next(step for step in (0.05, 0.1, 0.2, 0.25) if 4 * step >= min(top, 1))
    axes = Axes(x=f"threshold probability of {name}", y="net benefit", low=-step, high=4 * step)
    shown = [
        Line(name="model", x=band.x, y=band.value, band=band),
        _cut_below(axes.low, Line(name="act on all", x=band.x, y=curve.treat_all)),
        Line(name="act on none", x=(0, 1), y=(0, 0), guide=True),
    ]
    return lines(f"Decision curve for {name}", axes, shown)


def reliability(name: str, bins: Reliability) -> Markup:
    """Observed frequency against the mean probability of each bin, with intervals; a larger dot has more films."""
    axes = Axes(x="predicted probability", y="observed frequency")
    parts = [*_frame(axes), _line(axes, (0, 1), (0, 1), "guide")]
    for confidence, observed, share in zip(bins.confidence, bins.observed, bins.share, strict=True):
        if confidence is None or observed.value is None:
            continue
        x, y = axes.place(confidence, observed.value)
        if observed.low is not None and observed.high is not None:
            ends = axes.place(confidence, observed.low), axes.place(confidence, observed.high)
            parts.append(_tag("path", d=f"M{x:.1f} {ends[0][1]:.1f}V{ends[1][1]:.1f}", css_class="bar c0"))
        parts.append(
            _tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{2.5 + 5 * (share or 0) ** 0.5:.1f}", css_class="dot c0")
        )
    points = ", ".join(
        f"{x:.2f} predicted, {y.value:.2f} observed"
        for x, y in zip(bins.confidence, bins.observed, strict=True)
        if x is not None and y.value is not None
    )
    return _svg(parts, f"Reliability, {name}: {points}", _WIDTH, _HEIGHT)


def lines(title: str, axes: Axes, shown: Sequence[Line]) -> Markup:
    """A chart of lines with bands, and a legend."""
    parts, legend, number = _frame(axes), [], 0
    for each in shown:
        css_class = "guide" if each.guide else f"c{number % _COLOURS}"
        number += not each.guide
        if each.band is not None:
            parts.append(_area(axes, each.band, css_class))
        parts.append(_line(axes, each.x, each.y, css_class))
        legend.append((each.name, css_class))
    rows = [_legend_row(row, name, css_class) for row, (name, css_class) in enumerate(legend)]
    height = _HEIGHT + 18 * len(legend)
    return _svg(
        [*parts, *rows], f"{title}: {axes.y} against {axes.x}; {', '.join(name for name, _ in legend)}", _WIDTH, height
    )


def interval(low: Number, value: Number, high: Number) -> Markup:
    """A figure from 0 to 1 with its interval, drawn as a short bar in a table's row."""
    if value is None:
        return Markup("")
    left, right = (value if low is None else low), (value if high is None else high)
    ends = [min(max(each, 0.0), 1.0) * 100 for each in (left, value, right)]
    bar = _tag("rect", x=f"{ends[0]:.1f}", y=4, width=f"{max(ends[2] - ends[0], 0.8):.1f}", height=4, css_class="span")
    dot = _tag("circle", cx=f"{ends[1]:.1f}", cy=6, r=2.6, css_class="dot c0")
    rail = _tag("rect", x=0, y=5.5, width=100, height=1, css_class="rail")
    return Markup('<svg class="track" viewBox="-3 0 106 12" aria-hidden="true">{}{}{}</svg>').format(rail, bar, dot)


def _cut_below(low: float, line: Line) -> Line:
    """A falling line, cut where it crosses the lower edge of the chart."""
    # Points out of range would otherwise be drawn along the frame, as if the line were flat there.
    defined = [(x, y) for x, y in zip(line.x, line.y, strict=True) if x is not None and y is not None]
    kept = [(x, y) for x, y in defined if y >= low]
    if kept and len(kept) < len(defined):
        (x, y), (next_x, next_y) = kept[-1], defined[len(kept)]
        kept.append((x + (next_x - x) * (y - low) / (y - next_y), low))
    return Line(name=line.name, x=[x for x, _ in kept], y=[y for _, y in kept])


def _curve_lines(curves: dict[str, Curve]) -> list[Line]:
    return [Line(name=name, x=curve.x, y=curve.y, band=curve.band) for name, curve in curves.items()]


def _frame(axes: Axes) -> list[Markup]:
    """Grid, ticks and titles."""
    parts = []
    step = (axes.high - axes.low) / _TICKS
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        x, y = axes.place(share, axes.low + share * (axes.high - axes.low))
        bottom, top = axes.place(share, axes.low)[1], axes.place(share, axes.high)[1]
        left, right = axes.place(0, 0)[0], axes.place(1, 0)[0]
        parts.append(
            _tag("path", d=f"M{x:.1f} {bottom:.1f}V{top:.1f}M{left:.1f} {y:.1f}H{right:.1f}", css_class="grid")
        )
        parts.append(_text(x, bottom + 15, f"{share:.1f}", "axis"))
        digits = 1 if math.isclose(10 * step, round(10 * step)) and step >= 0.1 else 2
        parts.append(_text(left - 5, y + 4, f"{axes.low + share * (axes.high - axes.low):.{digits}f}", "end"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, axes.x, "axis"))
    turned = Markup('<text class="axis" transform="translate(12 {}) rotate(-90)">{}</text>').format(middle, axes.y)
    return [*parts, turned]


def _line(axes: Axes, x: Sequence[Number], y: Sequence[Number], css_class: str) -> Markup:
    return _tag("polyline", points=_points(axes, zip(x, y, strict=True)), css_class=f"line {css_class}")


def _area(axes: Axes, band: Band, css_class: str) -> Markup:
    defined = [row for row in zip(band.x, band.low, band.high, strict=True) if None not in row]
    outline = [(x, low) for x, low, _ in defined] + [(x, high) for x, _, high in reversed(defined)]
    return _tag("polygon", points=_points(axes, outline), css_class=f"area {css_class}")


def _points(axes: Axes, points: Iterable[tuple[Number, Number]]) -> str:
    placed = [axes.place(x, y) for x, y in points if x is not None and y is not None]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)


def _legend_row(row: int, name: str, css_class: str) -> Markup:
    y = _HEIGHT + 18 * row + 8
    stroke = _tag("path", d=f"M{_LEFT} {y}h26", css_class=f"line {css_class}")
    return stroke + _text(_LEFT + 34, y + 4, name, "key")


def _text(x: float, y: float, text: str, css_class: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(css_class, x, y, text)


def _tag(name: str, *, css_class: str, **attributes: object) -> Markup:
    """An SVG element; `css_class` holds its CSS classes, separated by spaces."""
    listed = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in attributes.items())
    return Markup('<{} class="{}"{}/>').format(name, css_class, listed)


def _svg(parts: Iterable[Markup], title: str, width: float, height: float) -> Markup:
    content = Markup("").join(parts)
    return Markup(
        '<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}" style="max-width:{}px">{}</svg>'
    ).format(escape(title), width, height, round(width * 1.25), content)
