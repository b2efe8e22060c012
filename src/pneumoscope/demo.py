"""The whole flow on phantoms, each stage as the command line runs it."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.engine import Encoded, Engine, Prediction
from pneumoscope.files import refuse_existing, write_text
from pneumoscope.phantom import write_archive_folder
from pneumoscope.progress import SILENT, Listener
from pneumoscope.report import evaluate
from pneumoscope.training.config import load_recipe, make_config

FILMS = 600
_MARK = "made-by-pneumoscope-demo.txt"
_PARTS = ("archive", "dataset", "run", "bundle", "report")


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Where everything lies, the test report, and the predictions for a few test films."""

    folder: Path
    report: dict[str, Any]
    predictions: list[Prediction]


def demo(out: Path, *, overwrite: bool = False, listener: Listener = SILENT) -> DemoResult:
    """Draw phantoms, prepare, train with recipe `quick`, export, evaluate, predict.

    Each part appears whole or not at all. With `overwrite`, the parts of an earlier demo are replaced.

    Raises:
        UsageError: `out` exists and `overwrite` is false, or it was not made by a demo.
    """
    refuse_existing(out, overwrite=overwrite, holding=_MARK)
    from pneumoscope.export import export  # after the check: torch takes seconds to load
    from pneumoscope.training.fit import train

    write_text(out / _MARK, "Made by `pneumoscope demo`, which replaces it with --overwrite.\n")
    for part in _PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
    archive, data, run, bundle, report = (out / part for part in _PARTS)
    listener.say(f"1/5 drawing {FILMS} phantoms")
    write_archive_folder(archive, count=FILMS, overwrite=False)
    listener.say("2/5 preparing the data set")
    prepare([archive], data, PrepareConfig(), listener=listener)
    dataset = load_dataset(data)
    listener.say("3/5 training with recipe quick")
    train(dataset, make_config(load_recipe("quick"), {}), run, listener=listener)
    listener.say("4/5 exporting and checking against PyTorch")
    export(run, dataset, bundle, name="phantom-demo")
    listener.say("5/5 evaluating on the test split")
    engine = Engine.load(bundle)
    figures = evaluate(engine, dataset, "test", report, listener=listener)
    films = {film.label: film for film in dataset.split("test")}.values()
    chosen = [Encoded(name=str(data / film.path), read=partial(dataset.read, film)) for film in films]
    return DemoResult(folder=out, report=figures, predictions=list(engine.predict_many(chosen)))
