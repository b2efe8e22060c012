"""`pneumoscope data …`: make data sets."""

from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.errors import UsageError

app = typer.Typer(
    help="Make data sets from archives, folders and phantoms.", no_args_is_help=True, rich_markup_mode=None
)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what lies at --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no talk.")]


@app.command("prepare")
def prepare_command(
    sources: Annotated[
        list[Path],
        typer.Argument(exists=True, help="ZIP archives as downloaded, or folders with one folder of images a class."),
    ],
    out: Annotated[Path, typer.Option(help="The data set to make.")],
    *,
    val_fraction: Annotated[float, typer.Option(help="Share of the train films cut as validation, by patient.")] = 0.1,
    test_fraction: Annotated[
        float, typer.Option(help="Share cut as test, by patient, if no source has a test part.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the cuts.")] = 0,
    patient_pattern: Annotated[
        str | None, typer.Option(help=r"Regular expression that finds the patient in a path, e.g. 'p(\d+)_'.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Classes reported together, e.g. pneumonia=bacteria,virus. Repeatable.")
    ] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse images with more pixels.")] = 100_000_000,
    strict: Annotated[bool, typer.Option("--strict", help="Make nothing if any input is refused.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Read sources, check every image, and write {train,val,test}/{class}/ and manifest.csv.

    A source's test part stays test; train and validation parts are joined and validation is cut anew
    by patient. Exit code 1 if any input was refused (the data set is there all the same, unless
    --strict).
    """
    from pydantic import ValidationError

    from pneumoscope.cli.show import make_listener, show_prepared
    from pneumoscope.contract import first_problem
    from pneumoscope.dataset import PrepareConfig, prepare

    try:
        config = PrepareConfig(
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=seed,
            patient_pattern=patient_pattern,
            groups=_groups(group),
            max_pixels=max_pixels,
            strict=strict,
        )
    except ValidationError as failure:
        raise UsageError(f"{first_problem(failure)}.") from failure
    summary = prepare(sources, out, config, overwrite=overwrite, listener=make_listener(quiet=quiet))
    show_prepared(summary)
    if not quiet:
        typer.echo(f"data set in {out}; next: pneumoscope train --data {out} --out RUN", err=True)
    if summary.refused:
        raise typer.Exit(1)


@app.command("phantom")
def phantom_command(
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    *,
    count: Annotated[int, typer.Option(help="How many films; the classes are balanced.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Selects the population.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw synthetic chest radiographs, laid out and named like the version 2 archive."""
    from pneumoscope.phantom import write_archive_folder

    write_archive_folder(out, count=count, seed=seed, overwrite=overwrite)
    typer.echo(f"{count} phantoms in {out}; next: pneumoscope data prepare {out} --out DATASET")


def _groups(options: list[str] | None) -> dict[str, tuple[str, ...]] | None:
    """`["g=a,b"]` → `{"g": ("a", "b")}`."""
    if not options:
        return None
    groups = {}
    for option in options:
        name, separator, members = option.partition("=")
        if not separator or not name or not members:
            raise UsageError(f"--group {option!r} is not of the form NAME=CLASS,CLASS.")
        groups[name] = tuple(members.split(","))
    return groups
