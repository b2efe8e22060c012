"""`pneumoscope train`, on a machine of one's own and as a SageMaker training job."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperOption
from typing_extensions import override

from pneumoscope.cli.command import SettingsCommand
from pneumoscope.errors import PneumoscopeError, RunError, UsageError

if TYPE_CHECKING:
    from pneumoscope.settings.training import CrossValidate, Train

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


class TrainCommand(SettingsCommand):
    """Takes options as training platforms spell them, and in a job says where the platform looks why it failed."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's context is of a private module
        from pneumoscope.aws.platform import as_arguments, clear_failure, failure_file, on_platform, read_job
        from pneumoscope.training.world import is_launched

        if not on_platform() or any(each == "--out" or each.startswith("--out=") for each in args):
            return super().parse_args(ctx, self.respell(args))
        if not is_launched():
            clear_failure(failure_file())
        with _reported():
            return super().parse_args(ctx, self.respell([*as_arguments(read_job().hyperparameters), *args]))

    @override
    def invoke(self, ctx: Any) -> Any:
        from pneumoscope.aws.platform import on_platform

        if not on_platform() or ctx.params["out"] is not None:
            return super().invoke(ctx)
        with _reported():
            return super().invoke(ctx)

    def respell(self, args: list[str]) -> list[str]:
        """Arguments in this command's own spelling.

        `--batch_size 32` is `--batch-size 32`, `--freeze false` is `--no-freeze`.

        Raises:
            UsageError: a switch is given something else than true or false.
        """
        known = [each for each in self.params if isinstance(each, TyperOption)]
        options = {name: each for each in known for name in (*each.opts, *each.secondary_opts)}
        spelled, left = [], list(args)
        while left:
            token, joined, value = left.pop(0).partition("=")
            name = token.replace("_", "-") if token.startswith("--") else token
            option = options.get(name)
            if option is None:
                spelled.append(f"{token}{joined}{value}")
            elif not option.is_flag:
                spelled += [name, value if joined else left.pop(0)] if joined or left else [name]
            else:
                if not joined and left and not left[0].startswith("-"):
                    value = left.pop(0)
                spelled += _switch(option, name, value)
        return spelled


def train_command(settings: "Train") -> None:
    """Train a network. Options change single values of the recipe.

    Recipes: quick (a small network, for trying the flow); pneumoscope-base (of the bundle that ships);
    capstone-vgg19-frozen, capstone-vgg19, capstone-resnet50-short, capstone-resnet50 (the 2020 capstone's four).

    In a SageMaker training job, on one host or several, --data and --out are the job's: it trains on its
    channel `train`, exports into its model directory, and reports on val and on its channel `test`.
    """
    from pneumoscope.aws.platform import on_platform
    from pneumoscope.training.world import World

    quiet = settings.quiet or not World.of().leads
    if settings.out is not None:
        if settings.export_precision is not None:
            raise UsageError("--export-precision is a training job's; leave it out, and give --precision to `export`.")
        _train(settings, settings.out, quiet=quiet)
    elif on_platform():
        if settings.data is not None or settings.resume or settings.cache is not None or settings.teachers:
            raise UsageError(
                "--data, --resume, --cache and --teachers have no place in a training job; leave them out."
            )
        _run_job(settings, quiet=quiet)
    else:
        raise UsageError("--out is missing; give the run directory to make.")


def _train(settings: "Train", out: Path, *, quiet: bool) -> None:
    from pneumoscope.cli.show import make_listener
    from pneumoscope.dataset import load_dataset
    from pneumoscope.training.config import load_recipe, make_config
    from pneumoscope.training.run import CARD_FILE, load_card, load_config

    if settings.resume and settings.teachers:
        raise UsageError("--resume keeps the run's teachers; leave --teachers out.")
    if settings.resume:
        values = load_recipe(settings.recipe) if settings.recipe else load_config(out).model_dump()
        data = data_of(load_card(out).data, settings.data)
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
        begun = (out / CARD_FILE).is_file()
        hint = f"go on with: pneumoscope train --out {out} --resume" if begun else "nothing was made"
        typer.echo(f"interrupted; {hint}", err=True)
        raise
    if not quiet:
        typer.echo(
            f"{len(history)} of {config.epochs} epochs done in {out}; next: pneumoscope export {out} --out BUNDLE",
            err=True,
        )


