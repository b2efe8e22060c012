"""`pneumoscope demo | train | cross-validate | export | verify | evaluate | predict | explain`."""

import sys
from typing import TYPE_CHECKING

import typer

from pneumoscope.cli.bundle_choice import BundleCommand, Choice, EvaluateCommand, choose_bundle, refuse_bundles
from pneumoscope.cli.command import command
from pneumoscope.cli.train import cross_validate_command, dataset_path, train_command
from pneumoscope.errors import UsageError
from pneumoscope.models import shipped_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pneumoscope.engine import Prediction
    from pneumoscope.settings.inference import Demo, Evaluate, Explain, Predict, Verify
    from pneumoscope.settings.training import Export


_PROGRESS_FROM = 50  # films; fewer are done before a progress bar would help


def register(app: typer.Typer) -> None:
    """Add the commands to the command tree, in the order in which they are used."""
    command(app, "demo", "inference.Demo")(demo_command)
    command(app, "train", "training.Train")(train_command)
    command(app, "cross-validate", "training.CrossValidate")(cross_validate_command)
    command(app, "export", "training.Export")(export_command)
    command(app, "verify", "inference.Verify", cls=BundleCommand)(verify_command)
    command(app, "evaluate", "inference.Evaluate", cls=EvaluateCommand)(evaluate_command)
    command(app, "predict", "inference.Predict")(predict_command)
    command(app, "explain", "inference.Explain")(explain_command)


def demo_command(settings: "Demo") -> None:
    """Try everything on drawn films, without any data.

    First the shipped bundle classifies three of them; then a model is trained, exported and evaluated on more.
    """
    from pneumoscope.cli.show import make_listener, show_report
    from pneumoscope.demo import classify_drawings, demo, prepare_folder

    out, shipped = settings.out, Choice(folder=shipped_bundle(), shipped=True)
    prepare_folder(out, overwrite=settings.overwrite)
    _show_drawings(shipped, classify_drawings(out, shipped.folder))
    result = demo(out, listener=make_listener(quiet=settings.quiet))
    show_report(result.report)
    _show_drawings(Choice(folder=result.bundle, shipped=False), result.predictions)
    for part, what in (
        ("drawings", "the films of the first table; try `pneumoscope predict` on them"),
        ("archive", "the synthetic films (phantoms)"),
        ("dataset/manifest.csv", "one row per film"),
        ("run/curves.png", "learning curves"),
        ("bundle", "the model, with its contract"),
        ("report/report.html", "the evaluation on the test split, as a page; report.json has the same figures"),
    ):
        typer.echo(f"{out / part}: {what}")


def _show_drawings(choice: Choice, predictions: "list[Prediction]") -> None:
    """Print predictions for drawings, with a note that they have no meaning."""
    from pneumoscope.cli.show import show_predictions
    from pneumoscope.contract import load_contract

    typer.echo(f"model: {choice.describe(load_contract(choice.folder))}")
    for _ in show_predictions(predictions, "table"):  # it prints while it is iterated
        pass
    typer.echo("These are drawings, not radiographs: the decisions only show that everything runs.")


def export_command(settings: "Export") -> None:
    """Export a run as a bundle.

    A bundle holds the ONNX model, its contract and golden cases. Export fails unless the ONNX model gives the same
    outputs as PyTorch.
    """
    from pneumoscope.cli.show import make_listener, show_exported
    from pneumoscope.contract import CONTRACT_FILE
    from pneumoscope.dataset import load_dataset
    from pneumoscope.files import refuse_existing
    from pneumoscope.training.run_directory import check_finished, load_card

    refuse_existing(settings.out, overwrite=settings.overwrite, holding=CONTRACT_FILE)
    check_finished(settings.run)
    dataset = load_dataset(dataset_path(load_card(settings.run).data, settings.data))
    from pneumoscope.export import export  # after the checks: torch takes seconds to load

    listener = make_listener(quiet=settings.quiet)
    exported = export(
        settings.run, dataset, settings.out, settings.config, overwrite=settings.overwrite, listener=listener
    )
    show_exported(exported, settings.out)
    typer.echo(f"next: pneumoscope evaluate {dataset.root} --bundle {settings.out} --out REPORT", err=True)


def verify_command(settings: "Verify") -> None:
    """Check a bundle's files and golden cases.

    Its files must have the hashes in its contract, and its golden cases must give the same results as at export.
    """
    from pneumoscope.engine import Engine, verify

    choice = choose_bundle(settings.bundle)
    engine = Engine.load(choice.folder)
    result = verify(choice.folder, engine=engine)
    typer.echo(f"{choice.describe(engine.contract)}: {result.cases} golden cases reproduced.")
    if result.left_out:
        typer.echo(f"left out, as they need pneumoscope[dicom]: {', '.join(result.left_out)}", err=True)


