"""How a command ends: the one place that turns exceptions into messages and exit codes."""

import sys
import warnings
from collections.abc import Callable
from io import TextIOWrapper
from typing import NoReturn

from typer.exceptions import Abort, TyperException

from pneumoscope.errors import PneumoscopeError, UsageError
from pneumoscope.parallel import end_at_once
from pneumoscope.training.world import is_launched

# The modules that `pip install pneumoscope` leaves out, by the extra that installs them.
_EXTRAS = {
    "aws": {"boto3", "botocore", "packaging"},
    "data": {"httpx2", "imagehash", "scipy", "sklearn"},
    "dicom": {"pydicom", "gdcm", "jpeg_ls", "openjpeg"},
    "score": {"grpc", "pyarrow", "ray"},
    "train": {
        *("captum", "huggingface_hub", "lightning", "matplotlib", "onnx", "onnxscript", "safetensors", "timm"),
        *("torch", "torchmetrics", "torchvision"),
    },
}
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run(command: Callable[[], int | None]) -> None:
    """Run a command and end with its exit code; an error that a user can fix becomes one sentence on stderr."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may contain what it cannot encode
    # Pillow warns about a damaged file in addition to the error that we report.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    code = _call(command)
    if is_launched():
        # A thread of torch's can abort a process of several that ends. torchrun would take that for a failed training.
        end_at_once(code or 0)
    sys.exit(code)


def _call(command: Callable[[], int | None]) -> int | None:
    """The command's exit code, if it ends without an error."""
    try:
        return command()
    except TyperException as failure:
        _fail_usage(failure)
    except Abort:
        _fail("not confirmed; nothing was changed.", 1)
    except PneumoscopeError as failure:
        _fail(str(failure), 2 if isinstance(failure, UsageError) else 1)
    except ModuleNotFoundError as failure:
        extras = [extra for extra, modules in _EXTRAS.items() if (failure.name or "").split(".")[0] in modules]
        if not extras:
            raise
        _fail(f"this command needs {failure.name}; install it with: pip install 'pneumoscope[{extras[0]}]'", 1)
    except OSError as failure:
        _fail(f"{failure.filename or 'a file'}: {failure.strerror or failure}.", 1)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _fail_usage(failure: TyperException) -> NoReturn:
    """What typer refuses, such as an unknown option, in the form of our own messages."""
    context = getattr(failure, "ctx", None)
    if context is not None and failure.message == context.get_help():  # a group without a command
        print(failure.message, file=sys.stderr)
        sys.exit(failure.exit_code)
    message = failure.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    where = "." if context is None else f" `{context.command_path} --help`."
    if context is not None:
        message += " See" if message.endswith("?") else "; see"
    _fail(message + where, failure.exit_code)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
