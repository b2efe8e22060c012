"""An endpoint from a bundle: its model into S3, and a stack of CloudFormation around it."""

import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from pneumoscope.aws.client.bucket import check_bucket
from pneumoscope.aws.client.images import RAY_SERVE, aws_image, has_disks
from pneumoscope.aws.client.inventory import described, stack_of
from pneumoscope.aws.client.model_upload import remove_model, send_model, verified
from pneumoscope.aws.client.stack import await_stack, find_stack, put_stack
from pneumoscope.aws.client.train import TAG, role_arn
from pneumoscope.aws.session import Cloud, in_words
from pneumoscope.contract import load_contract
from pneumoscope.engine import MODEL_FILE
from pneumoscope.errors import BusyError, CloudError, UsageError
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.aws import Deploy
from pneumoscope.settings.aws_names import Location, checked_name

_DIGITS = 12  # of a model's SHA-256, for its folder


def name_of(wanted: Deploy) -> str:
    """An endpoint's name: the one asked for, or else the bundle's. A bundle's contract is checked either way.

    Raises:
        BundleError: the bundle's contract is damaged.
        UsageError: no name is given, or SageMaker does not allow it.
    """
    if isinstance(wanted.source, Path):
        contract = load_contract(wanted.source)
        try:
            return wanted.name or checked_name(contract.name)
        except ValueError as failure:
            raise UsageError(f"{failure}; pass --name.") from None
    if wanted.name is None:
        raise UsageError("--name is missing; a model in S3 does not tell its name before it is fetched.")
    return wanted.name


def deploy(
    cloud: Cloud, wanted: Deploy, *, listener: Listener = SILENT, pause: Callable[[float], None] = time.sleep
) -> None:
    """Make an endpoint's stack, or update the one that is there; what was made is removed again if that fails.

    Args:
        cloud: of the endpoint's region.
        wanted: its source, a bundle or a training job's `model.tar.gz` in S3, is verified before anything is made.
        listener: hears of progress.
        pause: waits so many seconds.

    Raises:
        BundleError: the bundle does not verify.
        CloudError: bucket or role are missing, the name is another's, AWS refuses, or the endpoint does not start.
    """
    name, for_ray = name_of(wanted), wanted.serving == "ray"
    if wanted.capture is not None:
        check_bucket(cloud, wanted.capture)
    role = None if wanted.role is None else role_arn(cloud, wanted.role)
    _require_ours(cloud, name)
    with verified(cloud, wanted.source, listener) as bundle:
        digest = load_contract(bundle).files[MODEL_FILE][:_DIGITS]
        folder = wanted.to / name / (f"{digest}-ray" if for_ray else digest)
        parameters = describe(cloud, wanted, name, folder, role)
        is_new = send_model(cloud, bundle, folder, tag=name, for_ray=for_ray, kms_key=wanted.kms_key, listener=listener)
    template = resources.files("pneumoscope.aws.client").joinpath("endpoint.yaml").read_text(encoding="utf-8")
    try:
        stack = put_stack(cloud, stack_of(name), template, parameters, {TAG: name})
        if wanted.wait:
            await_stack(cloud, stack, listener=listener, pause=pause)
    except BusyError:  # the stack may be made all the same
        raise
    except CloudError:
        if is_new:
            remove_model(cloud, folder)
        raise


def describe(cloud: Cloud, wanted: Deploy, name: str, folder: Location, role: str | None) -> dict[str, str]:
    """The template's parameters for an endpoint whose model is to lie in a folder.

    Raises:
        UsageError: the region's registry of AWS's images is not known here.
        CloudError: there is no key with this id, or access to it is denied.
    """
    capture = wanted.capture
    return {
        "EndpointName": name,
        "Serving": wanted.variant,
        "ImageUri": wanted.image or aws_image(RAY_SERVE, cloud.region),
        "ServedByRay": str(wanted.serving == "ray").lower(),
        "ModelBucketName": folder.bucket,
        "ModelPrefix": folder.key,
        "RoleArn": role or "",
        "InstanceType": wanted.instance_type,
        "InstanceDisks": str(has_disks(wanted.instance_type)).lower(),
        "MinInstances": str(wanted.instances),
        "MaxInstances": str(max(wanted.instances, wanted.most_instances)),
        "InvocationsPerInstance": str(wanted.calls_per_minute),
        "ServerlessMemory": str(wanted.memory_mb),
        "Concurrency": str(wanted.concurrency),
        "AsyncPrefix": folder.folder.key if wanted.variant == "async" else "",
        "CaptureBucketName": "" if capture is None else capture.bucket,
        "CapturePrefix": "captures" if capture is None else capture.key,
        "KmsKeyArn": "" if wanted.kms_key is None else _key_arn(cloud, wanted.kms_key),
    }


def _key_arn(cloud: Cloud, key: str) -> str:
    if key.startswith("arn:"):
        return key
    with in_words(f"key {key}"):
        return str(cloud.client("kms").describe_key(KeyId=key)["KeyMetadata"]["Arn"])


def _require_ours(cloud: Cloud, name: str) -> None:
    """Refuse a name whose endpoint no stack of ours has made."""
    if described(cloud, "endpoint", name) is not None and find_stack(cloud, stack_of(name)) is None:
        raise CloudError(f"there is an endpoint {name} already that was not made by a stack; choose another --name.")
