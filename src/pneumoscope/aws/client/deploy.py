"""An endpoint from a bundle."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, Literal, Self

from botocore import exceptions
from pydantic import Field, model_validator

from pneumoscope.aws.client.bucket import check_bucket, encryption
from pneumoscope.aws.client.images import InstanceType, has_disks
from pneumoscope.aws.client.inventory import (
    ARCHIVE,
    KINDS,
    NAMESPACE,
    PRODUCTION,
    Variant,
    described,
    remove,
    remove_file,
    scaled,
)
from pneumoscope.aws.client.package import write_model_archive
from pneumoscope.aws.client.train import TAG, role_arn
from pneumoscope.aws.session import Cloud, Location, code_of, in_words, parse_location
from pneumoscope.aws.unpack import unpacked
from pneumoscope.contract import CONTRACT_FILE
from pneumoscope.documents import Document
from pneumoscope.engine import verify
from pneumoscope.errors import CloudError
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.names import EndpointName

_DIMENSION = "sagemaker:variant:DesiredInstanceCount"
_ENDED = {"InService", "Failed", "OutOfService", "UpdateRollbackFailed"}


class Deployment(Document):
    """What an endpoint is to be. Its model, configuration and endpoint all have its name."""

    name: EndpointName
    role: str = Field(min_length=1, description="Name or ARN of the role that the endpoint takes on.")
    place: str = Field(description="Where in S3 the model goes, and an asynchronous endpoint's results.")
    image: str = Field(min_length=1)
    for_ray: bool = Field(description="The image is AWS's for Ray Serve; else ours.")
    variant: Variant
    instance_type: InstanceType
    instances: int = Field(ge=1, le=100)
    most_instances: int = Field(ge=1, le=100, description="More than `instances`: scaled by load up to so many.")
    calls_per_minute: int = Field(ge=1, description="Of one instance, from which on another one is added.")
    memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] = Field(description="Of a serverless endpoint.")
    concurrency: int = Field(ge=1, le=200, description="Calls at a time to a serverless or asynchronous endpoint.")
    capture: str | None = Field(description="Where requests and answers are kept; nowhere if null.")
    kms_key: str | None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.capture is not None and self.variant != "realtime":
            raise ValueError(f"an endpoint of variant {self.variant} captures nothing; leave out --capture")
        if self.variant == "serverless" and self.most_instances > 1:
            raise ValueError("a serverless endpoint has no instances; leave out --instances and --most-instances")
        return self

    @property
    def folder(self) -> Location:
        """The prefix of everything that is put into S3 for it."""
        return parse_location(self.place) / self.name


def deploy(cloud: Cloud, wanted: Deployment, source: Path | Location, *, listener: Listener = SILENT) -> None:
    """Make a model, an endpoint configuration and an endpoint; what was made is removed again if a step fails.

    Args:
        cloud: of the endpoint's region.
        wanted: see there.
        source: a bundle, or a training job's `model.tar.gz` in S3; verified before anything is made.
        listener: hears of progress.

    Raises:
        BundleError: the bundle does not verify.
        CloudError: bucket or role are missing, the name is taken, or AWS refuses.
    """
    check_bucket(cloud, wanted.folder)
    if wanted.capture is not None:
        check_bucket(cloud, parse_location(wanted.capture))
    role = role_arn(cloud, wanted.role)
    _require_free(cloud, wanted.name)
    with _bundle(cloud, source, listener) as bundle:
        listener.say(f"sending {wanted.folder / ARCHIVE}")
        with ExitStack() as undo:
            _send(cloud, wanted, bundle, undo)
            _create(cloud, wanted, role, undo)
            undo.pop_all()
    listener.say(f"endpoint {wanted.name} is being made")


@contextmanager
def _bundle(cloud: Cloud, source: Path | Location, listener: Listener) -> Iterator[Path]:
    if isinstance(source, Path):
        listener.say(f"{source}: {verify(source).cases} golden cases reproduced")
        yield source
        return
    with TemporaryDirectory(prefix="pneumoscope-") as folder:
        archive = Path(folder) / ARCHIVE
        with in_words(f"reading {source}"):
            cloud.client("s3").download_file(source.bucket, source.key, str(archive))
        with unpacked(archive) as (bundle, _):
            listener.say(f"{source}: golden cases reproduced")
            yield bundle


def _send(cloud: Cloud, wanted: Deployment, bundle: Path, undo: ExitStack) -> None:
    """The archive, and beside it the contract for whoever must shrink a film by its rule."""
    options = encryption(wanted.kms_key) | {"Tagging": f"{TAG}={wanted.name}"}
    s3, archive, contract = cloud.client("s3"), wanted.folder / ARCHIVE, wanted.folder / CONTRACT_FILE
    with TemporaryFile() as stream:
        write_model_archive(bundle, stream, for_ray=wanted.for_ray)
        stream.seek(0)
        _put_new(s3, archive, stream, options)
    undo.callback(_unless_refused, remove_file, cloud, archive)
    with in_words(f"writing {contract}"):
        s3.put_object(Bucket=contract.bucket, Key=contract.key, Body=(bundle / CONTRACT_FILE).read_bytes(), **options)
    undo.callback(_unless_refused, remove_file, cloud, contract)


def _put_new(s3: Any, target: Location, stream: IO[bytes], options: dict[str, str]) -> None:
    """Write an object where none is: another endpoint, or a stack, may use what is there."""
    with in_words(f"writing {target}"):
        try:
            s3.put_object(Bucket=target.bucket, Key=target.key, Body=stream, IfNoneMatch="*", **options)
        except exceptions.ClientError as failure:
            if code_of(failure) != "PreconditionFailed":
                raise
            raise CloudError(f"there is {target} already; choose another --name or --to, or remove it.") from failure


def _create(cloud: Cloud, wanted: Deployment, role: str, undo: ExitStack) -> None:
    name, tags = wanted.name, [{"Key": TAG, "Value": wanted.name}]
    making: tuple[tuple[str, dict[str, Any]], ...] = (
        ("model", describe_model(wanted, role)),
        ("endpoint_config", describe_config(wanted)),
    )
    for kind, arguments in making:
        with in_words(f"endpoint {name}"):
            getattr(cloud.client("sagemaker"), f"create_{kind}")(**arguments, Tags=tags)
        undo.callback(_unless_refused, remove, cloud, kind, name)
    try:
        with in_words(f"endpoint {name}"):
            cloud.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name, Tags=tags)
    except CloudError:
        if described(cloud, "endpoint", name) is None:  # it is there if only the answer was lost, and needs its model
            raise


def _unless_refused(step: Callable[..., None], *given: Any) -> None:
    """One step back. What failed first is told, not what failed after it."""
    with suppress(CloudError):
        step(*given)


def describe_model(wanted: Deployment, role: str) -> dict[str, Any]:
    """The arguments of `create_model`, without tags.

    The model reaches no network: it needs none, and what it reads are films. A serverless endpoint cannot be isolated,
    and Ray Serve's image installs packages when it starts.
    """
    return {
        "ModelName": wanted.name,
        "PrimaryContainer": {"Image": wanted.image, "ModelDataUrl": str(wanted.folder / ARCHIVE)},
        "ExecutionRoleArn": role,
        "EnableNetworkIsolation": wanted.variant != "serverless" and not wanted.for_ray,
    }


def describe_config(wanted: Deployment) -> dict[str, Any]:
    """The arguments of `create_endpoint_config`, without tags."""
    variant: dict[str, Any] = {"VariantName": PRODUCTION, "ModelName": wanted.name}
    if wanted.variant == "serverless":
        variant["ServerlessConfig"] = {"MemorySizeInMB": wanted.memory_mb, "MaxConcurrency": wanted.concurrency}
    else:
        variant |= {
            "InstanceType": wanted.instance_type,
            "InitialInstanceCount": wanted.instances,
            "ContainerStartupHealthCheckTimeoutInSeconds": 300,
        }
    arguments: dict[str, Any] = {"EndpointConfigName": wanted.name, "ProductionVariants": [variant]}
    key = {} if wanted.kms_key is None else {"KmsKeyId": wanted.kms_key}
    if wanted.variant == "async":
        arguments["AsyncInferenceConfig"] = {
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": wanted.concurrency},
            "OutputConfig": {
                **key,
                "S3OutputPath": str(wanted.folder / "answers"),
                "S3FailurePath": str(wanted.folder / "failures"),
            },
        }
    if wanted.variant != "serverless" and not has_disks(wanted.instance_type):
        arguments |= key
    if wanted.capture is not None:
        arguments["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": wanted.capture,
            **key,
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        }
    return arguments


def await_service(
    cloud: Cloud,
    name: str,
    *,
    listener: Listener = SILENT,
    every: float = 10.0,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until an endpoint is in service.

    Raises:
        CloudError: it is not going to be; the message has the reason.
    """
    before = ""
    while True:
        with in_words(f"endpoint {name}"):
            told = cloud.client("sagemaker").describe_endpoint(EndpointName=name)
        status = told["EndpointStatus"]
        if status != before:
            listener.say(f"endpoint {name}: {status}")
            before = status
        if status in _ENDED:
            break
        pause(every)
    if status != "InService":
        reason = str(told.get("FailureReason", status)).rstrip(".")
        raise CloudError(f"endpoint {name} did not start: {reason}; remove it with `pneumoscope aws teardown {name}`.")


