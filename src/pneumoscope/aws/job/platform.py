"""What SageMaker tells a training container, in the two ways it does.

Its script-mode images set variables (`SM_CHANNEL_TRAIN`, `SM_MODEL_DIR`, …) and pass hyper-parameters as
arguments. An image of one's own is started with the argument `train` and finds files below `/opt/ml`:

====================================  ==========================================================
`input/config/hyperparameters.json`   every value a string
`input/config/resourceconfig.json`    `current_host`, `hosts`, `network_interface_name`
`input/data/CHANNEL`                  a channel's files
`model`, `output/data`                what is kept as model.tar.gz and output.tar.gz
`output/failure`                      why the job failed, in up to 1024 characters
`checkpoints`                         kept in S3 as it grows, if the job asks for it
====================================  ==========================================================

docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html and
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

_LONGEST_REASON = 1024  # characters; SageMaker shows no more
_HYPERPARAMETERS = "input/config/hyperparameters.json"
_RESOURCES = "input/config/resourceconfig.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job as its container sees it.

    `checkpoints` is None if the job keeps none, `gpus` are this host's, `interface` is the network
    interface between the hosts where the platform names one. `hyperparameters` are those that do not
    come as arguments already.
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


def on_platform(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a training job's container."""
    if "SM_MODEL_DIR" in environment:
        return True
    return "TRAINING_JOB_NAME" in environment and (_base(environment) / _HYPERPARAMETERS).is_file()


def gives_models(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs where a platform puts models: in a job's container, or in an endpoint's."""
    return on_platform(environment) or (_base(environment) / "model").is_dir()


def read_job(environment: Mapping[str, str] = os.environ) -> Job:
    """The job that this process is.

    Raises:
        UsageError: it has no channel `train`, or what the platform says cannot be understood.
    """
    base, given = _base(environment), environment.get
    resources = _read(base / _RESOURCES) if (base / _RESOURCES).is_file() else {}
    hosts = _hosts(environment["SM_HOSTS"]) if "SM_HOSTS" in environment else resources.get("hosts", ["localhost"])
    scripted = "SM_MODEL_DIR" in environment
    stored = {} if scripted else _read(base / _HYPERPARAMETERS)
    job = Job(
        name=given("TRAINING_JOB_NAME", "pneumoscope"),
        train=Path(given("SM_CHANNEL_TRAIN", base / "input/data/train")),
        test=Path(test) if (test := given("SM_CHANNEL_TEST")) else _folder(base / "input/data/test"),
        model=Path(given("SM_MODEL_DIR", base / "model")),
        output=Path(given("SM_OUTPUT_DATA_DIR", base / "output/data")),
        checkpoints=_folder(base / "checkpoints"),
        hosts=tuple(map(str, hosts)),
        host=given("SM_CURRENT_HOST", str(resources.get("current_host", hosts[0]))),
        gpus=int(given("SM_NUM_GPUS") or 0) if scripted else _count_gpus(),
        interface=given("SM_NETWORK_INTERFACE_NAME", resources.get("network_interface_name")),
        hyperparameters={name: str(value) for name, value in stored.items()},
    )
    if job.host not in job.hosts:
        raise UsageError(f"this host, {job.host!r}, is none of the job's hosts: {', '.join(job.hosts)}.")
    if not job.train.is_dir():
        raise UsageError("the job has no channel 'train'; give one with a data set made by `pneumoscope data prepare`.")
    return job


def reason_of(failure: BaseException) -> str:
    """An exception in one line without films' names, which may identify patients.

    >>> reason_of(UsageError("/data/val/normal/Ann Smith 3.jpeg: the image is blank."))
    'a film: the image is blank.'
    """
    from pneumoscope.imaging import SUFFIXES

    text = next(iter(str(failure).strip().splitlines()), "")
    if not isinstance(failure, PneumoscopeError):
        text = f"{type(failure).__name__}: {text}"
    suffixes = "|".join(re.escape(suffix) for suffix in sorted(SUFFIXES, reverse=True))
    text = re.sub(rf"(?:/.*|[^:]*)(?:{suffixes})\b['\"]?", "a film", text, flags=re.IGNORECASE)
    return text.rstrip(": ")[:_LONGEST_REASON]


def clear_failure() -> None:
    """Forget why an earlier job in the same place failed."""
    with suppress(OSError):
        _failure_file().unlink(missing_ok=True)


def read_failure() -> str | None:
    """What has been said of why the job failed."""
    path = _failure_file()
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def write_failure(reason: str) -> None:
    """Say why the job failed, unless it has been said: what fails first is the cause."""
    path = _failure_file()
    with suppress(OSError):  # the reason is on stderr, too; FileExistsError among others
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(reason)


def _failure_file() -> Path:
    return _base(os.environ) / "output" / "failure"


def _base(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def _folder(path: Path) -> Path | None:
    return path if path.is_dir() else None


def _hosts(text: str) -> tuple[str, ...]:
    try:
        return TypeAdapter(Annotated[tuple[str, ...], Field(min_length=1)]).validate_json(text)
    except ValidationError:
        raise UsageError(f"SM_HOSTS is not a list of at least one host in JSON: {text!r}.") from None


def _read(path: Path) -> dict[str, Any]:
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
