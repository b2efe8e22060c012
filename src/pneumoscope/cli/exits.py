"""How a command ends: the one place that turns exceptions into messages and exit codes."""

import sys
import warnings
from collections.abc import Callable
from io import TextIOWrapper

from pneumoscope.errors import PneumoscopeError, UsageError

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


def run(command: Callable[[], object]) -> None:
    """Run a command; an error that a user can fix becomes one sentence on stderr and an exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may contain what it cannot encode
    # Pillow warns about a damaged file in addition to the error that we report.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    try:
        command()
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


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
