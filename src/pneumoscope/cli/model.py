"""`pneumoscope demo | train | export | verify | evaluate | predict | explain`."""

import sys
from enum import StrEnum
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope.cli.data import Overwrite, Quiet
from pneumoscope.errors import UsageError

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


class Precision(StrEnum):
    """Of the exported model's arithmetic."""

    fp32 = "fp32"
    int8 = "int8"


Bundle = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A bundle made by `export`.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command tree, in the order of the flow."""
    app.command("demo")(demo_command)
    app.command("train")(train_command)
    app.command("export")(export_command)
    app.command("verify")(verify_command)
    app.command("evaluate")(evaluate_command)
    app.command("predict")(predict_command)
    app.command("explain")(explain_command)


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    *,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole flow on synthetic radiographs: no data needed."""
    from pneumoscope.cli.show import make_listener, show_predictions, show_report
    from pneumoscope.demo import demo

    result = demo(out, overwrite=overwrite, listener=make_listener(quiet=quiet))
    show_report(result.report)
    for _ in show_predictions(result.predictions, "table"):
        pass
    for part, what in (
        ("archive", "the phantoms"),
        ("dataset/manifest.csv", "one row a film"),
        ("run/curves.png", "learning curves"),
        ("bundle", "the model, with its contract"),
        ("report/report.json", "the test figures"),
    ):
        typer.echo(f"{result.folder / part}: {what}")


