"""`pneumoscope demo | train | cross-validate | export | verify | evaluate | predict | explain`."""

import sys
from typing import TYPE_CHECKING

import typer

from pneumoscope.cli.bundle_choice import BundleCommand, Choice, EvaluateCommand, choose_bundle, refuse_bundles
from pneumoscope.cli.command import command
from pneumoscope.cli.train import cross_validate_command, data_of, train_command
from pneumoscope.errors import UsageError
from pneumoscope.models import shipped_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pneumoscope.engine import Prediction
    from pneumoscope.settings.inference import Demo, Evaluate, Explain, Predict, Verify
    from pneumoscope.settings.training import Export


_LONG = 50  # films; fewer are done before anyone asks


def register(app: typer.Typer) -> None:
    """Add the commands to the command tree, in the order of the flow."""
    command(app, "demo", "inference.Demo")(demo_command)
    command(app, "train", "training.Train")(train_command)
    command(app, "cross-validate", "training.CrossValidate")(cross_validate_command)
    command(app, "export", "training.Export")(export_command)
    command(app, "verify", "inference.Verify", cls=BundleCommand)(verify_command)
    command(app, "evaluate", "inference.Evaluate", cls=EvaluateCommand)(evaluate_command)
    command(app, "predict", "inference.Predict")(predict_command)
    command(app, "explain", "inference.Explain")(explain_command)


def demo_command(settings: "Demo") -> None:
    """Classify drawings with the shipped bundle, then run the whole flow on more of them: no data needed."""
    from pneumoscope.cli.show import make_listener, show_report
    from pneumoscope.demo import demo, look, make_room

    out, shipped = settings.out, Choice(folder=shipped_bundle(), shipped=True)
    make_room(out, overwrite=settings.overwrite)
    _show_drawings(shipped, look(out, shipped.folder))
    result = demo(out, listener=make_listener(quiet=settings.quiet))
    show_report(result.report)
    _show_drawings(Choice(folder=result.bundle, shipped=False), result.predictions)
    for part, what in (
        ("drawings", "the films of the first table; try `pneumoscope predict` on them"),
        ("archive", "the phantoms"),
        ("dataset/manifest.csv", "one row a film"),
        ("run/curves.png", "learning curves"),
        ("bundle", "the model, with its contract"),
        ("report/report.html", "the test figures, as a page; report.json beside it"),
    ):
        typer.echo(f"{out / part}: {what}")


def _show_drawings(choice: Choice, predictions: "list[Prediction]") -> None:
    """What a model says of drawings, with the words that it means nothing."""
    from pneumoscope.cli.show import show_predictions
    from pneumoscope.contract import load_contract

    typer.echo(f"model: {choice.named(load_contract(choice.folder))}")
    for _ in show_predictions(predictions, "table"):
        pass
    typer.echo("These are drawings, not radiographs: the answers show that everything runs, and say nothing more.")


def export_command(settings: "Export") -> None:
    """Write a bundle: contract, ONNX model, golden cases. Refused unless it equals PyTorch."""
    from pneumoscope.cli.show import make_listener, show_exported
    from pneumoscope.contract import CONTRACT_FILE
    from pneumoscope.dataset import load_dataset
    from pneumoscope.files import refuse_existing
    from pneumoscope.training.run_directory import check_finished, load_card

    refuse_existing(settings.out, overwrite=settings.overwrite, holding=CONTRACT_FILE)
    check_finished(settings.run)
    dataset = load_dataset(data_of(load_card(settings.run).data, settings.data))
    from pneumoscope.export import export  # after the checks: torch takes seconds to load

    listener = make_listener(quiet=settings.quiet)
    done = export(settings.run, dataset, settings.out, settings.config, overwrite=settings.overwrite, listener=listener)
    show_exported(done, settings.out)
    typer.echo(f"next: pneumoscope evaluate {dataset.root} --bundle {settings.out} --out REPORT", err=True)


