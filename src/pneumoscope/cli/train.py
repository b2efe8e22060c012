"""`pneumoscope train` and `pneumoscope cross-validate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pneumoscope.cli.data import Quiet
from pneumoscope.errors import UsageError


class Precision(StrEnum):
    """Of the exported model's arithmetic."""

    fp32 = "fp32"
    int8 = "int8"


def train_command(
    out: Annotated[Path | None, typer.Option(help="The run directory to make, or with --resume to go on with.")] = None,
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
    head_epochs: Annotated[int | None, typer.Option(help="First epochs that train the classifier only.")] = None,
    head_scale: Annotated[float | None, typer.Option(help="Deviation of the classifier's first weights.")] = None,
    batch_norm_momentum: Annotated[
        float | None, typer.Option(help="Weight of a step in batch norm's running means.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of the classifier's inputs dropped.")] = None,
    drop_path: Annotated[float | None, typer.Option(help="Stochastic depth: share of branches dropped.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the train films.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Films in one step of one process.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Steps whose gradients are added up.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, the peak if scheduled.")] = None,
    momentum: Annotated[float | None, typer.Option(help="SGD's momentum.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, cosine or onecycle.")] = None,
    rise: Annotated[float | None, typer.Option(help="Share of the steps in which onecycle rises.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16 (mixed).")] = None,
    class_weights: Annotated[str | None, typer.Option(help="none, sqrt or balanced.")] = None,
    prior: Annotated[
        str | None, typer.Option(help="train or uniform: class frequencies that probabilities stand for.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Label smoothing, 0 to 1.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Films are mixed by shares of Beta(a, a); 0 mixes none.")] = None,
    logit_penalty: Annotated[float | None, typer.Option(help="Weight of the logits' squared length.")] = None,
    teacher_share: Annotated[float | None, typer.Option(help="With --teachers: their share of the target.")] = None,
    augment: Annotated[str | None, typer.Option(help="none, light or robust.")] = None,
    crop: Annotated[float | None, typer.Option(help="Smallest share of the area that robust keeps.")] = None,
    jitter: Annotated[float | None, typer.Option(help="Strength of robust's changes of exposure.")] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="Robust mirrors every other film.")
    ] = None,
    crop_size: Annotated[int | None, typer.Option(help="Side of robust's crops, by default --size.")] = None,
    read_size: Annotated[
        int | None, typer.Option(help="Side at which robust reads films before it crops, by default --size.")
    ] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the weights' moving average.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better macro-F1.")] = None,
    keep: Annotated[str | None, typer.Option(help="last or best (by validation macro-F1).")] = None,
    compiled: Annotated[bool | None, typer.Option("--compiled/--no-compiled", help="Train with torch.compile.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that augment.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    teachers: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            help="A finished run, or the evidence.npz of cross-validate, whose predictions become soft targets. "
            "Repeatable.",
        ),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded images, by default inside --data.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a network. Options change single values of the recipe.

    Recipes: quick (a small network, for trying the flow); pneumoscope-base (of the bundle that ships);
    capstone-vgg19-frozen, capstone-vgg19, capstone-resnet50-short, capstone-resnet50 (the 2020 capstone's four).
    """
    from pneumoscope.training.world import World

    changes = {
        "arch": arch,
        "size": size,
        "weights": weights,
        "freeze": freeze,
        "head_epochs": head_epochs,
        "head_scale": head_scale,
        "batch_norm_momentum": batch_norm_momentum,
        "dropout": dropout,
        "drop_path": drop_path,
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "rise": rise,
        "precision": precision,
        "class_weights": class_weights,
        "prior": prior,
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "logit_penalty": logit_penalty,
        "teacher_share": teacher_share,
        "augment": augment,
        "crop": crop,
        "jitter": jitter,
        "mirror": mirror,
        "crop_size": crop_size,
        "read_size": read_size,
        "ema": ema,
        "patience": patience,
        "keep": keep,
        "compiled": compiled,
        "workers": workers,
        "seed": seed,
    }
    if out is None:
        raise UsageError("--out is missing; give the run directory to make.")
    quiet = quiet or not World.of().leads
    _train(out, data, recipe, changes, teachers or [], resume=resume, cache=cache, quiet=quiet)


def _train(
    out: Path,
    data: Path | None,
    recipe: str | None,
    changes: dict[str, Any],
    teachers: list[Path],
    *,
    resume: bool,
    cache: Path | None,
    quiet: bool,
) -> None:
    from pneumoscope.cli.show import make_listener
    from pneumoscope.dataset import load_dataset
    from pneumoscope.training.config import load_recipe, make_config
    from pneumoscope.training.run import CARD_FILE, load_card, load_config

    if resume and teachers:
        raise UsageError("--resume keeps the run's teachers; leave --teachers out.")
    if resume:
        values = load_recipe(recipe) if recipe else load_config(out).model_dump()
        data = data_of(load_card(out).data, data)
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

        history = train(dataset, config, out, resume=resume, cache=cache, teachers=teachers, listener=listener)
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


def cross_validate_command(
    data: Annotated[Path, typer.Option(exists=True, help="A data set made by `data prepare`.")],
    out: Annotated[Path, typer.Option(help="The folder to make, or with --resume to go on with.")],
    *,
    recipe: Annotated[str, typer.Option(help="A recipe's name (see `train --help`) or a TOML file.")] = "quick",
    folds: Annotated[int, typer.Option(min=2, max=50, help="Parts that each are predicted once.")] = 5,
    fold_seed: Annotated[int, typer.Option(min=0, help="Seed of the folds and of the stress films.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random in training.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the train films.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep finished folds, and go on with an interrupted one.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded images, by default inside --data.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train one network a fold, by patient, and report on the films that each has not seen.

    Train and validation films take part, test films do not. Figures are of the films as they are and of the
    same films framed, covered and stored anew, with 95 % intervals over patients. evidence.npz keeps every
    film's predictions, for `export --evidence` and `train --teachers`.
    """
    from pneumoscope.cli.show import make_listener, show_cross_validation
    from pneumoscope.dataset import load_dataset
    from pneumoscope.training.config import load_recipe, make_config
    from pneumoscope.training.folds import EVIDENCE_FILE, REPORT_FILE, cross_validate

    config = make_config(load_recipe(recipe), {"seed": seed, "epochs": epochs})
    try:
        done = cross_validate(
            load_dataset(data),
            config,
            out,
            folds=folds,
            seed=fold_seed,
            resume=resume,
            cache=cache,
            listener=make_listener(quiet=quiet),
        )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; go on with the same command and --resume: {out}", err=True)
        raise
    show_cross_validation(done.report)
    typer.echo(f"written: {out / REPORT_FILE}, {out / EVIDENCE_FILE}")


def data_of(recorded: str, given: Path | None) -> Path:
    """The data set to use: the one given, or the one a run remembers."""
    data = given or Path(recorded)
    if not data.exists():
        raise UsageError(f"the run's data set {data} is not there; pass --data.")
    return data