def cross_validate_command(settings: "CrossValidate") -> None:
    """Train one network per fold, by patient, and report on the films that each has not seen.

    Train and validation films take part, test films do not. Figures are of the films as they are and of the
    same films framed, covered and stored anew, with 95 % intervals over patients. evidence.npz keeps every
    film's predictions, for `export --evidence` and `train --teachers`.
    """
    from pneumoscope.cli.show import make_listener, show_cross_validation
    from pneumoscope.dataset import load_dataset
    from pneumoscope.training.config import load_recipe, make_config
    from pneumoscope.training.folds import EVIDENCE_FILE, REPORT_FILE, cross_validate

    out, config = settings.out, make_config(load_recipe(settings.recipe), settings.changes)
    try:
        done = cross_validate(
            load_dataset(settings.data),
            config,
            out,
            folds=settings.folds,
            seed=settings.fold_seed,
            resume=settings.resume,
            cache=settings.cache,
            listener=make_listener(quiet=settings.quiet),
        )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; go on with the same command and --resume: {out}", err=True)
        raise
    show_cross_validation(done.report)
    typer.echo(f"written: {out / REPORT_FILE}, {out / EVIDENCE_FILE}")


def _run_job(settings: "Train", *, quiet: bool) -> None:
    """The job that the platform has started here, or this host's share of it."""
    from pneumoscope.aws.job import launch, needs_launch, run_job, stoppable
    from pneumoscope.aws.platform import read_failure, read_job
    from pneumoscope.cli.show import make_listener, show_report
    from pneumoscope.training.config import load_recipe, make_config

    job = read_job()
    config = make_config(load_recipe(settings.recipe or "quick"), settings.changes)
    with stoppable():
        if needs_launch(job):
            if code := launch(job, sys.argv[1:]):
                said = read_failure(job.failure)
                raise RunError(said or f"the training processes of this host ended with code {code}; see the log.")
            return
        precision, listener = settings.export_precision or "fp32", make_listener(quiet=quiet)
        for report in run_job(job, config, precision=precision, listener=listener):
            show_report(report)


@contextmanager
def _reported() -> Iterator[None]:
    """Tell the platform, too, why the block failed; nothing that is said names a film."""
    from pneumoscope.aws.platform import failure_file, reason_of, write_failure

    try:
        yield
    except typer.Exit:
        raise
    except (PneumoscopeError, OSError) as failure:
        reason = reason_of(failure)
        write_failure(failure_file(), reason)
        raise (UsageError if isinstance(failure, UsageError) else RunError)(reason) from failure
    except Exception as failure:
        told = getattr(failure, "format_message", None)  # typer's usage errors have a sentence ready
        write_failure(failure_file(), told() if told else reason_of(failure))
        raise


def _switch(option: TyperOption, name: str, value: str) -> list[str]:
    """A switch that is given a value, as the switch that means it, or nothing."""
    if value == "" or value.lower() in _TRUE:
        return [name]
    if value.lower() not in _FALSE:
        raise UsageError(f"{name} {value!r} is neither true nor false; give one of them.")
    opposite = option.secondary_opts if name in option.opts else option.opts
    return opposite[:1]


def data_of(recorded: str, given: Path | None) -> Path:
    """The data set to use: the one given, or the one a run remembers."""
    data = given or Path(recorded)
    if not data.exists():
        raise UsageError(f"the run's data set {data} is not there; pass --data.")
    return data
