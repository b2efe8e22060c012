"""The capstone's table, redone: its recipes and ours on one data set, trained, exported and tested alike.

    python benchmarks/capstone.py DATASET [--out capstone] [--only NAME ...] [--max-epochs N]
                                   [--workers N]

DATASET is made by `pneumoscope data prepare` and has train, validation and test films. Every row of `ROWS` becomes a
run and a bundle in its own folder below --out, and the figures are those of the bundle on the test films. Finished runs
are kept and an interrupted one is resumed, so the command can simply be repeated. A folder with a run of another
configuration is refused; choose another --out. Rows that were not requested, whose ImageNet weights cannot be fetched,
or whose bundle `export` refuses are in the table with the reason. The table goes to stdout;
capstone.json has it with every figure and its interval.

Training time is the sum of the epochs, validation included; decoding the films before the first epoch is not counted.
The time per film is that of `Engine.predict`, from the file's bytes on, decoding included; the bundles take turns.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import override

from engine import in_turn
from pneumoscope.dataset import Dataset, load_dataset
from pneumoscope.engine import Engine
from pneumoscope.errors import BundleError, PneumoscopeError, WeightsError
from pneumoscope.export import export
from pneumoscope.files import write_json
from pneumoscope.metrics import cross_entropy, summarise
from pneumoscope.parallel import available_cores
from pneumoscope.progress import Listener
from pneumoscope.report import prior_of, score
from pneumoscope.settings.training import ExportConfig, TrainConfig
from pneumoscope.training.config import load_recipe, make_config
from pneumoscope.training.fit import train
from pneumoscope.training.run_directory import code_commit, library_versions, load_card

TABLE_FILE, SECONDS_FILE = "capstone.json", "seconds.json"
SPLIT, GROUP = "test", "pneumonia"
TIMED_FILMS = 60


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run: a recipe, and the values that the run changes in it."""

    name: str
    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)


# A network whose ImageNet weights install as a package; those of the capstone's networks are downloaded from a hub.
LITE0 = {"arch": "tf_efficientnet_lite0"}
ROWS = (
    Row(name="pneumoscope-base", recipe="pneumoscope-base"),
    Row(name="pneumoscope-base-random", recipe="pneumoscope-base", changes={"weights": "none"}),
    Row(name="lite0-frozen", recipe="capstone-vgg19-frozen", changes=LITE0),
    Row(name="lite0-full", recipe="capstone-vgg19", changes=LITE0),
    Row(name="lite0-full-random", recipe="capstone-vgg19", changes=LITE0 | {"weights": "none"}),
    Row(name="capstone-vgg19-frozen", recipe="capstone-vgg19-frozen"),
    Row(name="capstone-vgg19", recipe="capstone-vgg19"),
    Row(name="capstone-resnet50-short", recipe="capstone-resnet50-short"),
    Row(name="capstone-resnet50", recipe="capstone-resnet50"),
)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A row's run, and the folder of its bundle. `seconds` is None if an interruption lost the time of an epoch."""

    config: TrainConfig
    run: Path
    bundle: Path
    epochs: int
    seconds: float | None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, default=Path("capstone"), help="folder for the runs and bundles")
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], help="run only these rows")
    parser.add_argument("--max-epochs", type=int, help="limit every row to this many epochs, for a quick try")
    parser.add_argument("--workers", type=int, default=0, help="processes that augment films; with a GPU, use several")
    arguments = parser.parse_args()
    if arguments.max_epochs is not None and arguments.max_epochs < 1:
        parser.error(f"--max-epochs {arguments.max_epochs}: expected 1 or more")
    try:
        dataset = load_dataset(arguments.dataset)
        table = redo(
            dataset, arguments.out, only=arguments.only, max_epochs=arguments.max_epochs, workers=arguments.workers
        )
    except PneumoscopeError as failure:
        raise SystemExit(str(failure)) from failure
    except KeyboardInterrupt as stop:
        raise SystemExit("interrupted; the same command resumes after the last finished epoch") from stop
    write_json(arguments.out / TABLE_FILE, table)
    show(table)


def redo(
    dataset: Dataset, out: Path, *, only: Sequence[str] | None, max_epochs: int | None, workers: int
) -> dict[str, Any]:
    """Run the rows, or those named in `only`, and return the table as JSON values."""
    films = dataset.split(SPLIT)  # a data set without a test split fails here, not after hours
    finished, reasons = dict[str, Finished](), dict[str, str]()
    for row in ROWS:
        if only is not None and row.name not in only:
            reasons[row.name] = "not requested"
            continue
        say(f"{row.name}:")
        try:
            finished[row.name] = finish(dataset, configuration(row, max_epochs, workers), out / row.name)
        except (WeightsError, BundleError) as failure:  # the other rows still run
            reasons[row.name] = str(failure)
    engines = {name: Engine.load(each.bundle) for name, each in finished.items()}
    milliseconds = latency(dataset, engines)
    rows = []
    for row in ROWS:
        figures: dict[str, Any] = {"not_run": reasons.get(row.name)}
        if row.name in finished:
            figures |= measure(dataset, finished[row.name], engines[row.name]) | {"film_ms": milliseconds[row.name]}
        rows.append(asdict(row) | figures)
    return {
        "schema_version": 1,
        "dataset": dataset.fingerprint,
        "split": SPLIT,
        "films": len(films),
        "patients": len({film.patient for film in films}),
        "max_epochs": max_epochs,
        "cores": available_cores(),
        "commit": code_commit(),
        "versions": library_versions(),
        "rows": rows,
    }