def evaluate_command(settings: "Evaluate") -> None:
    """Report how well a bundle does on a data set.

    With --unlabelled, report instead whether films without labels look like the bundle's own. Films that the bundle
    was trained on are an error, except in the splits train, val and stress of its own data set. Figures count every
    film that reaches the model by its most probable class, answered or not; how many were answered, abstained on
    and rejected is reported separately. report.html is one file that needs no internet connection.
    """
    from pneumoscope.cli.show import make_listener, show_report
    from pneumoscope.contract import load_contract
    from pneumoscope.dataset import load_dataset
    from pneumoscope.report import CARD_FILE, PAGE_FILE, PREDICTIONS_FILE, REPORT_FILE, Options, evaluate

    if settings.dataset is None:
        _evaluate_unlabelled(settings)
        return
    refuse_bundles([settings.dataset])
    out, choice, data = settings.out, choose_bundle(settings.bundle), load_dataset(settings.dataset)
    options = Options(
        coverage=settings.coverage,
        compare=settings.compare,
        external=settings.external,
        shortcuts=settings.shortcuts,
    )
    listener, split = make_listener(quiet=settings.quiet), settings.split or "test"
    report = evaluate(choice.folder, data, split, out, options, overwrite=settings.overwrite, listener=listener)
    typer.echo(f"model: {choice.describe(load_contract(choice.folder))}")
    show_report(report)
    written = (PAGE_FILE, REPORT_FILE, CARD_FILE, PREDICTIONS_FILE)
    typer.echo(f"written: {', '.join(str(out / name) for name in written)}")


def _evaluate_unlabelled(settings: "Evaluate") -> None:
    """`evaluate --unlabelled`."""
    from pneumoscope.cli.image_files import find_image_files, lazy_image_file
    from pneumoscope.cli.show import make_listener, show_drift
    from pneumoscope.contract import load_contract
    from pneumoscope.imaging import DEFAULT_LIMITS
    from pneumoscope.report import DRIFT_FILE, PREDICTIONS_FILE, measure_drift
    from pneumoscope.report.drift import PAGE_FILE

    assert settings.unlabelled is not None
    folder, out = settings.unlabelled, settings.out
    choice, listener = choose_bundle(settings.bundle), make_listener(quiet=settings.quiet)
    films = [lazy_image_file(path, DEFAULT_LIMITS) for path in find_image_files([folder])]
    drift = measure_drift(choice.folder, films, folder, out, overwrite=settings.overwrite, listener=listener)
    typer.echo(f"model: {choice.describe(load_contract(choice.folder))}")
    show_drift(drift)
    typer.echo(f"written: {', '.join(str(out / name) for name in (PAGE_FILE, DRIFT_FILE, PREDICTIONS_FILE))}")


def predict_command(settings: "Predict") -> None:
    """Classify image files.

    Each is answered, abstained on, or rejected with a reason. Rejected files do not stop the command; if there were
    any, it exits with code 1. For research use only; not a medical device.
    """
    from pneumoscope.cli.image_files import Pictures, draw_heatmaps, find_image_files, lazy_image_file
    from pneumoscope.cli.show import make_listener, show_predictions
    from pneumoscope.contract import DISCLAIMER
    from pneumoscope.engine import Engine
    from pneumoscope.heatmap import LONGEST_SIDE
    from pneumoscope.imaging import Limits

    images, form = list(settings.images), settings.form
    refuse_bundles(images)
    choice, limits = choose_bundle(settings.bundle), Limits(max_pixels=settings.max_pixels)
    engine = Engine.load(
        choice.folder, limits=limits, provider=settings.provider, fix_orientation=settings.fix_orientation
    )
    if settings.heatmap is not None and engine.contract.activation_map is None:
        raise UsageError(
            f"{engine.contract.provenance.arch} has no exact activation map; "
            "use `pneumoscope explain RUN IMAGE --out DIR`."
        )
    rule = engine.rule(level=settings.level, coverage=settings.coverage, operating_point=settings.operating_point)
    # Checked before the first image is read, as is all that can be wrong with the options.
    pictures = None if settings.heatmap is None else Pictures(settings.heatmap, images)
    if form == "table":
        typer.echo(f"model: {choice.describe(engine.contract)}", err=True)
    paths = find_image_files(images)
    predictions: Iterable[Prediction] = engine.predict_many(
        (lazy_image_file(path, limits) for path in paths),
        rule=rule,
        picture_side=None if pictures is None else LONGEST_SIDE,
    )
    if pictures is not None:
        predictions = draw_heatmaps(predictions, paths, pictures)
    # On a terminal the table itself shows the progress, and a bar would be drawn into it.
    listener = make_listener(quiet=settings.quiet or (form == "table" and sys.stdout.isatty()))
    if len(paths) >= _PROGRESS_FROM:
        predictions = listener.track("classifying", predictions, len(paths))
    statuses = {prediction.status for prediction in show_predictions(predictions, form)}
    if form == "table":
        typer.echo(DISCLAIMER, err=True)
    if "rejected" in statuses or (pictures is not None and pictures.failed):
        raise typer.Exit(1)


def explain_command(settings: "Explain") -> None:
    """Draw where a run's network looked (Grad-CAM).

    One JSON line per image is printed. This is for networks like vgg19_bn, whose bundle has no exact map; for
    others, use `predict --heatmap`. Rejected files do not stop the command; if there were any, it exits with code 1.
    For research use only; not a medical device.
    """
    from pneumoscope.cli.image_files import Pictures, explain_films
    from pneumoscope.imaging import Limits
    from pneumoscope.training.run_directory import check_finished

    check_finished(settings.run)
    images, limits = list(settings.images), Limits(max_pixels=settings.max_pixels)
    pictures = Pictures(settings.out, images)
    from pneumoscope.explain import Explainer  # after the checks: torch takes seconds to load

    if explain_films(Explainer(settings.run, limits=limits), images, pictures, settings.label):
        raise typer.Exit(1)
