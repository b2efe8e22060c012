"""What the command line prints: progress on stderr, tables and documents on stdout."""

import csv
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from typing_extensions import override

from pneumoscope.progress import Listener

if TYPE_CHECKING:
    from pneumoscope.engine import Prediction
    from pneumoscope.export import ExportSummary
    from pneumoscope.report import Drift, Figure, Report
    from pneumoscope.report.document import Comparison, External
    from pneumoscope.report.drift import Sign

WORTHWHILE_GAIN = 1.15  # times as fast as fp32; below, int8 is not worth its rounding
_FEW_FILMS = 100
_BYTES = "B"  # the unit that is shown as kB, MB, GB
_LINE_INTERVAL = 30.0  # seconds, without a terminal


def make_listener(*, quiet: bool) -> Listener:
    """A progress bar on a terminal, plain lines elsewhere, nothing when quiet."""
    return Listener() if quiet else ShownListener(bar=sys.stderr.isatty())


class ShownListener(Listener):
    """Shows a bar with throughput and time left, or a line every half minute; at its end, a line with the speed."""

    def __init__(self, *, bar: bool) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar = bar
        self.display: Progress | None = None
        self.last_line_at = 0.0

    @override
    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn() if unit == _BYTES else MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
        )
        # Transient: the line that `end` prints takes the place of the bar.
        self.display = Progress(*columns, console=self.console, transient=True, disable=not self.bar)
        self.display.add_task(task, total=total, completed=done, rate="", before=done, unit=unit)
        self.display.start()
        self.last_line_at = time.monotonic()

    @override
    def advance(self, count: int) -> None:
        if self.display is None:
            return
        task = self.display.tasks[0]
        self.display.update(task.id, advance=count)
        self.display.update(task.id, rate=_amount(_speed(task), task.fields["unit"]) + "/s")
        if not self.bar and time.monotonic() - self.last_line_at > _LINE_INTERVAL:
            self.last_line_at = time.monotonic()
            self._print_progress(task)

    @override
    def end(self) -> None:
        if self.display is not None:
            self.display.stop()
            task, self.display = self.display.tasks[0], None
            done, unit = task.completed - task.fields["before"], task.fields["unit"]
            speed = _amount(_speed(task), unit)
            self.say(f"{task.description}: {_amount(done, unit)} in {task.elapsed:.1f} s, {speed}/s")

    @override
    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    def _print_progress(self, task: Task) -> None:
        speed, unit = _speed(task), task.fields["unit"]
        line = f"{task.description}: {_amount(task.completed, unit)}"
        if task.total is not None:
            left = (task.total - task.completed) / max(speed, 1e-9)
            line += f" of {_amount(task.total, unit)}, {left:,.0f} s left"
        self.say(f"{line}, {_amount(speed, unit)}/s")


def _speed(task: Task) -> float:
    """Units per second since this task began; units of an earlier, interrupted run do not count."""
    return float(task.completed - task.fields["before"]) / max(task.elapsed or 0.0, 1e-9)


def _amount(count: float, unit: str) -> str:
    if unit == _BYTES:
        return decimal(int(count))
    return f"{count:,.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.1f} {unit}"


def show_exported(exported: "ExportSummary", out: Path) -> None:
    """Print what `export` measured of the bundle that it made."""
    from pneumoscope.metrics import wilson_lower_bound

    print_line(f"bundle in {out}; largest difference from PyTorch: {exported.difference:.1e}")
    decision = exported.decision
    row = decision.row(decision.coverage)
    assert row is not None
    assert row.coverage is not None
    assert row.answered is not None  # null only in rows of older contracts
    accuracy = "" if row.accuracy is None else f", of these {100 * row.accuracy:.0f} % with the right class"
    print_line(
        f"at {100 * row.coverage:.0f} % coverage it answers {100 * row.answered:.0f} % of "
        f"{decision.films:,} unseen films ({decision.evidence}){accuracy}"
    )
    if (films := decision.films or 0) < _FEW_FILMS:
        print_line(f"note: this is measured on {films} unseen films, too few to predict how many films it will answer.")
    if not any(row.classes.values()):
        print_line("note: too few unseen films to exclude any class at this coverage; the model will always abstain.")
    if exported.classes_predicted == 1:
        print_line("note: the model gives all of these films the same class: it has learnt nothing.")
    if (figures := exported.quantisation) is None or exported.gain is None:
        return
    least = wilson_lower_bound(figures.agreement, figures.films)
    print_line(
        f"int8: the same class as fp32 on {100 * figures.agreement:.1f} % of {figures.films} films compared "
        f"(with 95 % confidence on at least {100 * least:.1f} % of such films), "
        f"macro-F1 {figures.macro_f1:.3f} (fp32 {figures.macro_f1_fp32:.3f}), "
        f"{len(figures.kept_fp32)} layers left in fp32, {exported.gain:.1f} times as fast"
    )
    if exported.gain < WORTHWHILE_GAIN:
        print_line("note: int8 is hardly faster for this network on this machine; export with --precision fp32.")


