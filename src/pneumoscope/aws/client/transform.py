"""SageMaker batch transform jobs: our service's image gets films from S3, one per request; its responses go to S3.

API: CreateTransformJob in botocore's service model of `sagemaker`. A job that fails keeps the responses that it has, so
another one sends the films that are left.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pneumoscope.aws.client.bucket import encryption, list_files, write_file
from pneumoscope.aws.client.images import has_disks
from pneumoscope.aws.client.inventory import ARCHIVE, TRANSFORM_PREFIX
from pneumoscope.aws.client.train import TAG, new_log_lines
from pneumoscope.aws.endpoint import CONTENT_TYPE
from pneumoscope.aws.session import Cloud, call_or_none, translate_errors
from pneumoscope.errors import CloudError
from pneumoscope.imaging import DEFAULT_LIMITS
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.aws import Score
from pneumoscope.settings.aws_names import Location
from pneumoscope.settings.serve import (
    BATCH_MEGABYTES,
    BATCH_VARIABLE,
    COVERAGE_VARIABLE,
    MAX_BYTES_VARIABLE,
    MAX_PIXELS_VARIABLE,
    MEGABYTE,
)

LOGS = "/aws/sagemaker/TransformJobs"
SUFFIX = ".out"
_RUNNING = {"InProgress", "Stopping"}
_ABSENT = "ResourceNotFound|.*(Could not find|not found)"  # AWS's wording depends on the kind of resource
_SECONDS = 120  # for one film; the service itself answers within one second
_LAST_LINES = 10  # of a failed job's log


@dataclass(frozen=True, kw_only=True)
class Films:
    """Films to send in one job: their names below `source`, and the size of the largest in bytes."""

    source: Location
    names: Sequence[str]
    largest: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """All jobs for the same films, model and options: each goes on where the last one ended. Not a run of `train`.

    `key` is a hash of the names of the result's Parquet parts, those already made included, in hexadecimal digits;
    `responses` is the folder in S3 where the jobs' responses come together.
    """

    key: str
    responses: Location

    @property
    def name(self) -> str:
        """The beginning of the jobs' names."""
        return f"{TRANSFORM_PREFIX}{self.key}"


def jobs_of(cloud: Cloud, run: Run) -> list[dict[str, Any]]:
    """AWS's descriptions of a run's jobs, the oldest first.

    Raises:
        CloudError: access to them is denied.
    """
    found = list[dict[str, Any]]()
    while (job := describe_job(cloud, f"{run.name}-{len(found) + 1}")) is not None:
        found.append(job)
    return found


def describe_job(cloud: Cloud, name: str) -> dict[str, Any] | None:
    """AWS's description of a batch transform job; None if it does not exist.

    Raises:
        CloudError: access to it is denied.
    """
    describe = cloud.client("sagemaker").describe_transform_job
    return call_or_none(f"transform job {name}", describe, _ABSENT, TransformJobName=name)


def is_running(job: dict[str, Any]) -> bool:
    """Whether a job has not ended yet."""
    return job["TransformJobStatus"] in _RUNNING


def duration(job: dict[str, Any]) -> timedelta:
    """How long an ended job has worked, without the start of its instances; nothing for one that never began."""
    begun, ended = job.get("TransformStartTime"), job.get("TransformEndTime")
    return timedelta() if begun is None or ended is None else ended - begun


def start(cloud: Cloud, settings: Score, run: Run, number: int, films: Films, model: Location, role: str) -> str:
    """Start a run's job of this number, and return its name.

    Args:
        cloud: the clients for the job's region.
        settings: of `pneumoscope aws score`.
        run: whose job it is.
        number: counts a run's jobs from 1.
        films: to send.
        model: folder in S3 with the model's archive.
        role: the ARN of the role that the job assumes.

    Raises:
        CloudError: AWS refuses.
    """
    name, sagemaker = f"{run.name}-{number}", cloud.client("sagemaker")
    remove_model(cloud, name)  # of an attempt that was interrupted before its job began
    listed = run.responses / f"films-{number}.manifest"
    write_file(cloud, listed, make_manifest(films), **encryption(settings.kms_key))
    with translate_errors(f"transform job {name}"):
        sagemaker.create_model(**model_arguments(settings, name, model, role))
        try:
            sagemaker.create_transform_job(**job_arguments(settings, name, run, films, listed))
        except BaseException:
            with suppress(CloudError):  # the error that led here matters more
                remove_model(cloud, name)
            raise
    return name


def make_manifest(films: Films) -> bytes:
    """The films as S3's ManifestFile: a list of the common prefix and the names below it."""
    return json.dumps([{"prefix": str(films.source / "")}, *films.names], separators=(",", ":")).encode()


