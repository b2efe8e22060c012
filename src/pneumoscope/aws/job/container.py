"""What SageMaker passes to a training container, in script mode and for a custom image.

SageMaker's script-mode images set variables (`SM_CHANNEL_TRAIN`, `SM_MODEL_DIR`, …) and pass hyper-parameters as
arguments. A custom image is started with the argument `train` and finds files below `/opt/ml`:

====================================  ==========================================================
`input/config/hyperparameters.json`   every value a string
`input/config/resourceconfig.json`    `current_host`, `hosts`, `network_interface_name`
`input/data/CHANNEL`                  a channel's files
`model`, `output/data`                what is kept as model.tar.gz and output.tar.gz
`output/failure`                      why the job failed, in up to 1024 characters
`checkpoints`                         copied to S3 during training, if the job is configured for it
====================================  ==========================================================

Sources: docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html and
github.com/aws/sagemaker-training-toolkit (ENVIRONMENT_VARIABLES.md).
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from pneumoscope.errors import PneumoscopeError, UsageError

_MAX_REASON = 1024  # characters; SageMaker shows no more
_HYPERPARAMETERS = "input/config/hyperparameters.json"
_RESOURCES = "input/config/resourceconfig.json"


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training job as seen from its container.

    `train` and `test` are the channels' folders, `model` and `output` the folders for the bundle and for the reports.
    `checkpoints` is None if the job keeps none. `host` is this host's name, one of `hosts`. `gpus` is the number of
    GPUs in this host. `interface` is the network interface between the hosts, if the platform names one.
    `hyperparameters` has those that are not passed as arguments.
    """

    name: str
    train: Path
    test: Path | None
    model: Path
    output: Path
    checkpoints: Path | None
    hosts: tuple[str, ...]
    host: str
    gpus: int
    interface: str | None = None
    hyperparameters: dict[str, str] = field(default_factory=dict)


def in_training_container(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a training job's container."""
    if "SM_MODEL_DIR" in environment:
        return True
    return "TRAINING_JOB_NAME" in environment and (_base_directory(environment) / _HYPERPARAMETERS).is_file()


def provides_model_directory(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the platform provides a model directory: in the container of a training job or of an endpoint."""
    return in_training_container(environment) or (_base_directory(environment) / "model").is_dir()


def read_job(environment: Mapping[str, str] = os.environ) -> TrainingJob:
    """The training job in which this process runs.

    Raises:
        UsageError: the job has no channel `train`, or the platform's variables or files are invalid.
    """
    base, get_variable = _base_directory(environment), environment.get
    resources = _read_json(base / _RESOURCES) if (base / _RESOURCES).is_file() else {}
    hosts = (
        _parse_hosts(environment["SM_HOSTS"]) if "SM_HOSTS" in environment else resources.get("hosts", ["localhost"])
    )
    is_script_mode = "SM_MODEL_DIR" in environment
    stored = {} if is_script_mode else _read_json(base / _HYPERPARAMETERS)
    job = TrainingJob(
        name=get_variable("TRAINING_JOB_NAME", "pneumoscope"),
        train=Path(get_variable("SM_CHANNEL_TRAIN", base / "input/data/train")),
        test=Path(test) if (test := get_variable("SM_CHANNEL_TEST")) else _existing_folder(base / "input/data/test"),
        model=Path(get_variable("SM_MODEL_DIR", base / "model")),
        output=Path(get_variable("SM_OUTPUT_DATA_DIR", base / "output/data")),
        checkpoints=_existing_folder(base / "checkpoints"),
        hosts=tuple(map(str, hosts)),
        host=get_variable("SM_CURRENT_HOST", str(resources.get("current_host", hosts[0]))),
        gpus=int(get_variable("SM_NUM_GPUS") or 0) if is_script_mode else _count_gpus(),
        interface=get_variable("SM_NETWORK_INTERFACE_NAME", resources.get("network_interface_name")),
        hyperparameters={name: str(value) for name, value in stored.items()},
    )
    if job.host not in job.hosts:
        raise UsageError(f"this host, {job.host!r}, is not one of the job's hosts: {', '.join(job.hosts)}.")
    if not job.train.is_dir():
        raise UsageError(
            "the job has no channel 'train'; give one with a data set made by `pneumoscope data prepare`, one folder "
            "of films per class, or ZIP archives of films."
        )
    return job


def failure_reason(failure: BaseException) -> str:
    """An exception in one line, without the names of image files, which may identify patients.

    >>> failure_reason(UsageError("/data/val/normal/Ann Smith 3.jpeg: the image is blank."))
    'a film: the image is blank.'
    """
    from pneumoscope.imaging import SUFFIXES

    text = next(iter(str(failure).strip().splitlines()), "")
    if not isinstance(failure, PneumoscopeError):
        text = f"{type(failure).__name__}: {text}"
    suffixes = "|".join(re.escape(suffix) for suffix in sorted(SUFFIXES))
    # Everything from the first slash, or from the last colon, up to an image suffix: names may contain spaces.
    text = re.sub(rf"(?:/.*|[^:]*)(?:{suffixes})\b['\"]?", "a film", text, flags=re.IGNORECASE)
    return text.rstrip(": ")[:_MAX_REASON]


def clear_failure() -> None:
    """Delete the failure file of an earlier job in the same directory."""
    with suppress(OSError):  # an old file that cannot be deleted does not stop the job
        _failure_file().unlink(missing_ok=True)


def read_failure() -> str | None:
    """The content of the job's failure file, or None."""
    path = _failure_file()
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def write_failure(reason: str) -> None:
    """Write the job's failure file, unless it exists: the first failure is the cause of the others."""
    path = _failure_file()
    with suppress(OSError):  # FileExistsError among others; the reason is on stderr, too
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(reason)


def _failure_file() -> Path:
    return _base_directory(os.environ) / "output" / "failure"


def _base_directory(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def _existing_folder(path: Path) -> Path | None:
    return path if path.is_dir() else None


def _parse_hosts(text: str) -> tuple[str, ...]:
    try:
        return TypeAdapter(Annotated[tuple[str, ...], Field(min_length=1)]).validate_json(text)
    except ValidationError:
        raise UsageError(f"SM_HOSTS is not a JSON list of at least one host name: {text!r}.") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as failure:
        raise UsageError(f"{path} is not JSON: {failure}.") from failure
    if not isinstance(document, dict):
        raise UsageError(f"{path} is not a JSON object.")
    return document


def _count_gpus() -> int:
    """GPUs of this container, as AWS's toolkit counts them."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
