"""`pneumoscope train` and `pneumoscope cross-validate`."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pneumoscope.errors import UsageError

if TYPE_CHECKING:
    from pneumoscope.settings.training import CrossValidate, Train


def train_command(settings: "Train") -> None:
    """Train a network on a data set.

    Values come from a recipe; an option replaces the recipe's value, and a value that neither sets has its default.
    Recipes: quick (small and fast, for trying the flow); pneumoscope-base (of the bundle that ships); and four of the
    capstone, an earlier project of 2020: capstone-vgg19-frozen, capstone-vgg19, capstone-resnet50-short,
    capstone-resnet50.
    """
    from pneumoscope.cli.show import make_listener
    from pneumoscope.dataset import load_dataset
    from pneumoscope.training.config import load_recipe, make_config
    from pneumoscope.training.run_directory import CARD_FILE, load_card, load_config
    from pneumoscope.training.world import World

    # With several processes (torchrun), only the first one prints.
    out, quiet = settings.out, settings.quiet or not World.from_environment().is_leader
    if settings.resume and settings.teachers:
        raise UsageError("--resume keeps the run's teachers; leave out --teachers.")
    if settings.resume:
        values = load_recipe(settings.recipe) if settings.recipe else load_config(out).model_dump()
        data = dataset_path(load_card(out).data, settings.data)
    elif settings.data is None:
        raise UsageError("--data is missing; give a data set made by `pneumoscope data prepare`.")
    else:
        values, data = load_recipe(settings.recipe or "quick"), settings.data
    config = make_config(values, settings.changes)
    dataset = load_dataset(data)
    listener = make_listener(quiet=quiet)
    listener.say("loading PyTorch")
    try:
        from pneumoscope.training.fit import train  # after the checks: it takes seconds

        history = train(
            dataset,
            config,
            out,
            resume=settings.resume,
            cache=settings.cache,
            teachers=settings.teachers,
            listener=listener,
        )
    except KeyboardInterrupt:
        has_begun = (out / CARD_FILE).is_file()  # the interrupt may also come while torch loads
        hint = f"resume with: pneumoscope train --out {out} --resume" if has_begun else "nothing was made"
        typer.echo(f"interrupted; {hint}", err=True)
        raise
    if not quiet:
        typer.echo(
            f"{len(history)} of {config.epochs} epochs done in {out}; next: pneumoscope export {out} --out BUNDLE",
            err=True,
        )


def cross_validate_command(settings: "CrossValidate") -> None:
    """Train a network per fold; report on unseen patients.

    Films of the train and validation splits take part; test films do not. Figures have 95 % intervals over
    patients, and are given twice: for the films as they are, and for the same films cropped at random, with blurred
    corners, and saved again as JPEG (stress). evidence.npz holds the prediction for every film, for
    `export --evidence` and `train --teachers`.
    """
    from pneumoscope.cli.show import make_listener, show_cross_validation
    from pneumoscope.dataset import load_dataset
    from pneumoscope.training.config import load_recipe, make_config
    from pneumoscope.training.folds import EVIDENCE_FILE, REPORT_FILE, cross_validate

    out, config = settings.out, make_config(load_recipe(settings.recipe), settings.changes)
    try:
        report = cross_validate(
            load_dataset(settings.data),
            config,
            out,
            folds=settings.folds,
            seed=settings.fold_seed,
            jobs=settings.jobs,
            resume=settings.resume,
            cache=settings.cache,
            listener=make_listener(quiet=settings.quiet),
        )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; to resume {out}, run the same command with --resume", err=True)
        raise
    show_cross_validation(report)
    typer.echo(f"written: {out / REPORT_FILE}, {out / EVIDENCE_FILE}")


def dataset_path(recorded: str, given: Path | None) -> Path:
    """The data set to use: the given one, else the one recorded in the run.

    Raises:
        UsageError: it does not exist.
    """
    data = given or Path(recorded)
    if not data.exists():
        raise UsageError(f"the run's data set {data} does not exist; pass --data.")
    return data
