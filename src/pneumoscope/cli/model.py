"""`pneumoscope demo | train | cross-validate | export | verify | evaluate | predict | explain`."""

import sys
from enum import StrEnum
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope.cli.bundle import Bundle, BundleCommand, Choice, EvaluateCommand, choose_bundle, refuse_bundles
from pneumoscope.cli.data import Overwrite, Quiet
from pneumoscope.cli.train import Precision, cross_validate_command, data_of, train_command
from pneumoscope.errors import UsageError
from pneumoscope.models import shipped_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pneumoscope.engine import Prediction


class Form(StrEnum):
    """How predictions are printed."""

    table = "table"
    json = "json"
    csv = "csv"


class Depth(StrEnum):
    """What is answered with."""

    of_class = "class"
    of_group = "group"


def register(app: typer.Typer) -> None:
    """Add the commands to the command tree, in the order of the flow."""
    app.command("demo")(demo_command)
    app.command("train")(train_command)
    app.command("cross-validate")(cross_validate_command)
    app.command("export")(export_command)
    app.command("verify", cls=BundleCommand)(verify_command)
    app.command("evaluate", cls=EvaluateCommand)(evaluate_command)
    app.command("predict")(predict_command)
    app.command("explain")(explain_command)


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    *,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Classify drawings with the shipped bundle, then run the whole flow on more of them: no data needed."""
    from pneumoscope.cli.show import make_listener, show_report
    from pneumoscope.demo import demo, look, make_room

    shipped = Choice(folder=shipped_bundle(), shipped=True)
    make_room(out, overwrite=overwrite)
    _show_drawings(shipped, look(out, shipped.folder))
    result = demo(out, listener=make_listener(quiet=quiet))
    show_report(result.report)
    _show_drawings(Choice(folder=result.bundle, shipped=False), result.predictions)
    for part, what in (
        ("drawings", "the films of the first table; try `pneumoscope predict` on them"),
        ("archive", "the phantoms"),
        ("dataset/manifest.csv", "one row a film"),
        ("run/curves.png", "learning curves"),
        ("bundle", "the model, with its contract"),
        ("report/report.json", "the test figures"),
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


def export_command(
    run: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A finished run directory.")],
    out: Annotated[Path, typer.Option(help="The bundle to make.")],
    *,
    data: Annotated[Path | None, typer.Option(exists=True, help="The run's data set, if it has moved since.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name, by default the run's.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="int8 is smaller and several times faster; refused unless it answers like fp32.")
    ] = Precision.fp32,
    ages: Annotated[
        str | None, typer.Option(help="Patients' ages in whole years, e.g. 18-90; known for the published archives.")
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="evidence.npz of cross-validate: sets temperature and threshold."
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a bundle: contract, ONNX model, golden cases. Refused unless it equals PyTorch."""
    from pneumoscope.cli.show import make_listener, show_exported
    from pneumoscope.contract import CONTRACT_FILE
    from pneumoscope.dataset import load_dataset
    from pneumoscope.files import refuse_existing
    from pneumoscope.training.run import check_finished, load_card

    refuse_existing(out, overwrite=overwrite, holding=CONTRACT_FILE)
    check_finished(run)
    dataset = load_dataset(data_of(load_card(run).data, data))
    from pneumoscope.export import export  # after the checks: torch takes seconds to load

    listener = make_listener(quiet=quiet)
    done = export(
        run,
        dataset,
        out,
        name=name,
        precision=precision.value,
        ages=_ages(ages),
        evidence=evidence,
        overwrite=overwrite,
        listener=listener,
    )
    show_exported(done, out)
    typer.echo(f"next: pneumoscope evaluate {dataset.root} --bundle {out} --out REPORT", err=True)


def verify_command(bundle: Bundle = None) -> None:
    """Check a bundle's files and run its golden cases from the bytes on."""
    from pneumoscope.engine import Engine, verify

    choice = choose_bundle(bundle)
    engine = Engine.load(choice.folder)
    found = verify(choice.folder, engine=engine)
    typer.echo(f"{choice.named(engine.contract)}: {found.cases} golden cases reproduced.")
    if found.left_out:
        typer.echo(f"left out for want of pneumoscope[dicom]: {', '.join(found.left_out)}", err=True)


