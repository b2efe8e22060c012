"""SageMaker training jobs: our `train` command on AWS's PyTorch image, or on our own."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore import exceptions
from pydantic import Field

from pneumoscope.aws.client.bucket import check_bucket, encryption
from pneumoscope.aws.client.images import InstanceType, has_disks
from pneumoscope.aws.client.package import TRAIN_PROGRAM, training_archive
from pneumoscope.aws.client.upload import listed
from pneumoscope.aws.figures import METRICS
from pneumoscope.aws.session import Cloud, Location, code_of, in_words, parse_location
from pneumoscope.dataset.manifest import MANIFEST_FILE
from pneumoscope.errors import CloudError
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.aws import JobOptions
from pneumoscope.settings.names import EndpointName

TAG = "pneumoscope"
_LOGS = "/aws/sagemaker/TrainingJobs"
_CHECKPOINTS = "/opt/ml/checkpoints"
_ENDED = {"Completed", "Failed", "Stopped"}


class TrainingRequest(JobOptions):
    """What a training job is to be. Places are in S3."""

    name: EndpointName
    role: str = Field(min_length=1, description="Name or ARN of the role that the job takes on.")
    data: str = Field(description="A prepared data set, as `aws upload` puts it there.")
    test: str | None = Field(description="Another one, whose test split is evaluated at the end.")
    output: str = Field(description="Where model, reports and checkpoints go.")
    image: str = Field(min_length=1)
    own_image: bool = Field(description="The image is ours, with the code in it; else AWS's for script mode.")
    instance_type: InstanceType
    hyperparameters: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """How a job stands. `model` is where its model.tar.gz lies, once it is there."""

    name: str
    status: str
    stage: str
    model: str | None
    failure: str | None
    metrics: dict[str, float]


def start(cloud: Cloud, request: TrainingRequest) -> None:
    """Start a training job, after the places and the role were looked at.

    Raises:
        CloudError: a bucket or the role is missing or elsewhere, or AWS refuses.
    """
    for data in filter(None, (request.data, request.test)):
        check_bucket(cloud, parse_location(data), allow_public=True)
        _require_whole(cloud, parse_location(data), unprepared=request.unprepared and data == request.data)
    output = parse_location(request.output)
    check_bucket(cloud, output)
    role = role_arn(cloud, request.role)
    code = None
    if not request.own_image:
        code = output / f"{request.name}/source/sourcedir.tar.gz"
        with in_words(f"writing {code}"):
            cloud.client("s3").put_object(
                Bucket=code.bucket, Key=code.key, Body=training_archive(), **encryption(request.kms_key)
            )
    with in_words(f"training job {request.name}"):
        cloud.client("sagemaker").create_training_job(**describe_request(request, role, cloud.region, code))


def _require_whole(cloud: Cloud, data: Location, *, unprepared: bool) -> None:
    """Refuse a prefix without a manifest: an upload that was broken off would be trained on as if it were all."""
    keys = (each["Key"] for each in listed(cloud.client("s3"), data))
    if (first := next(keys, None)) is None:
        raise CloudError(f"nothing lies under {data}; put a data set there with `pneumoscope aws upload`.")
    if unprepared or (data / MANIFEST_FILE).key in itertools.chain((first,), keys):
        return
    raise CloudError(
        f"{data} has no {MANIFEST_FILE}, so its upload is not whole; repeat `pneumoscope aws upload`, or pass "
        "--unprepared if these are folders of films that the job is to prepare."
    )


def describe_request(request: TrainingRequest, role: str, region: str, code: Location | None) -> dict[str, Any]:
    """The arguments of `create_training_job`."""
    channels = [_channel("train", request.data, fast=request.fast_file)]
    if request.test is not None:
        channels.append(_channel("test", request.test, fast=request.fast_file))
    seconds = int(request.max_hours * 3600)
    stopping = {"MaxRuntimeInSeconds": seconds} | ({"MaxWaitTimeInSeconds": 2 * seconds} if request.spot else {})
    output, volume = {}, {}
    if request.kms_key is not None:
        output = {"KmsKeyId": request.kms_key}
        volume = {} if has_disks(request.instance_type) else {"VolumeKmsKeyId": request.kms_key}
    arguments: dict[str, Any] = {
        "TrainingJobName": request.name,
        "RoleArn": role,
        "AlgorithmSpecification": {
            "TrainingImage": request.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRICS],
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "HyperParameters": request.hyperparameters | _script_mode(request, region, code),
        "InputDataConfig": channels,
        "OutputDataConfig": {"S3OutputPath": request.output, **output},
        "ResourceConfig": {
            "InstanceType": request.instance_type,
            "InstanceCount": request.instances,
            "VolumeSizeInGB": request.volume_gb,
            **volume,
        },
        "StoppingCondition": stopping,
        "EnableInterContainerTrafficEncryption": request.instances > 1,
        "EnableManagedSpotTraining": request.spot,
        "Tags": [{"Key": TAG, "Value": request.name}],
    }
    if request.spot:
        where = f"{request.output.rstrip('/')}/{request.name}/checkpoints"
        arguments["CheckpointConfig"] = {"S3Uri": where, "LocalPath": _CHECKPOINTS}
    return arguments


def _channel(name: str, place: str, *, fast: bool) -> dict[str, Any]:
    # With more hosts, each needs all films: how they are shared out is decided epoch by epoch.
    source = {"S3DataType": "S3Prefix", "S3Uri": f"{place.rstrip('/')}/", "S3DataDistributionType": "FullyReplicated"}
    return {
        "ChannelName": name,
        "DataSource": {"S3DataSource": source},
        "InputMode": "FastFile" if fast else "File",
    }


def _script_mode(request: TrainingRequest, region: str, code: Location | None) -> dict[str, str]:
    if code is None:
        return {}
    return {
        "sagemaker_program": TRAIN_PROGRAM,
        "sagemaker_submit_directory": str(code),
        "sagemaker_container_log_level": "20",
        "sagemaker_job_name": request.name,
        "sagemaker_region": region,
    }


def role_arn(cloud: Cloud, role: str) -> str:
    """The ARN of a role given by name or ARN.

    Raises:
        CloudError: there is no such role.
    """
    name = role.rpartition("/")[2]
    with in_words(f"role {role}"):
        try:
            return str(cloud.client("iam").get_role(RoleName=name)["Role"]["Arn"])
        except exceptions.ClientError as failure:
            if code_of(failure) == "NoSuchEntity":
                raise CloudError(
                    f"there is no role {name}; make one that sagemaker.amazonaws.com may take on (docs/aws.md)."
                ) from failure
            if role.startswith("arn:"):  # whoever may not look at roles may still pass one on
                return role
            raise


def look(cloud: Cloud, name: str) -> TrainingJob:
    """How a job stands.

    Raises:
        CloudError: there is none of this name.
    """
    with in_words(f"training job {name}"):
        told = cloud.client("sagemaker").describe_training_job(TrainingJobName=name)
    return TrainingJob(
        name=name,
        status=told["TrainingJobStatus"],
        stage=told.get("SecondaryStatus", ""),
        model=told.get("ModelArtifacts", {}).get("S3ModelArtifacts"),
        failure=told.get("FailureReason"),
        metrics={each["MetricName"]: float(each["Value"]) for each in told.get("FinalMetricDataList", [])},
    )


@dataclass
class _Log:
    """A job's log, read on from where it was left."""

    logs: Any
    job: str
    tokens: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What was written since; nothing as long as there is no log."""
        found = []
        with in_words(f"the log of {self.job}"):
            try:
                pages = self.logs.get_paginator("describe_log_streams").paginate(
                    logGroupName=_LOGS, logStreamNamePrefix=f"{self.job}/"
                )
                streams = [each["logStreamName"] for page in pages for each in page["logStreams"]]
            except self.logs.exceptions.ResourceNotFoundException:
                return []
            for stream in sorted(streams):
                found += self._of(stream)
        return found

    def _of(self, stream: str) -> list[str]:
        found = []
        while True:
            token = {"nextToken": self.tokens[stream]} if stream in self.tokens else {}
            page = self.logs.get_log_events(logGroupName=_LOGS, logStreamName=stream, startFromHead=True, **token)
            found += [event["message"] for event in page["events"]]
            if page["nextForwardToken"] == self.tokens.get(stream):
                return found
            self.tokens[stream] = page["nextForwardToken"]


def follow(
    cloud: Cloud,
    name: str,
    *,
    listener: Listener = SILENT,
    every: float = 15.0,
    pause: Callable[[float], None] = time.sleep,
) -> TrainingJob:
    """Pass on a job's stages and its log until it has ended.

    Raises:
        CloudError: it failed or was stopped; the message has its reason.
    """
    log, stage = _Log(cloud.client("logs"), name), ""
    while True:
        job = look(cloud, name)
        if job.stage != stage:
            stage = job.stage
            listener.say(f"{name}: {stage}")
        for line in log.lines():
            listener.say(line)
        if job.status in _ENDED:
            break
        pause(every)
    if job.status != "Completed":
        reason = (job.failure or job.stage).rstrip(".")
        raise CloudError(f"training job {name} {job.status.lower()}: {reason}; its log is in {_LOGS}.")
    return job
