"""What the command line prints: progress on stderr, tables and documents on stdout."""

import csv
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from typing_extensions import override

from pneumoscope.progress import Listener

if TYPE_CHECKING:
    from pneumoscope.engine import Prediction
    from pneumoscope.export import Exported

LONG = 50  # films; fewer are done before anyone asks
WORTHWHILE_GAIN = 1.15  # below, int8 is not worth its rounding
_FEW_FILMS = 100
_BYTES = "B"  # the unit that is shown as kB, MB, GB


def make_listener(*, quiet: bool) -> Listener:
    """A progress bar on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        return Listener()
    return BarListener() if sys.stderr.isatty() else LineListener()


class LineListener(Listener):
    """Writes a line every half minute while a task runs, and one with its speed when it ends."""

    every = 30.0  # seconds

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.task: tuple[str, str] | None = None
        self.total: int | None = None
        self.before, self.done, self.started, self.told = 0, 0, 0.0, 0.0

    @override
    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        self.task, self.total = (task, unit), total
        self.before, self.done = done, 0
        self.started = self.told = time.monotonic()

    @override
    def advance(self, count: int) -> None:
        self.done += count
        if self.task is not None and time.monotonic() - self.told > self.every:
            self.told = time.monotonic()
            self._tell_progress(*self.task)

    @override
    def end(self) -> None:
        if self.task is not None:
            task, unit = self.task
            seconds = max(time.monotonic() - self.started, 1e-9)
            speed = _amount(self.done / seconds, unit)
            self.say(f"{task}: {_amount(self.done, unit)} in {seconds:.1f} s, {speed}/s")
        self.task = None

    @override
    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    def _tell_progress(self, task: str, unit: str) -> None:
        speed = self.done / max(time.monotonic() - self.started, 1e-9)
        line = f"{task}: {_amount(self.before + self.done, unit)}"
        if self.total is not None:
            left = (self.total - self.before - self.done) / max(speed, 1e-9)
            line += f" of {_amount(self.total, unit)}, {left:,.0f} s left"
        self.say(f"{line}, {_amount(speed, unit)}/s")


class BarListener(LineListener):
    """Shows a bar with throughput and time left while a task runs."""

    every = float("inf")

    def __init__(self) -> None:
        super().__init__()
        self.bar: Progress | None = None
        self.bar_task = TaskID(0)

    @override
    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        super().begin(task, total, unit, done=done)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn() if unit == _BYTES else MofNCompleteColumn(),
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
            self.bar.update(self.bar_task, advance=count, rate=f"{_amount(rate, self.task[1])}/s")

    @override
    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        super().end()


def _amount(count: float, unit: str) -> str:
    if unit == _BYTES:
        return decimal(int(count))
    return f"{count:,.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.1f} {unit}"


def show_exported(done: "Exported", out: Path) -> None:
    """What export found out about the bundle it made."""
    from pneumoscope.metrics import at_least

    print_line(f"bundle in {out}; largest difference from PyTorch: {done.difference:.1e}")
    print_line(f"answers when the largest probability is at least {done.answer_from:.3f}")
    if done.films < _FEW_FILMS:
        print_line(f"note: that rests on {done.films} unseen films, too few to say how many films it will answer.")
    if done.classes_told == 1:
        print_line("note: the model gives all of these films the same class; it has learnt nothing.")
    if (figures := done.quantisation) is None or done.gain is None:
        return
    print_line(
        f"int8: the same class as fp32 on {figures.agreement:.1%} of {figures.films} films compared "
        f"(at 95 % confidence on at least {at_least(figures.agreement, figures.films):.1%} of such films), "
        f"macro-F1 {figures.macro_f1:.3f} (fp32 {figures.macro_f1_fp32:.3f}), "
        f"{len(figures.kept_fp32)} layers left in fp32, {done.gain:.1f} times as fast"
    )
    if done.gain < WORTHWHILE_GAIN:
        print_line("int8 gains nothing for this network on this machine; export with --precision fp32.")


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
    for each in (table, per_class, confusion):
        stdout().print(each)
    if report["dataset"]["fingerprint"] != report["dataset"]["trained_on"]:
        print_line(
            "note: the model was trained on another data set; whether it has seen some of these films is not known."
        )
    print_line(report["intended_use"])


def show_cross_validation(report: dict[str, Any]) -> None:
    """Print out-of-fold figures with their intervals, plain beside stress."""
    title = f"{report['films']:,} films of {report['patients']:,} patients, each by a network that has not seen them"
    table = Table("figure", "as they are", "95 %", "stress", "95 %", title=title, title_justify="left")
    for name, plain in report["plain"].items():
        stress = report["stress"][name]
        table.add_row(name, _number(plain), _interval(plain), _number(stress), _interval(stress))
    stdout().print(table)


def _interval(figure: dict[str, float | None]) -> str:
    low, high = figure["low"], figure["high"]
    return "–" if low is None or high is None else f"{low:.3f}–{high:.3f}"


def following(predictions: Iterable["Prediction"], total: int, listener: Listener) -> Iterator["Prediction"]:
    """Pass predictions on; a long run of them is told to the listener."""
    if total < LONG:
        yield from predictions
        return
    with listener.progress("classifying", total, "images"):
        for prediction in predictions:
            yield prediction
            listener.advance(1)


def complain(text: str, *, word: str = "error") -> None:
    """One line on stderr."""
    print(f"{word}: {text}", file=sys.stderr, flush=True)


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
    for number, prediction in enumerate(predictions):
        document = prediction.as_json()
        flat = {
            "image": document["image"],
            "status": document["status"],
            "class": document["class"],
            "label": document["label"],
            **{f"p_{label}": document["probabilities"].get(label) for label in prediction.classes},
            **{f"p_{group}": document["groups"].get(group) for group in prediction.group_names},
            "prediction_set": "; ".join(document["prediction_set"]),
            "reasons": "; ".join(document["reasons"]),
            "reason_codes": "; ".join(document["reason_codes"]),
            **{f"map_{part}": (document["attention"] or {}).get(part) for part in ("class", "border", "corners")},
            "model": f"{document['model']['name']} {document['model']['version']} {document['model']['sha256'][:12]}",
            "milliseconds": document["milliseconds"],
        }
        if number == 0:
            writer.writerow(flat.keys())
        writer.writerow(flat.values())
        out.flush()
        yield prediction


def _table_rows(predictions: Iterable["Prediction"], out: TextIO) -> Iterator["Prediction"]:
    """Fixed-width lines, so that a long folder streams and memory stays flat."""
    for number, prediction in enumerate(predictions):
        if number == 0:
            titles = "".join(f"{_fitted(label, 10):>11}" for label in (*prediction.classes, *prediction.group_names))
            print(f"{'status':<10}{'label':<12}{titles}{'ms':>8}  image", file=out)
        shares = prediction.probabilities | prediction.groups
        values = "".join(
            f"{shares[name]:>11.3f}" if shares else f"{'-':>11}"
            for name in (*prediction.classes, *prediction.group_names)
        )
        tail = f"  [{'; '.join(prediction.reasons)}]" if prediction.reasons else ""
        line = f"{prediction.status:<10}{_fitted(_short(prediction), 11):<12}{values}{prediction.milliseconds:>8.1f}"
        print(f"{line}  {prediction.image}{tail}", file=out, flush=True)
        yield prediction


def _fitted(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _short(prediction: "Prediction") -> str:
    """The label as a table has room for it: of a group whose type is undetermined, its name with a question mark."""
    if prediction.label is None:
        return "-"
    return (
        prediction.label if prediction.status == "answered" else f"{_fitted(prediction.label.partition(',')[0], 10)}?"
    )


def _number(figure: dict[str, float | None]) -> str:
    value = figure["value"]
    return "undefined" if value is None else f"{value:.4f}"


def print_line(text: str) -> None:
    """One line as it is, not wrapped."""
    stdout().print(text, markup=False, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """Where documents and tables go."""
    return Console(highlight=False)