def scale(cloud: Cloud, wanted: Deployment) -> None:
    """Let an endpoint that is in service grow and shrink with its load.

    Raises:
        CloudError: AWS refuses.
    """
    target = {
        "ServiceNamespace": NAMESPACE,
        "ResourceId": scaled(wanted.name),
        "ScalableDimension": _DIMENSION,
    }
    with in_words(f"scaling of endpoint {wanted.name}"):
        client = cloud.client("application-autoscaling")
        client.register_scalable_target(
            **target, MinCapacity=wanted.instances, MaxCapacity=wanted.most_instances, Tags={TAG: wanted.name}
        )
        client.put_scaling_policy(
            **target,
            PolicyName=f"{wanted.name}-load",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=describe_load(wanted)
            | {"ScaleInCooldown": 300, "ScaleOutCooldown": 60},
        )


def describe_load(wanted: Deployment) -> dict[str, Any]:
    """What an endpoint's size is to follow: the calls of each instance, or if asynchronous, the films that wait."""
    if wanted.variant == "async":
        metric = {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": wanted.name}],
            "Statistic": "Average",
        }
        return {"TargetValue": float(wanted.concurrency), "CustomizedMetricSpecification": metric}
    return {
        "TargetValue": float(wanted.calls_per_minute),
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
    }


def scales(wanted: Deployment) -> bool:
    """Whether it is to grow and shrink."""
    return wanted.most_instances > wanted.instances


def _require_free(cloud: Cloud, name: str) -> None:
    for kind, one in KINDS:
        if described(cloud, kind, name) is not None:
            raise CloudError(
                f"there is {one} {name} already; choose another --name, or remove it with "
                f"`pneumoscope aws teardown {name}`."
            )
