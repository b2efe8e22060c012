"""SageMaker training jobs: our `train` command on AWS's PyTorch image, or on our own."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from pneumoscope.aws.client.bucket import check_bucket, encryption, list_files, write_file
from pneumoscope.aws.client.images import has_disks, training_image
from pneumoscope.aws.client.package import TRAIN_PROGRAM, training_archive
from pneumoscope.aws.job_metrics import METRICS
from pneumoscope.aws.session import Cloud, ask_for, in_words
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


def start(cloud: Cloud, wanted: Train) -> None:
    """Start a training job, after its recipe, its places and its role were looked at.

    Raises:
        UsageError: a job cannot use the recipe or a change to it, or the output's bucket is public.
        CloudError: a bucket or the role is missing or elsewhere, or AWS refuses.
    """
    _check_recipe(wanted)
    for data in filter(None, (wanted.data, wanted.test)):
        check_bucket(cloud, data, allow_public=True)
        _require_whole(cloud, data, unprepared=wanted.unprepared and data == wanted.data)
    check_bucket(cloud, wanted.out)
    role = role_arn(cloud, wanted.role)
    code = None if wanted.image else wanted.out / f"{wanted.name}/source/sourcedir.tar.gz"
    request = describe_request(wanted, role, cloud.region, code)
    if code is not None:
        write_file(cloud, code, training_archive(), **encryption(wanted.kms_key))
    with in_words(f"training job {wanted.name}"):
        cloud.client("sagemaker").create_training_job(**request)


def _check_recipe(wanted: Train) -> None:
    if wanted.recipe not in recipe_names():
        raise UsageError(
            f"{wanted.recipe!r} is no shipped recipe, and a job has no other; there are {', '.join(recipe_names())}."
        )
    weights = make_config(load_recipe(wanted.recipe), dict(wanted.changes)).weights
    if weights not in ("imagenet", "none"):
        raise UsageError(f"weights {weights!r} are a file, which a job does not have; take imagenet or none.")


def _require_whole(cloud: Cloud, data: Location, *, unprepared: bool) -> None:
    """Refuse a prefix without a manifest: an upload that was broken off would be trained on as if it were all."""
    keys = (each["Key"] for each in list_files(cloud, data))
    if (first := next(keys, None)) is None:
        raise CloudError(f"nothing lies under {data}; put a data set there with `pneumoscope aws upload`.")
    if unprepared or (data / MANIFEST_FILE).key in itertools.chain((first,), keys):
        return
    raise CloudError(
        f"{data} has no {MANIFEST_FILE}, so its upload is not whole; repeat `pneumoscope aws upload`, or pass "
        "--unprepared if these are folders of films that the job is to prepare."
    )


def describe_request(wanted: Train, role: str, region: str, code: Location | None) -> dict[str, Any]:
    """The arguments of `create_training_job`; `code` is where our code lies for AWS's image, None for an image of ours.

    Raises:
        UsageError: the region's registry of AWS's images is not known here.
    """
    channels = {"train": wanted.data} | ({} if wanted.test is None else {"test": wanted.test})
    seconds = int(wanted.max_hours * 3600)
    stopping = {"MaxRuntimeInSeconds": seconds} | ({"MaxWaitTimeInSeconds": 2 * seconds} if wanted.spot else {})
    key = wanted.kms_key
    output = {} if key is None else {"KmsKeyId": key}
    volume = {} if key is None or has_disks(wanted.instance_type) else {"VolumeKmsKeyId": key}
    request: dict[str, Any] = {
        "TrainingJobName": wanted.name,
        "RoleArn": role,
        "AlgorithmSpecification": {
            "TrainingImage": wanted.image or training_image(wanted.instance_type, region),
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRICS],
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "HyperParameters": _hyperparameters(wanted, region, code),
        "InputDataConfig": [_channel(name, place, fast=wanted.fast_file) for name, place in channels.items()],
        "OutputDataConfig": {"S3OutputPath": str(wanted.out), **output},
        "ResourceConfig": {
            "InstanceType": wanted.instance_type,
            "InstanceCount": wanted.instances,
            "VolumeSizeInGB": wanted.volume_gb,
            **volume,
        },
        "StoppingCondition": stopping,
        "EnableInterContainerTrafficEncryption": wanted.instances > 1,
        "EnableManagedSpotTraining": wanted.spot,
        "Tags": [{"Key": TAG, "Value": wanted.name}],
    }
    if wanted.spot:
        kept = wanted.out / f"{wanted.name}/checkpoints"
        request["CheckpointConfig"] = {"S3Uri": str(kept), "LocalPath": _CHECKPOINTS}
    return request


def _channel(name: str, place: Location, *, fast: bool) -> dict[str, Any]:
    # With more hosts, each needs all films: how they are shared out is decided epoch by epoch.
    source = {"S3DataType": "S3Prefix", "S3Uri": str(place / ""), "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "FastFile" if fast else "File"}


def _hyperparameters(wanted: Train, region: str, code: Location | None) -> dict[str, str]:
    values = {"recipe": wanted.recipe, **wanted.changes}
    if wanted.export_precision is not None:
        values["export_precision"] = wanted.export_precision
    if code is not None:  # what script mode wants
        values |= {
            "sagemaker_program": TRAIN_PROGRAM,
            "sagemaker_submit_directory": str(code),
            "sagemaker_container_log_level": "20",
            "sagemaker_job_name": wanted.name,
            "sagemaker_region": region,
        }
    return values


def role_arn(cloud: Cloud, role: str) -> str:
    """The ARN of a role given by name or ARN.

    Raises:
        CloudError: there is no such role.
    """
    name = role.rpartition("/")[2]
    try:
        found = ask_for(f"role {role}", cloud.client("iam").get_role, "NoSuchEntity", RoleName=name)
    except CloudError:
        if role.startswith("arn:"):  # who may not read roles may still pass one on
            return role
        raise
    if found is None:
        raise CloudError(
            f"there is no role {name}; make one that sagemaker.amazonaws.com may take on (docs/how-to/aws.md)."
        )
    return str(found["Role"]["Arn"])


def look(cloud: Cloud, name: str) -> dict[str, Any]:
    """AWS's description of a job.

    Raises:
        CloudError: there is no job of this name.
    """
    with in_words(f"training job {name}"):
        return dict(cloud.client("sagemaker").describe_training_job(TrainingJobName=name))


def _new_lines(logs: Any, job: str, tokens: dict[str, str]) -> Iterator[str]:
    """What was written into a job's log since; nothing as long as there is no log.

    Args:
        logs: boto3's client of CloudWatch Logs.
        job: its name.
        tokens: by stream, where it was left; they are brought up to date.
    """
    with in_words(f"the log of {job}"):
        pages = logs.get_paginator("describe_log_streams").paginate(logGroupName=_LOGS, logStreamNamePrefix=f"{job}/")
        try:
            streams = sorted(each["logStreamName"] for page in pages for each in page["logStreams"])
        except logs.exceptions.ResourceNotFoundException:
            return
        for stream in streams:
            place, is_new = {"logGroupName": _LOGS, "logStreamName": stream, "startFromHead": True}, True
            while is_new:
                page = logs.get_log_events(**place, **({"nextToken": tokens[stream]} if stream in tokens else {}))
                yield from (event["message"] for event in page["events"])
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
    """Pass on a job's stages and its log until it has ended; AWS's description of it then.

    Raises:
        CloudError: it failed or was stopped; the message has its reason.
    """
    tokens, stage = dict[str, str](), ""
    while True:
        job = look(cloud, name)
        if job["SecondaryStatus"] != stage:
            stage = job["SecondaryStatus"]
            listener.say(f"{name}: {stage}")
        for line in _new_lines(cloud.client("logs"), name, tokens):
            listener.say(line)
        if job["TrainingJobStatus"] in _ENDED:
            break
        pause(every)
    if job["TrainingJobStatus"] != "Completed":
        reason = (job.get("FailureReason") or stage).rstrip(".")
        raise CloudError(f"training job {name} {job['TrainingJobStatus'].lower()}: {reason}; its log is in {_LOGS}.")
    return job
