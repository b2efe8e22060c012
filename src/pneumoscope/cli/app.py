"""The command tree, and the one table from exceptions to exit codes."""

import sys
from typing import Annotated

import typer

from pneumoscope import __version__
from pneumoscope.cli import data, model
from pneumoscope.errors import PneumoscopeError, UsageError

app = typer.Typer(
    name="pneumoscope",
    help=(
        "Reads a chest X-ray and says normal, bacterial or viral pneumonia. "
        "For research use only; not a medical device."
    ),
    epilog="Exit codes: 0 done, 1 the work failed or some inputs were refused, 2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
model.register(app)

# What `pip install pneumoscope` leaves out, by the extra that brings it.
_EXTRAS = {
    "train": {"torch", "torchvision", "timm", "lightning", "torchmetrics", "safetensors", "matplotlib", "onnx"},
}


def main() -> None:
    """Run the command line; every error a user can mend ends in one sentence and an exit code."""
    from pneumoscope.cli.show import fail

    try:
        app()
    except UsageError as failure:
        fail(str(failure))
        sys.exit(2)
    except PneumoscopeError as failure:
        fail(str(failure))
        sys.exit(1)
    except ModuleNotFoundError as failure:
        extras = [extra for extra, modules in _EXTRAS.items() if (failure.name or "").split(".")[0] in modules]
        if not extras:
            raise
        fail(f"this command needs {failure.name}; install it with: pip install 'pneumoscope[{extras[0]}]'")
        sys.exit(1)
    except OSError as failure:
        fail(f"{failure.filename or 'a file'}: {failure.strerror or failure}.")
        sys.exit(1)


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=lambda on: _version(on=on))
    ] = False,
) -> None:
    del version


def _version(*, on: bool) -> None:
    if on:
        typer.echo(f"pneumoscope {__version__}")
        raise typer.Exit