def configuration(row: Row, max_epochs: int | None, workers: int) -> TrainConfig:
    """The row's configuration, with at most `max_epochs` epochs."""
    config = make_config(load_recipe(row.recipe), row.changes | {"workers": workers})
    epochs = min(config.epochs, max_epochs or config.epochs)
    cut = {"epochs": epochs, "head_epochs": min(config.head_epochs, epochs - 1)}
    return make_config(config.model_dump(), cut)


class Clock(Listener):
    """Passes on training's messages, and keeps the seconds of every epoch in a file that outlasts interruptions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epochs: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
        self.since = 0.0

    @override
    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        self.since = time.perf_counter()

    @override
    def say(self, line: str) -> None:
        say(f"  {line}")
        if found := re.match(r"epoch (\d+)/", line):
            now = time.perf_counter()
            self.epochs[found[1]] = now - self.since
            self.since = now
            write_json(self.path, self.epochs)

    def total(self, epochs: int) -> float | None:
        """Seconds of the first `epochs` epochs, or None if an interruption lost one of them."""
        times = [self.epochs.get(str(number)) for number in range(1, epochs + 1)]
        return None if None in times else sum(filter(None, times))


def finish(dataset: Dataset, config: TrainConfig, folder: Path) -> Finished:
    """Train a row's network, or resume its training, and export its bundle, named like the row's folder."""
    run, bundle = folder / "run", folder / "bundle"
    clock = Clock(run / SECONDS_FILE)
    history = train(dataset, config, run, resume=run.is_dir(), listener=clock)
    if not bundle.is_dir():
        export(run, dataset, bundle, ExportConfig(name=folder.name))
    epochs = len(history)
    return Finished(config=config, run=run, bundle=bundle, epochs=epochs, seconds=clock.total(epochs))


def measure(dataset: Dataset, row: Finished, engine: Engine) -> dict[str, Any]:
    """A row's figures, except the time per film."""
    scored = score(engine, dataset, SPLIT)
    card, contract = load_card(row.run), engine.contract
    return {
        "config": row.config.model_dump(),
        "initial_weights": card.initial_weights,
        "epochs": row.epochs,
        "figures": summarise(
            scored.truth,
            scored.probabilities,
            [film.patient for film in scored.films],
            classes=contract.classes,
            groups=contract.groups,
            prior=prior_of(contract),
        ),
        "cross_entropy": cross_entropy(scored.truth, scored.probabilities),
        "training_seconds": row.seconds,
        "parameters": card.parameters,
        "trainable": card.trainable,
    }


def latency(dataset: Dataset, engines: dict[str, Engine]) -> dict[str, float]:
    """Median milliseconds per film of each engine, on test films taken evenly from the split."""
    films = dataset.split(SPLIT)
    data = [dataset.read(film) for film in films[:: max(1, len(films) // TIMED_FILMS)]]
    taken = in_turn({name: engine.predict for name, engine in engines.items()}, data)
    return {name: statistics.median(times) * 1e3 for name, times in zip(engines, taken, strict=True)}


def show(table: dict[str, Any]) -> None:
    """Print the table for readers."""
    what = f"{table['films']} test films of {table['patients']} patients, {table['cores']} cores"
    print(f"The capstone's table, redone: {what}; the loss is cross-entropy in nats")
    if table["max_epochs"] is not None:
        print(f"AT MOST {table['max_epochs']} EPOCHS PER ROW, for a quick try: these are not the table's figures")
    columns = f"{'epochs':>7}{'accuracy, 95 % interval':>26}{'loss':>8}{'normal or not':>15}"
    print(f"\n{'row':<26}{columns}{'training, min':>15}{'parameters':>13}{'film, ms':>10}")
    for row in table["rows"]:
        print(f"{row['name']:<26}{describe(row)}")


def describe(row: dict[str, Any]) -> str:
    """A row's figures, or the reason why it was not run."""
    if row["not_run"] is not None:
        return f"  not run: {row['not_run'].partition('; ')[0]}"  # the advice after it is in the JSON
    accuracy, seconds = row["figures"]["accuracy"], row["training_seconds"]
    interval = f"{accuracy['value']:.3f} ({accuracy['low']:.3f}–{accuracy['high']:.3f})"
    group = row["figures"].get(f"group_accuracy.{GROUP}")
    normal = "–" if group is None else f"{group['value']:.3f}"
    minutes = "–" if seconds is None else f"{seconds / 60:.1f}"
    return (
        f"{row['epochs']:>7}{interval:>26}{row['cross_entropy']:>8.3f}{normal:>15}"
        f"{minutes:>15}{row['parameters']:>13,}{row['film_ms']:>10.1f}"
    )


def say(line: str) -> None:
    """Print progress to stderr, apart from the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