def show_report(report: "Report") -> None:
    """Print the main figures of an evaluation with their intervals; report.html has all."""
    from pneumoscope.report.card import HEADLINES

    for note in report.notes:
        print_line(f"NOTE: {note}")
    rows = [(title, report.metrics[name]) for name, title in HEADLINES.items()]
    for group, figures in report.per_group.items():
        rows += [(f"{group} or not: {name}", figures[name]) for name in ("accuracy", "sensitivity", "specificity")]
        rows.append((f"{group} or not: AUROC", figures["auroc"]))
    for label, figures in report.per_class.items():
        rows += [(f"{label}: {name}", figures[name]) for name in ("sensitivity", "specificity")]
    rows += [(f"films {status}", figure) for status, figure in report.decisions.shares.items()]
    rows.append(("accuracy of those answered", report.decisions.answered["accuracy"]))
    show_table(
        ("figure", "value", "95 % interval"),
        ((name, _value(figure), _range(figure)) for name, figure in rows),
        title=f"{report.n:,} films of {report.dataset.patients:,} patients, split {report.dataset.split}",
        title_justify="left",
    )
    counts = zip(report.classes, report.confusion, strict=True)
    columns = ("true class", *(f"predicted as {label}" for label in report.classes))
    show_table(columns, ((label, *map(str, row)) for label, row in counts))
    if lost := report.dataset.unjudged:
        print_line(f"note: {len(lost):,} films did not reach the model, such as {lost[0].film}: {lost[0].reason}")
    if report.comparison is not None:
        _show_comparison(report.comparison)
    if report.external is not None:
        _show_external(report.external)
    print_line(report.intended_use)


def _show_comparison(comparison: "Comparison") -> None:
    """Print the differences of two models on the same films; report.html also has the tests."""
    from pneumoscope.report.card import figure_title
    from pneumoscope.report.compare import headline_differences

    show_table(
        ("figure", "this", "other", "difference, 95 % interval", "verdict"),
        (
            (
                figure_title(row.figure),
                _three_decimals(row.this),
                _three_decimals(row.other),
                _with_range(row.difference),
                row.verdict,
            )
            for row in headline_differences(comparison)
        ),
        title=f"compared with {comparison.other.name} {comparison.other.version}, {comparison.films:,} films, paired",
        title_justify="left",
    )


def _show_external(external: "External") -> None:
    """Print how far the figures fall below those on the model's own films."""
    from pneumoscope.report.card import figure_title

    if not external.drops:
        print_line(f"note: the drop cannot be computed; the model's own figures: {external.own}.")
        return
    show_table(
        ("of", "figure", "here", "own", "difference, 95 % interval", "verdict"),
        (
            (
                row.of,
                figure_title(row.figure),
                _three_decimals(row.here.value),
                _three_decimals(row.own.value),
                _with_range(row.difference),
                row.verdict,
            )
            for row in external.drops
        ),
        title=f"compared with the model's own: {external.own}",
        title_justify="left",
    )


def show_drift(drift: "Drift") -> None:
    """Print whether films without labels look, and are answered, like the model's own."""
    show_signs(drift.signs, title=f"{drift.n:,} image files; reference: {drift.reference}")
    if drift.unjudged:
        print_line(f"note: {len(drift.unjudged):,} files did not reach the model.")
    print_line(drift.verdict)
    print_line(drift.intended_use)


def show_signs(signs: "Iterable[Sign]", *, title: str) -> None:
    """Print the signs of drift as a table."""
    show_table(
        ("quantity", "here", "95 % interval", "reference", "verdict"),
        (
            (
                sign.quantity,
                _three_decimals(sign.here.value),
                _range(sign.here),
                _three_decimals(sign.reference),
                sign.verdict,
            )
            for sign in signs
        ),
        title=title,
        title_justify="left",
    )


def _value(figure: "Figure") -> str:
    return "undefined" if figure.value is None else f"{figure.value:.4f}"


def _range(figure: "Figure") -> str:
    return "–" if figure.low is None or figure.high is None else f"{figure.low:.3f} to {figure.high:.3f}"