def train_command(
    out: Annotated[Path, typer.Option(help="The run directory to make, or with --resume to go on with.")],
    *,
    data: Annotated[Path | None, typer.Option(exists=True, help="A data set made by `data prepare`.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name (above) or a TOML file; by default quick.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last completed epoch of --out.")] = False,
    arch: Annotated[str | None, typer.Option(help="A timm network by name.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the square input, in pixels.")] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, none, or a file of weights.")] = None,
    freeze: Annotated[bool | None, typer.Option("--freeze/--no-freeze", help="Train the classifier only.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the train films.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Films in one step.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Steps whose gradients are added up.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, the peak if scheduled.")] = None,
    momentum: Annotated[float | None, typer.Option(help="SGD's momentum.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, cosine or onecycle.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16 (mixed).")] = None,
    class_weights: Annotated[str | None, typer.Option(help="none, sqrt or balanced.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Label smoothing, 0 to 1.")] = None,
    augment: Annotated[str | None, typer.Option(help="none, light or robust.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the weights' moving average.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better macro-F1.")] = None,
    keep: Annotated[str | None, typer.Option(help="last or best (by validation macro-F1).")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that augment.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded images, by default inside --data.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a network. Options change single values of the recipe.

    Recipes: quick (a small network, for trying the flow); capstone-vgg19-frozen, capstone-vgg19,
    capstone-resnet50-short, capstone-resnet50 (the 2020 capstone's four).
    """
    from pneumoscope.cli.show import make_listener
    from pneumoscope.dataset import load_dataset
    from pneumoscope.training.config import load_recipe, make_config
    from pneumoscope.training.run import CARD_FILE, load_card, load_config

    changes = {
        "arch": arch,
        "size": size,
        "weights": weights,
        "freeze": freeze,
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "precision": precision,
        "class_weights": class_weights,
        "label_smoothing": label_smoothing,
        "augment": augment,
        "ema": ema,
        "patience": patience,
        "keep": keep,
        "workers": workers,
        "seed": seed,
    }
    if resume:
        values = load_recipe(recipe) if recipe else load_config(out).model_dump()
        data = _data_of(load_card(out).data, data)
    elif data is None:
        raise UsageError("--data is missing; give a data set made by `pneumoscope data prepare`.")
    else:
        values = load_recipe(recipe or "quick")
    config = make_config(values, changes)
    dataset = load_dataset(data)
    listener = make_listener(quiet=quiet)
    listener.say("loading PyTorch")
    try:
        from pneumoscope.training.fit import train  # after the checks: it takes seconds

        history = train(dataset, config, out, resume=resume, cache=cache, listener=listener)
    except KeyboardInterrupt:
        begun = (out / CARD_FILE).is_file()
        hint = f"go on with: pneumoscope train --out {out} --resume" if begun else "nothing was made"
        typer.echo(f"interrupted; {hint}", err=True)
        raise
    if not quiet:
        typer.echo(
            f"{len(history)} of {config.epochs} epochs done in {out}; next: pneumoscope export {out} --out BUNDLE",
            err=True,
        )


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
    dataset = load_dataset(_data_of(load_card(run).data, data))
    from pneumoscope.export import export  # after the checks: torch takes seconds to load

    listener = make_listener(quiet=quiet)
    done = export(
        run,
        dataset,
        out,
        name=name,
        precision=precision.value,
        ages=_ages(ages),
        overwrite=overwrite,
        listener=listener,
    )
    show_exported(done, out)
    typer.echo(f"next: pneumoscope evaluate {out} --data {dataset.root} --out REPORT", err=True)


def verify_command(bundle: Bundle) -> None:
    """Check a bundle's files and run its golden cases from the bytes on."""
    from pneumoscope.engine import verify

    found = verify(bundle)
    typer.echo(f"{bundle}: {found.cases} golden cases reproduced.")
    if found.left_out:
        typer.echo(f"left out for want of pneumoscope[dicom]: {', '.join(found.left_out)}", err=True)


def evaluate_command(
    bundle: Bundle,
    data: Annotated[Path, typer.Option(exists=True, help="A data set made by `data prepare`.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json and predictions.csv.")],
    *,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run a split through the bundle and report how it does."""
    from pneumoscope.cli.show import make_listener, show_report
    from pneumoscope.dataset import load_dataset
    from pneumoscope.engine import Engine
    from pneumoscope.report import evaluate

    dataset = load_dataset(data)
    engine = Engine.load(bundle, limits=dataset.limits)
    report = evaluate(engine, dataset, split, out, overwrite=overwrite, listener=make_listener(quiet=quiet))
    show_report(report)
    typer.echo(f"written: {out / 'report.json'}, {out / 'predictions.csv'}")


def predict_command(
    bundle: Bundle,
    images: Annotated[list[Path], typer.Argument(exists=True, help="Image files, or folders of them.")],
    *,
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
    from pneumoscope.cli.films import Pictures, count_films, draw_heatmaps, list_films
    from pneumoscope.cli.show import following, make_listener, show_predictions
    from pneumoscope.contract import DISCLAIMER
    from pneumoscope.engine import Engine
    from pneumoscope.imaging import ACCEPTED, Limits

    limits = Limits(max_pixels=max_pixels)
    engine = Engine.load(bundle, limits=limits, provider=provider)
    if heatmap is not None and engine.contract.activation_map is None:
        raise UsageError(
            f"{engine.contract.provenance.arch} has no exact activation map; "
            "use `pneumoscope explain RUN IMAGE --out DIR`."
        )
    pictures = None if heatmap is None else Pictures(heatmap, images)
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
        raise UsageError(f"no image file in {', '.join(map(str, images))}; accepted are {ACCEPTED}.")
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
    from pneumoscope.cli.films import Pictures, explain_films
    from pneumoscope.imaging import ACCEPTED, Limits
    from pneumoscope.training.run import check_finished

    check_finished(run)
    limits, pictures = Limits(max_pixels=max_pixels), Pictures(out, images)
    from pneumoscope.explain import Explainer  # after the checks: torch takes seconds to load

    done, refused = explain_films(Explainer(run, limits=limits), images, pictures, label)
    if not done + refused:
        raise UsageError(f"no image file in {', '.join(map(str, images))}; accepted are {ACCEPTED}.")
    if refused:
        raise typer.Exit(1)


def _data_of(recorded: str, given: Path | None) -> Path:
    """The data set to use: the one given, or the one a run remembers."""
    data = given or Path(recorded)
    if not data.exists():
        raise UsageError(f"the run's data set {data} is not there; pass --data.")
    return data


def _ages(option: str | None) -> tuple[float, float] | None:
    if option is None:
        return None
    youngest, dash, oldest = option.partition("-")
    if not (dash and youngest.isdecimal() and oldest.isdecimal() and int(youngest) <= int(oldest)):
        raise UsageError(f"--ages {option!r} is not of the form YOUNGEST-OLDEST in whole years, such as 18-90.")
    return float(youngest), float(oldest)
