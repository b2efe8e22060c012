"""SageMaker training jobs: our `train` command in AWS's PyTorch image, or in our own."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from pneumoscope.aws.client.bucket import check_bucket, encryption, list_files, write_file
from pneumoscope.aws.client.images import has_disks, training_image
from pneumoscope.aws.client.package import TRAIN_PROGRAM, training_archive
from pneumoscope.aws.job_metrics import METRICS
from pneumoscope.aws.session import Cloud, call_or_none, translate_errors
from pneumoscope.dataset.manifest import MANIFEST_FILE
from pneumoscope.errors import CloudError, UsageError
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.aws import Train
from pneumoscope.settings.aws_names import Location
from pneumoscope.training.config import load_recipe, make_config, recipe_names

TAG = "pneumoscope"
_LOGS = "/aws/sagemaker/TrainingJobs"
_CHECKPOINTS = "/opt/ml/checkpoints"
_ENDED = {"Completed", "Failed", "Stopped"}


def start(cloud: Cloud, settings: Train) -> None:
    """Start a training job, after checking its recipe, its S3 locations and its role.

    Raises:
        UsageError: a job cannot use the recipe or a change to it, or the output's bucket is public.
        CloudError: a bucket or the role does not exist, a bucket is in another region, or AWS refuses.
    """
    _check_recipe(settings)
    for data in filter(None, (settings.data, settings.test)):
        check_bucket(cloud, data, allow_public=True)
        _require_complete(cloud, data, unprepared=settings.unprepared and data == settings.data)
    check_bucket(cloud, settings.out)
    role = role_arn(cloud, settings.role)
    code = None if settings.image else settings.out / f"{settings.name}/source/sourcedir.tar.gz"
    request = job_arguments(settings, role, cloud.region, code)
    if code is not None:
        write_file(cloud, code, training_archive(), **encryption(settings.kms_key))
    with translate_errors(f"training job {settings.name}"):
        cloud.client("sagemaker").create_training_job(**request)


def _check_recipe(settings: Train) -> None:
    if settings.recipe not in recipe_names():
        raise UsageError(
            f"{settings.recipe!r} is not a shipped recipe, and a job accepts no other; choose one of "
            f"{', '.join(recipe_names())}."
        )
    weights = make_config(load_recipe(settings.recipe), dict(settings.changes)).weights
    if weights not in ("imagenet", "none"):
        raise UsageError(f"weights {weights!r} are a file, which a job cannot read; use imagenet or none.")


def _require_complete(cloud: Cloud, data: Location, *, unprepared: bool) -> None:
    """Refuse a prefix without a manifest: as that is uploaded last, the upload was interrupted."""
    # A generator: a data set has thousands of keys, and the first few mostly decide.
    keys = (each["Key"] for each in list_files(cloud, data))
    if (first := next(keys, None)) is None:
        raise CloudError(f"there is nothing under {data}; upload a data set with `pneumoscope aws upload`.")
    if unprepared or (data / MANIFEST_FILE).key in itertools.chain((first,), keys):
        return
    raise CloudError(
        f"{data} has no {MANIFEST_FILE}, so its upload is incomplete; repeat `pneumoscope aws upload`, or pass "
        "--unprepared if these are folders of films that the job is to prepare."
    )


def job_arguments(settings: Train, role: str, region: str, code: Location | None) -> dict[str, Any]:
    """The arguments of `create_training_job`.

    Args:
        settings: of `pneumoscope aws train`.
        role: the ARN of the role that the job assumes.
        region: the job's region.
        code: where our code is, for AWS's image; None for an image of our own, which contains it.

    Raises:
        UsageError: the registry of AWS's images in this region is unknown.
    """
    channels = {"train": settings.data} | ({} if settings.test is None else {"test": settings.test})
    seconds = int(settings.max_hours * 3600)
    # With spot capacity, SageMaker requires a limit for run time and waiting together.
    stopping = {"MaxRuntimeInSeconds": seconds} | ({"MaxWaitTimeInSeconds": 2 * seconds} if settings.spot else {})
    key = settings.kms_key
    output = {} if key is None else {"KmsKeyId": key}
    volume = {} if key is None or has_disks(settings.instance_type) else {"VolumeKmsKeyId": key}
    request: dict[str, Any] = {
        "TrainingJobName": settings.name,
        "RoleArn": role,
        "AlgorithmSpecification": {
            "TrainingImage": settings.image or training_image(settings.instance_type, region),
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRICS],
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "HyperParameters": _hyperparameters(settings, region, code),
        "InputDataConfig": [_channel(name, place, fast=settings.fast_file) for name, place in channels.items()],
        "OutputDataConfig": {"S3OutputPath": str(settings.out), **output},
        "ResourceConfig": {
            "InstanceType": settings.instance_type,
            "InstanceCount": settings.instances,
            "VolumeSizeInGB": settings.volume_gb,
            **volume,
        },
        "StoppingCondition": stopping,
        "EnableInterContainerTrafficEncryption": settings.instances > 1,
        "EnableManagedSpotTraining": settings.spot,
        "Tags": [{"Key": TAG, "Value": settings.name}],
    }
    if settings.spot:
        kept = settings.out / f"{settings.name}/checkpoints"
        request["CheckpointConfig"] = {"S3Uri": str(kept), "LocalPath": _CHECKPOINTS}
    return request


def _channel(name: str, place: Location, *, fast: bool) -> dict[str, Any]:
    # Every host needs all films: which of them a host trains on changes with every epoch.
    source = {"S3DataType": "S3Prefix", "S3Uri": str(place / ""), "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "FastFile" if fast else "File"}


def _hyperparameters(settings: Train, region: str, code: Location | None) -> dict[str, str]:
    values = {"recipe": settings.recipe, **settings.changes}
    if settings.export_precision is not None:
        values["export_precision"] = settings.export_precision
    if code is not None:  # read by the script-mode toolkit in AWS's image
        values |= {
            "sagemaker_program": TRAIN_PROGRAM,
            "sagemaker_submit_directory": str(code),
            "sagemaker_container_log_level": "20",
            "sagemaker_job_name": settings.name,
            "sagemaker_region": region,
        }
    return values


def role_arn(cloud: Cloud, role: str) -> str:
    """The ARN of a role given by name or ARN.

    Raises:
        CloudError: the role does not exist.
    """
    name = role.rpartition("/")[2]
    try:
        found = call_or_none(f"role {role}", cloud.client("iam").get_role, "NoSuchEntity", RoleName=name)
    except CloudError:
        if role.startswith("arn:"):  # a user may be allowed iam:PassRole without iam:GetRole
            return role
        raise
    if found is None:
        raise CloudError(
            f"there is no role {name}; create one that sagemaker.amazonaws.com may assume (docs/how-to/aws.md)."
        )
    return str(found["Role"]["Arn"])


def describe_job(cloud: Cloud, name: str) -> dict[str, Any]:
    """AWS's description of a training job.

    Raises:
        CloudError: the job does not exist.
    """
    with translate_errors(f"training job {name}"):
        return dict(cloud.client("sagemaker").describe_training_job(TrainingJobName=name))


def new_log_lines(logs: Any, group: str, job: str, tokens: dict[str, str]) -> Iterator[str]:
    """The lines added to a job's log since the last call; none while the log does not exist yet.

    Args:
        logs: a boto3 client for CloudWatch Logs.
        group: the log group of this kind of job.
        job: the job's name.
        tokens: by log stream, CloudWatch's token of the position reached; updated here.
    """
    with translate_errors(f"the log of {job}"):
        pages = logs.get_paginator("describe_log_streams").paginate(logGroupName=group, logStreamNamePrefix=f"{job}/")
        try:
            streams = sorted(each["logStreamName"] for page in pages for each in page["logStreams"])
        except logs.exceptions.ResourceNotFoundException:
            return
        for stream in streams:
            place, is_new = {"logGroupName": group, "logStreamName": stream, "startFromHead": True}, True
            while is_new:
                page = logs.get_log_events(**place, **({"nextToken": tokens[stream]} if stream in tokens else {}))
                yield from (event["message"] for event in page["events"])
                # At the end of a stream, CloudWatch returns the token that it was given.
                is_new = page["nextForwardToken"] != tokens.get(stream)
                tokens[stream] = page["nextForwardToken"]


def follow(
    cloud: Cloud,
    name: str,
    *,
    listener: Listener = SILENT,
    every: float = 15.0,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Report a job's stages and its log until it ends; return AWS's final description of it.

    Raises:
        CloudError: the job failed or was stopped; the message has the reason.
    """
    tokens, stage = dict[str, str](), ""
    while True:
        job = describe_job(cloud, name)
        if job["SecondaryStatus"] != stage:
            stage = job["SecondaryStatus"]
            listener.say(f"{name}: {stage}")
        for line in new_log_lines(cloud.client("logs"), _LOGS, name, tokens):
            listener.say(line)
        if job["TrainingJobStatus"] in _ENDED:
            break
        pause(every)
    if job["TrainingJobStatus"] != "Completed":
        reason = (job.get("FailureReason") or stage).rstrip(".")
        raise CloudError(f"training job {name} {job['TrainingJobStatus'].lower()}: {reason}; its log is in {_LOGS}.")
    return job