def _with_range(figure: "Figure") -> str:
    return "undefined" if figure.value is None else f"{figure.value:+.3f} ({_range(figure)})"


def _three_decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def show_cross_validation(report: dict[str, Any]) -> None:
    """Print out-of-fold figures with their intervals: films as they are beside stress films."""
    title = f"{report['films']:,} films of {report['patients']:,} patients, each by a network that has not seen them"
    rows = []
    for name, plain in report["plain"].items():
        stress = report["stress"][name]
        rows.append((name, _number(plain), _interval(plain), _number(stress), _interval(stress)))
    show_table(("figure", "as they are", "95 %", "stress", "95 %"), rows, title=title, title_justify="left")


def _interval(figure: dict[str, float | None]) -> str:
    low, high = figure["low"], figure["high"]
    return "–" if low is None or high is None else f"{low:.3f}–{high:.3f}"


def print_problem(text: str, *, level: str = "error") -> None:
    """Print one line on stderr, after its level."""
    print(f"{level}: {text}", file=sys.stderr, flush=True)


def show_predictions(predictions: Iterable["Prediction"], form: str) -> Iterator["Prediction"]:
    """Print predictions as `json`, `csv` or `table`, one by one as they come, and yield them."""
    return {"json": _json_lines, "csv": _csv_rows, "table": _table_rows}[form](predictions)


def _json_lines(predictions: Iterable["Prediction"]) -> Iterator["Prediction"]:
    for prediction in predictions:
        print(json.dumps(prediction.as_json(), allow_nan=False), flush=True)  # a reader down the pipe waits for it
        yield prediction


def _csv_rows(predictions: Iterable["Prediction"]) -> Iterator["Prediction"]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, prediction in enumerate(predictions):
        document = prediction.as_json()
        flat = {
            **{name: document[name] for name in ("image", "status", "class", "label")},
            **{f"p_{label}": document["probabilities"].get(label) for label in prediction.classes},
            **{f"p_{group}": document["groups"].get(group) for group in prediction.group_names},
            "prediction_set": "; ".join(document["prediction_set"]),
            "coverage": document["coverage"],
            **{name: "; ".join(document[name]) for name in ("reasons", "reason_codes")},
            **{f"map_{part}": (document["attention"] or {}).get(part) for part in ("class", "border", "corners")},
            "model": f"{document['model']['name']} {document['model']['version']} {document['model']['sha256'][:12]}",
            "milliseconds": document["milliseconds"],
        }
        if number == 0:
            writer.writerow(flat.keys())
        writer.writerow(flat.values())
        sys.stdout.flush()
        yield prediction


def _table_rows(predictions: Iterable["Prediction"]) -> Iterator["Prediction"]:
    """Lines of fixed width rather than a table, so that a long folder streams and memory stays flat."""
    for number, prediction in enumerate(predictions):
        names = (*prediction.classes, *prediction.group_names)
        if number == 0:
            titles = "".join(f"{_shortened(name, 10):>11}" for name in names)
            print(f"{'status':<10}{'label':<12}{titles}{'ms':>8}  image")
        shares = prediction.probabilities | prediction.groups
        values = "".join(f"{shares[name]:>11.3f}" if shares else f"{'-':>11}" for name in names)
        tail = f"  [{' '.join(prediction.reasons)}]" if prediction.reasons else ""
        label = _shortened(_short_label(prediction), 11)
        line = f"{prediction.status:<10}{label:<12}{values}{prediction.milliseconds:>8.1f}"
        print(f"{line}  {prediction.image}{tail}", flush=True)
        yield prediction


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _short_label(prediction: "Prediction") -> str:
    """The label, short enough for a column: for `pneumonia, type undetermined`, the group with a question mark."""
    if prediction.label is None or prediction.status == "answered":
        return prediction.label or "-"
    return f"{_shortened(prediction.label.partition(',')[0], 10)}?"


def _number(figure: dict[str, float | None]) -> str:
    value = figure["value"]
    return "undefined" if value is None else f"{value:.4f}"


def show_table(columns: Iterable[str], rows: Iterable[Iterable[str]], **options: Any) -> None:
    """Print a table. Cells are plain text: class names may look like rich's markup. `options` are rich's."""
    table = Table(*map(escape, columns), **options)
    for row in rows:
        table.add_row(*map(escape, row))
    stdout().print(table)


def print_line(text: str) -> None:
    """Print one line as it is, not wrapped."""
    stdout().print(text, markup=False, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """The console for documents and tables."""
    # Made for each call: sys.stdout may be another one by then, as in tests.
    return Console(highlight=False)