def evaluate_command(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", exists=True, help="A data set made by `data prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json and predictions.csv.")],
    *,
    bundle: Bundle = None,
    split: Annotated[str, typer.Option(help="train, val, test or stress.")] = "test",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run a split through the bundle and report how it does."""
    from pneumoscope.cli.show import make_listener, show_report
    from pneumoscope.dataset import load_dataset
    from pneumoscope.engine import Engine
    from pneumoscope.report import evaluate

    refuse_bundles([dataset])
    choice, data = choose_bundle(bundle), load_dataset(dataset)
    engine = Engine.load(choice.folder, limits=data.limits)
    report = evaluate(engine, data, split, out, overwrite=overwrite, listener=make_listener(quiet=quiet))
    typer.echo(f"model: {choice.named(engine.contract)}")
    show_report(report)
    typer.echo(f"written: {out / 'report.json'}, {out / 'predictions.csv'}")


def predict_command(
    images: Annotated[list[Path], typer.Argument(exists=True, help="Image files, or folders of them.")],
    *,
    bundle: Bundle = None,
    form: Annotated[Form, typer.Option("--format", help="How to print.")] = Form.table,
    heatmap: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for pictures of where the model looked, one a film.")
    ] = None,
    level: Annotated[
        Depth, typer.Option(help="group answers with a group's name, such as pneumonia, where a class is in one.")
    ] = Depth.of_class,
    provider: Annotated[str, typer.Option(help="ONNX Runtime's execution provider: cpu, cuda, …")] = "cpu",
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse images with more pixels.")] = 100_000_000,
    quiet: Quiet = False,
) -> None:
    """Classify films. Goes on past bad files; exit code 1 if there were any.

    JSON is one line an image. For research use only; not a medical device.
    """
    from pneumoscope.cli.films import Pictures, count_films, draw_heatmaps, list_films, refuse_none
    from pneumoscope.cli.show import following, make_listener, show_predictions
    from pneumoscope.contract import DISCLAIMER
    from pneumoscope.engine import Engine
    from pneumoscope.imaging import Limits

    refuse_bundles(images)
    choice, limits = choose_bundle(bundle), Limits(max_pixels=max_pixels)
    engine = Engine.load(choice.folder, limits=limits, provider=provider)
    if heatmap is not None and engine.contract.activation_map is None:
        raise UsageError(
            f"{engine.contract.provenance.arch} has no exact activation map; "
            "use `pneumoscope explain RUN IMAGE --out DIR`."
        )
    pictures = None if heatmap is None else Pictures(heatmap, images)
    if form is Form.table:
        typer.echo(f"model: {choice.named(engine.contract)}", err=True)
    films, again = tee(list_films(images, limits))
    predictions: Iterable[Prediction] = engine.predict_many((film for _, film in films), level=level.value)
    if pictures is not None:
        predictions = draw_heatmaps(predictions, again, pictures, limits)
    else:
        del again  # a second reader left behind would keep every film's name
    listener = make_listener(quiet=quiet or (form is Form.table and sys.stdout.isatty()))
    predictions = following(predictions, count_films(images), listener)
    statuses = {prediction.status for prediction in show_predictions(predictions, form)}
    if not statuses:
        refuse_none(images)
    if form is Form.table:
        typer.echo(DISCLAIMER, err=True)
    if "rejected" in statuses or (pictures is not None and pictures.failed):
        raise typer.Exit(1)


def explain_command(
    run: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A finished run directory.")],
    images: Annotated[list[Path], typer.Argument(exists=True, help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the pictures, one a film.")],
    *,
    label: Annotated[str | None, typer.Option("--class", help="Explain this class, not the most probable.")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse images with more pixels.")] = 100_000_000,
) -> None:
    """Draw where a run's network looked, by Grad-CAM with PyTorch; prints one JSON line an image.

    For networks like vgg19_bn, whose bundle has no exact map (others: predict --heatmap). Goes on past
    bad files; exit code 1 if there were any. For research use only; not a medical device.
    """
    from pneumoscope.cli.films import Pictures, explain_films, refuse_none
    from pneumoscope.imaging import Limits
    from pneumoscope.training.run import check_finished

    check_finished(run)
    limits, pictures = Limits(max_pixels=max_pixels), Pictures(out, images)
    from pneumoscope.explain import Explainer  # after the checks: torch takes seconds to load

    done, refused = explain_films(Explainer(run, limits=limits), images, pictures, label)
    if not done + refused:
        refuse_none(images)
    if refused:
        raise typer.Exit(1)


def _ages(option: str | None) -> tuple[float, float] | None:
    if option is None:
        return None
    youngest, dash, oldest = option.partition("-")
    if not (dash and youngest.isdecimal() and oldest.isdecimal() and int(youngest) <= int(oldest)):
        raise UsageError(f"--ages {option!r} is not of the form YOUNGEST-OLDEST in whole years, such as 18-90.")
    return float(youngest), float(oldest)
