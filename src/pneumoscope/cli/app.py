"""The command tree."""

from typing import Annotated

import typer

from pneumoscope import __version__
from pneumoscope.cli import aws, data, model, score, serve
from pneumoscope.cli.exits import run

app = typer.Typer(
    name="pneumoscope",
    help=(
        "Classifies chest X-rays as normal, bacterial pneumonia or viral pneumonia. "
        "For research use only; not a medical device."
    ),
    epilog="Exit codes: 0 success, 1 the command failed or some inputs were refused, 2 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich help costs 0.2 s of imports
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
model.register(app)
score.register(app)
serve.register(app)
app.add_typer(aws.app, name="aws")


def main() -> None:
    """Run the command line."""
    run(lambda: app(standalone_mode=False))


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=lambda on: _version(on=on)
        ),
    ] = False,
) -> None:
    del version


def _version(*, on: bool) -> None:
    if on:
        typer.echo(f"pneumoscope {__version__}")
        raise typer.Exit
