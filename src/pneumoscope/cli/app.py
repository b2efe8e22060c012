"""The command tree, and the one table from exceptions to exit codes."""

import sys
import warnings
from io import TextIOWrapper
from typing import Annotated

import typer

from pneumoscope import __version__
from pneumoscope.cli import aws, data, model, serve
from pneumoscope.errors import PneumoscopeError, UsageError

app = typer.Typer(
    name="pneumoscope",
    help=(
        "Reads a chest X-ray and says normal, bacterial or viral pneumonia. "
        "For research use only; not a medical device."
    ),
    epilog="Exit codes: 0 done, 1 the work failed or some inputs were refused, 2 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich help costs 0.2 s of imports
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
model.register(app)
serve.register(app)
app.add_typer(aws.app, name="aws")

# What `pip install pneumoscope` leaves out, by the extra that brings it.
_EXTRAS = {
    "aws": {"boto3", "botocore", "packaging"},
    "data": {"httpx2", "imagehash", "jinja2", "scipy", "sklearn"},
    "dicom": {"pydicom", "gdcm", "jpeg_ls", "openjpeg"},
    "train": {
        *("captum", "huggingface_hub", "lightning", "matplotlib", "onnx", "onnxscript", "safetensors", "timm"),
        *("torch", "torchmetrics", "torchvision"),
    },
}


def main() -> None:
    """Run the command line; every error a user can mend ends in one sentence and an exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what its encoding does not
    # Pillow warns about a damaged file on top of the error that we report.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    try:
        app()
    except UsageError as failure:
        _fail(str(failure), 2)
    except PneumoscopeError as failure:
        _fail(str(failure), 1)
    except ModuleNotFoundError as failure:
        extras = [extra for extra, modules in _EXTRAS.items() if (failure.name or "").split(".")[0] in modules]
        if not extras:
            raise
        _fail(f"this command needs {failure.name}; install it with: pip install 'pneumoscope[{extras[0]}]'", 1)
    except OSError as failure:
        _fail(f"{failure.filename or 'a file'}: {failure.strerror or failure}.", 1)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and stop.", is_eager=True, callback=lambda on: _version(on=on)
        ),
    ] = False,
) -> None:
    del version


def _version(*, on: bool) -> None:
    if on:
        typer.echo(f"pneumoscope {__version__}")
        raise typer.Exit
