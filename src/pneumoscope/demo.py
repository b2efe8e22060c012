"""`pneumoscope demo`: classify drawings with the shipped bundle, then run every stage on phantoms."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.engine import Engine, ImageFile, Prediction
from pneumoscope.files import refuse_existing, write_text
from pneumoscope.phantom import FINDINGS, encode_jpeg, film, write_archive_folder
from pneumoscope.progress import SILENT, Listener
from pneumoscope.report import Report, evaluate
from pneumoscope.settings.training import ExportConfig
from pneumoscope.training.config import load_recipe, make_config

FILMS = 600
_MARKER = "made-by-pneumoscope-demo.txt"
_DRAWINGS = "drawings"
_STAGES = ("archive", "dataset", "run", "bundle", "report")


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The new bundle, its report on the test split, and its predictions for one test film per class."""

    bundle: Path
    report: Report
    predictions: list[Prediction]


def prepare_folder(out: Path, *, overwrite: bool) -> None:
    """Make the demo's folder. With `overwrite`, the results of an earlier demo in it are removed.

    Raises:
        UsageError: `out` exists and `overwrite` is false, or it was not made by a demo.
    """
    refuse_existing(out, overwrite=overwrite, holding=_MARKER)
    # Written first, so that an interrupted demo can be replaced, too.
    write_text(out / _MARKER, "Made by `pneumoscope demo`, which replaces it with --overwrite.\n")
    for part in (_DRAWINGS, *_STAGES):
        shutil.rmtree(out / part, ignore_errors=True)


def classify_drawings(out: Path, bundle: Path) -> list[Prediction]:
    """Draw a film of each class into the folder `drawings` and classify them with a bundle."""
    folder = out / _DRAWINGS
    folder.mkdir()
    for finding in FINDINGS:
        (folder / f"{finding}.jpeg").write_bytes(encode_jpeg(film(finding, patient=1)))
    films = sorted(folder.iterdir())
    return list(Engine.load(bundle).predict_many(ImageFile(name=str(path), read=path.read_bytes) for path in films))


def demo(out: Path, *, listener: Listener = SILENT) -> DemoResult:
    """Draw phantoms, prepare, train with recipe `quick`, export, evaluate, predict; call `prepare_folder` first."""
    from pneumoscope.export import export  # torch takes seconds to load
    from pneumoscope.training.fit import train

    archive, data, run, bundle, report = (out / part for part in _STAGES)
    listener.say(f"1/5 drawing {FILMS} phantoms")
    write_archive_folder(archive, count=FILMS, overwrite=False)
    listener.say("2/5 preparing the data set")
    prepare([archive], data, PrepareConfig(), listener=listener)
    dataset = load_dataset(data)
    listener.say("3/5 training with recipe quick")
    train(dataset, make_config(load_recipe("quick"), {}), run, listener=listener)
    listener.say("4/5 exporting and checking against PyTorch")
    export(run, dataset, bundle, ExportConfig(name="phantom-demo"))
    listener.say("5/5 evaluating on the test split")
    evaluation = evaluate(bundle, dataset, "test", report, listener=listener)
    engine = Engine.load(bundle)
    one_of_each = {each.label: each for each in dataset.split("test")}.values()
    films = (ImageFile(name=str(data / each.path), read=partial(dataset.read, each)) for each in one_of_each)
    return DemoResult(bundle=bundle, report=evaluation, predictions=list(engine.predict_many(films)))
