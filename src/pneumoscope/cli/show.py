"""What the command line prints: progress on stderr, tables and documents on stdout."""

import csv
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from typing_extensions import override

from pneumoscope.progress import Listener

if TYPE_CHECKING:
    from pneumoscope.dataset import PrepareSummary
    from pneumoscope.engine import Prediction

_MOST_REFUSED = 50


def make_listener(*, quiet: bool) -> Listener:
    """A progress bar on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        return Listener()
    return BarListener() if sys.stderr.isatty() else LineListener()


class LineListener(Listener):
    """Writes one line when a task ends, with its speed."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.task: tuple[str, str] | None = None
        self.done, self.started = 0, 0.0

    @override
    def begin(self, task: str, total: int, unit: str, *, done: int = 0) -> None:
        self.task = (task, unit)
        self.done, self.started = 0, time.monotonic()

    @override
    def advance(self, count: int) -> None:
        self.done += count

    @override
    def end(self) -> None:
        if self.task is not None:
            task, unit = self.task
            seconds = max(time.monotonic() - self.started, 1e-9)
            self.say(f"{task}: {self.done:,} {unit} in {seconds:.1f} s, {self.done / seconds:,.0f} {unit}/s")
        self.task = None

    @override
    def say(self, line: str) -> None:
        self.console.print(line, markup=False)


class BarListener(LineListener):
    """Shows a bar with throughput and time left while a task runs."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: Progress | None = None
        self.bar_task = TaskID(0)

    @override
    def begin(self, task: str, total: int, unit: str, *, done: int = 0) -> None:
        super().begin(task, total, unit, done=done)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.bar_task = self.bar.add_task(task, total=total, completed=done, rate="")
        self.bar.start()

    @override
    def advance(self, count: int) -> None:
        super().advance(count)
        if self.bar is not None and self.task is not None:
            rate = self.done / max(time.monotonic() - self.started, 1e-9)
            self.bar.update(self.bar_task, advance=count, rate=f"{rate:,.0f} {self.task[1]}/s")

    @override
    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        super().end()


def show_prepared(summary: "PrepareSummary") -> None:
    """Films and patients by split and class; what each source gave; what was refused, by name."""
    table = Table("split", *map(escape, summary.classes), "films", title="films (patients)")
    for split, row in summary.counts.items():
        cells = [f"{films:,} ({patients:,})" for films, patients in row.values()]
        table.add_row(split, *cells, f"{sum(films for films, _ in row.values()):,}")
    _stdout().print(table)
    for source in summary.sources:
        told = f"{source.name}: {source.films:,} films read"
        for count, what in (
            (source.copies, "repeated copies dropped"),
            (source.junk, "junk entries dropped"),
            (source.other_files, "other files ignored"),
            (source.refused, "refused"),
        ):
            told += f", {count:,} {what}" if count else ""
        _line(told + f" ({source.films / summary.seconds:,.0f} images/s)")
        if not source.patients_named:
            _line(
                "  patients are not named in this source: each film counts as its own patient. "
                "If some share a patient, name them with --patient-pattern."
            )
    if summary.refused:
        _line(f"{len(summary.refused):,} refused (all are listed in dataset.json):")
        for each in summary.refused[:_MOST_REFUSED]:
            _line(f"  {each.source}:{each.name}: {each.reason}")


def show_report(report: dict[str, Any]) -> None:
    """The figures of an evaluation as two tables."""
    table = Table("metric", "value", title=f"{report['n']} films of split {report['dataset']['split']}")
    figures = {**report["metrics"], **{f"{k} accuracy": v for k, v in report["metrics"]["group_accuracy"].items()}}
    del figures["group_accuracy"]
    for name, figure in figures.items():
        table.add_row(escape(name.replace("_", " ")), _number(figure))
    per_class = Table("class", *map(escape, report["classes"]))
    for name in next(iter(report["per_class"].values())):
        per_class.add_row(name, *(_number(row[name]) for row in report["per_class"].values()))
    confusion = Table("true class", *(escape(f"called {label}") for label in report["classes"]))
    for label, counts in zip(report["classes"], report["confusion"], strict=True):
        confusion.add_row(escape(label), *map(str, counts))
    console = _stdout()
    console.print(table)
    console.print(per_class)
    console.print(confusion)
    _line(report["intended_use"])


def show_predictions(predictions: Iterable["Prediction"], form: str) -> Iterator["Prediction"]:
    """Print predictions one by one as they come, and pass them on."""
    write = {"json": _json_lines, "csv": _csv_rows, "table": _table_rows}[form]
    yield from write(predictions, sys.stdout)


def _json_lines(predictions: Iterable["Prediction"], out: TextIO) -> Iterator["Prediction"]:
    for prediction in predictions:
        print(json.dumps(prediction.as_json(), allow_nan=False), file=out, flush=True)
        yield prediction


def _csv_rows(predictions: Iterable["Prediction"], out: TextIO) -> Iterator["Prediction"]:
    writer = csv.writer(out, lineterminator="\n")
    header: list[str] = []
    for prediction in predictions:
        document = prediction.as_json()
        flat = {
            "image": document["image"],
            "status": document["status"],
            "class": document["class"],
            "label": document["label"],
            **{f"p_{label}": document["probabilities"].get(label) for label in prediction.classes},
            **{f"p_{group}": document["groups"].get(group) for group in prediction.group_names},
            "prediction_set": " ".join(document["prediction_set"]),
            "reasons": " ".join(document["reasons"]),
            "model": f"{document['model']['name']} {document['model']['version']} {document['model']['sha256'][:12]}",
            "milliseconds": document["milliseconds"],
        }
        if not header:
            header = list(flat)
            writer.writerow(header)
        writer.writerow([flat[name] for name in header])
        out.flush()
        yield prediction


def _table_rows(predictions: Iterable["Prediction"], out: TextIO) -> Iterator["Prediction"]:
    """Fixed-width lines, so that a long folder streams and memory stays flat."""
    header = False
    for prediction in predictions:
        if not header:
            titles = "".join(f"{label[:10]:>11}" for label in (*prediction.classes, *prediction.group_names))
            print(f"{'status':<10}{'label':<12}{titles}{'ms':>8}  image", file=out)
            header = True
        shares = prediction.probabilities | prediction.groups
        values = "".join(
            f"{shares[name]:>11.3f}" if shares else f"{'-':>11}"
            for name in (*prediction.classes, *prediction.group_names)
        )
        tail = f"  [{' '.join(prediction.reasons)}]" if prediction.reasons else ""
        line = f"{prediction.status:<10}{(prediction.label or '-')[:11]:<12}{values}{prediction.milliseconds:>8.1f}"
        print(f"{line}  {prediction.image}{tail}", file=out, flush=True)
        yield prediction


def _number(figure: dict[str, float | None]) -> str:
    value = figure["value"]
    return "undefined" if value is None else f"{value:.4f}"


def _line(text: str) -> None:
    _stdout().print(text, markup=False, highlight=False, soft_wrap=True)


def _stdout() -> Console:
    return Console(highlight=False)