def model_arguments(settings: Score, name: str, model: Location, role: str) -> dict[str, Any]:
    """The arguments of `create_model`."""
    environment = {
        BATCH_VARIABLE: "embeddings" if settings.embedding else "decisions",
        # The limits of `pneumoscope score`: the service's own are smaller, and would reject a few large films.
        MAX_BYTES_VARIABLE: str(DEFAULT_LIMITS.max_bytes),
        MAX_PIXELS_VARIABLE: str(DEFAULT_LIMITS.max_pixels),
    }
    environment |= {} if settings.coverage is None else {COVERAGE_VARIABLE: str(settings.coverage)}
    container = {"Image": settings.image, "ModelDataUrl": str(model / ARCHIVE), "Environment": environment}
    return {
        "ModelName": name,
        "PrimaryContainer": container,
        "ExecutionRoleArn": role,
        "EnableNetworkIsolation": True,
        "Tags": [{"Key": TAG, "Value": name}],
    }


def job_arguments(settings: Score, name: str, run: Run, films: Films, listed: Location) -> dict[str, Any]:
    """The arguments of `create_transform_job`: each film is one request, and nothing is split or joined."""
    megabytes = max(1, -(-films.largest // MEGABYTE))
    key = settings.kms_key
    output = {} if key is None else {"KmsKeyId": key}
    volume = {} if key is None or has_disks(settings.instance_type) else {"VolumeKmsKeyId": key}
    return {
        "TransformJobName": name,
        "ModelName": name,
        "BatchStrategy": "SingleRecord",
        "MaxPayloadInMB": megabytes,
        # AWS refuses a job if this number times MaxPayloadInMB is more than BATCH_MEGABYTES.
        "MaxConcurrentTransforms": max(1, min(settings.films_at_once, BATCH_MEGABYTES // megabytes)),
        "ModelClientConfig": {"InvocationsTimeoutInSeconds": _SECONDS, "InvocationsMaxRetries": 3},
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "ManifestFile", "S3Uri": str(listed)}},
            "ContentType": CONTENT_TYPE,
            "CompressionType": "None",
            "SplitType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": str(run.responses / ""),
            "Accept": "application/json",
            "AssembleWith": "None",
            **output,
        },
        "TransformResources": {
            "InstanceType": settings.instance_type,
            "InstanceCount": settings.instances,
            **volume,
        },
        "Tags": [{"Key": TAG, "Value": name}],
    }


def follow(
    cloud: Cloud,
    name: str,
    *,
    listener: Listener = SILENT,
    every: float = 15.0,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Wait until a job ends, and return AWS's final description of it; a job that failed is described, too.

    Raises:
        CloudError: it does not exist, or access to it is denied.
    """
    state = ""
    while True:
        if (job := describe_job(cloud, name)) is None:
            raise CloudError(f"there is no transform job {name} in {cloud.region}; run the same command again.")
        if job["TransformJobStatus"] != state:
            state = job["TransformJobStatus"]
            listener.say(f"{name}: {state}")
        if not is_running(job):
            return job
        pause(every)


def explain_failure(cloud: Cloud, job: dict[str, Any], listener: Listener) -> CloudError | None:
    """Report the last lines of the log of a job that did not complete, and return its error; None if it completed.

    AWS's own reason is mostly a reference to the log.
    """
    name, state = job["TransformJobName"], job["TransformJobStatus"]
    if state == "Completed":
        return None
    for line in list(new_log_lines(cloud.client("logs"), LOGS, name, {}))[-_LAST_LINES:]:
        listener.say(line)
    reason = (job.get("FailureReason") or "AWS gives no reason").rstrip(".")
    return CloudError(
        f"transform job {name} {state.lower()}: {reason}; its log is in {LOGS}. Its responses stay: run the same "
        "command again to send the films that are left."
    )


def remove_model(cloud: Cloud, name: str) -> None:
    """Delete the record of a job's model in SageMaker, if it exists; the model's files in S3 stay.

    Raises:
        CloudError: AWS refuses.
    """
    call_or_none(f"model {name}", cloud.client("sagemaker").delete_model, _ABSENT, ModelName=name)


def list_responses(cloud: Cloud, run: Run) -> set[str]:
    """Names of the responses in S3, below the run's folder and without their suffix.

    Raises:
        CloudError: listing the bucket is denied.
    """
    start = len(run.responses.key) + 1
    keys = (each["Key"] for each in list_files(cloud, run.responses))
    return {key[start : -len(SUFFIX)] for key in keys if key.endswith(SUFFIX)}