def verify_command(settings: "Verify") -> None:
    """Check a bundle's files and run its golden cases from the bytes on."""
    from pneumoscope.engine import Engine, verify

    choice = choose_bundle(settings.bundle)
    engine = Engine.load(choice.folder)
    found = verify(choice.folder, engine=engine)
    typer.echo(f"{choice.named(engine.contract)}: {found.cases} golden cases reproduced.")
    if found.left_out:
        typer.echo(f"left out for want of pneumoscope[dicom]: {', '.join(found.left_out)}", err=True)


def evaluate_command(settings: "Evaluate") -> None:
    """Report on how a bundle does on a split, or whether films without labels look like its own.

    Films that the bundle was trained on are refused. All decodable films count, by their most probable class; what
    was answered, abstained on and rejected stands beside. report.html is one file that needs no network.
    """
    from pneumoscope.cli.show import make_listener, show_report
    from pneumoscope.contract import load_contract
    from pneumoscope.dataset import load_dataset
    from pneumoscope.report import CARD_FILE, PAGE_FILE, PREDICTIONS_FILE, REPORT_FILE, Options, evaluate

    if settings.dataset is None:
        _watch(settings)
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
    typer.echo(f"model: {choice.named(load_contract(choice.folder))}")
    show_report(report)
    written = (PAGE_FILE, REPORT_FILE, CARD_FILE, PREDICTIONS_FILE)
    typer.echo(f"written: {', '.join(str(out / name) for name in written)}")


def _watch(settings: "Evaluate") -> None:
    """Films without labels."""
    from pneumoscope.cli.image_files import encoded, find_films
    from pneumoscope.cli.show import make_listener, show_drift
    from pneumoscope.contract import load_contract
    from pneumoscope.imaging import DEFAULT_LIMITS
    from pneumoscope.report import DRIFT_FILE, PREDICTIONS_FILE, measure_drift
    from pneumoscope.report.drift import PAGE_FILE

    assert settings.unlabelled is not None
    folder, out = settings.unlabelled, settings.out
    choice, listener = choose_bundle(settings.bundle), make_listener(quiet=settings.quiet)
    films = [encoded(path, DEFAULT_LIMITS) for path in find_films([folder])]
    drift = measure_drift(choice.folder, films, folder, out, overwrite=settings.overwrite, listener=listener)
    typer.echo(f"model: {choice.named(load_contract(choice.folder))}")
    show_drift(drift)
    typer.echo(f"written: {', '.join(str(out / name) for name in (PAGE_FILE, DRIFT_FILE, PREDICTIONS_FILE))}")


def predict_command(settings: "Predict") -> None:
    """Classify films. Goes on past bad files; exit code 1 if there were any.

    JSON is one line an image. For research use only; not a medical device.
    """
    from pneumoscope.cli.image_files import Pictures, draw_heatmaps, encoded, find_films
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
    pictures = None if settings.heatmap is None else Pictures(settings.heatmap, images)
    if form == "table":
        typer.echo(f"model: {choice.named(engine.contract)}", err=True)
    paths = find_films(images)
    predictions: Iterable[Prediction] = engine.predict_many(
        (encoded(path, limits) for path in paths),
        rule=rule,
        picture_side=None if pictures is None else LONGEST_SIDE,
    )
    if pictures is not None:
        predictions = draw_heatmaps(predictions, paths, pictures)
    listener = make_listener(quiet=settings.quiet or (form == "table" and sys.stdout.isatty()))
    if len(paths) >= _LONG:
        predictions = listener.track("classifying", predictions, len(paths))
    statuses = {prediction.status for prediction in show_predictions(predictions, form)}
    if form == "table":
        typer.echo(DISCLAIMER, err=True)
    if "rejected" in statuses or (pictures is not None and pictures.failed):
        raise typer.Exit(1)


def explain_command(settings: "Explain") -> None:
    """Draw where a run's network looked, by Grad-CAM with PyTorch; prints one JSON line an image.

    For networks like vgg19_bn, whose bundle has no exact map (others: predict --heatmap). Goes on past
    bad files; exit code 1 if there were any. For research use only; not a medical device.
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
