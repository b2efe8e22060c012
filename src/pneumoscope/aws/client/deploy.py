"""An endpoint from a bundle: its model into S3, and a stack of CloudFormation around it."""

import time
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from pneumoscope.aws.client.bucket import check_bucket
from pneumoscope.aws.client.images import InstanceType, has_disks
from pneumoscope.aws.client.inventory import described, remove_file, stack_of
from pneumoscope.aws.client.model import files_of, send_model, verified
from pneumoscope.aws.client.stack import await_stack, find_stack, put_stack
from pneumoscope.aws.client.train import TAG, role_arn
from pneumoscope.aws.session import Cloud, Location, in_words, parse_location
from pneumoscope.contract import load_contract
from pneumoscope.engine import MODEL_FILE
from pneumoscope.errors import BusyError, CloudError
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.aws import EndpointOptions
from pneumoscope.settings.names import EndpointName

_DIGITS = 12  # of a model's SHA-256, for its folder


class Deployment(EndpointOptions):
    """What an endpoint is to be. Its stack's name is its own after `pneumoscope-`. Places are in S3."""

    name: EndpointName
    place: str = Field(description="Where its models go, and an asynchronous endpoint's results.")
    image: str = Field(min_length=1)
    for_ray: bool = Field(description="The image is AWS's for Ray Serve; else ours.")
    instance_type: InstanceType

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.capture is not None and self.variant != "realtime":
            raise ValueError(f"an endpoint of variant {self.variant} captures nothing; leave out --capture")
        if self.capture is not None and not parse_location(self.capture).key:
            raise ValueError("captures need a folder of their own, such as s3://BUCKET/captures")
        if self.variant == "serverless" and self.most_instances > 1:
            raise ValueError("a serverless endpoint has no instances; leave out --instances and --most-instances")
        return self

    @property
    def folder(self) -> Location:
        """The prefix of everything that is put into S3 for it."""
        return parse_location(self.place) / self.name


def deploy(
    cloud: Cloud,
    wanted: Deployment,
    source: Path | Location,
    *,
    wait: bool = True,
    listener: Listener = SILENT,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Make an endpoint's stack, or update the one that is there; what was made is removed again if that fails.

    Args:
        cloud: of the endpoint's region.
        wanted: see there.
        source: a bundle, or a training job's `model.tar.gz` in S3; verified before anything is made.
        wait: until the endpoint is in service.
        listener: hears of progress.
        pause: waits so many seconds.

    Raises:
        BundleError: the bundle does not verify.
        CloudError: bucket or role are missing, the name is another's, AWS refuses, or the endpoint does not start.
    """
    if wanted.capture is not None:
        check_bucket(cloud, parse_location(wanted.capture))
    role = None if wanted.role is None else role_arn(cloud, wanted.role)
    _require_ours(cloud, wanted.name)
    with verified(cloud, source, listener) as bundle:
        digest = load_contract(bundle).files[MODEL_FILE][:_DIGITS]
        folder = wanted.folder / (f"{digest}-ray" if wanted.for_ray else digest)
        is_new = send_model(
            cloud,
            bundle,
            folder,
            tag=wanted.name,
            for_ray=wanted.for_ray,
            kms_key=wanted.kms_key,
            listener=listener,
        )
    try:
        parameters = describe(cloud, wanted, folder, role)
        stack = put_stack(cloud, stack_of(wanted.name), _template(), parameters, {TAG: wanted.name})
        if wait:
            await_stack(cloud, stack, listener=listener, pause=pause)
    except BusyError:  # the stack may be made all the same
        raise
    except CloudError:
        if is_new:
            _remove(cloud, folder)
        raise


def describe(cloud: Cloud, wanted: Deployment, folder: Location, role: str | None) -> dict[str, str]:
    """The template's parameters for an endpoint whose model lies in a folder."""
    capture = None if wanted.capture is None else parse_location(wanted.capture)
    return {
        "EndpointName": wanted.name,
        "Serving": wanted.variant,
        "ImageUri": wanted.image,
        "ServedByRay": _truth(wanted.for_ray),
        "ModelBucketName": folder.bucket,
        "ModelPrefix": folder.key,
        "RoleArn": role or "",
        "InstanceType": wanted.instance_type,
        "InstanceDisks": _truth(has_disks(wanted.instance_type)),
        "MinInstances": str(wanted.instances),
        "MaxInstances": str(max(wanted.instances, wanted.most_instances)),
        "InvocationsPerInstance": str(wanted.calls_per_minute),
        "ServerlessMemory": str(wanted.memory_mb),
        "Concurrency": str(wanted.concurrency),
        "AsyncPrefix": wanted.folder.key if wanted.variant == "async" else "",
        "CaptureBucketName": "" if capture is None else capture.bucket,
        "CapturePrefix": "captures" if capture is None else capture.key,
        "KmsKeyArn": "" if wanted.kms_key is None else _key_arn(cloud, wanted.kms_key),
    }


def _truth(value: bool) -> str:  # noqa: FBT001
    return "true" if value else "false"


def _key_arn(cloud: Cloud, key: str) -> str:
    if key.startswith("arn:"):
        return key
    with in_words("the account's number"):
        account = cloud.client("sts").get_caller_identity()["Account"]
    return f"arn:{cloud.partition}:kms:{cloud.region}:{account}:key/{key}"


def _template() -> str:
    return resources.files("pneumoscope.aws.client").joinpath("endpoint.yaml").read_text(encoding="utf-8")


def _remove(cloud: Cloud, folder: Location) -> None:
    """Remove a model that nothing uses. What failed first is told, not what fails now."""
    for file in files_of(folder):
        with suppress(CloudError):
            remove_file(cloud, file)


def _require_ours(cloud: Cloud, name: str) -> None:
    """Refuse a name whose endpoint no stack of ours has made."""
    if described(cloud, "endpoint", name) is not None and find_stack(cloud, stack_of(name)) is None:
        raise CloudError(f"there is an endpoint {name} already that was not made by a stack; choose another --name.")
