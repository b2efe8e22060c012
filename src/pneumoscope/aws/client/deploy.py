"""Creating an endpoint from a bundle: the model goes to S3, and a CloudFormation stack is built around it."""

import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from pneumoscope.aws.client.bucket import check_bucket
from pneumoscope.aws.client.images import RAY_SERVE, aws_image, has_disks
from pneumoscope.aws.client.inventory import describe_resource, stack_name
from pneumoscope.aws.client.model_upload import remove_model, send_model, verified_bundle
from pneumoscope.aws.client.stack import await_stack, find_stack, put_stack
from pneumoscope.aws.client.train import TAG, role_arn
from pneumoscope.aws.session import Cloud, translate_errors
from pneumoscope.contract import load_contract
from pneumoscope.engine import MODEL_FILE
from pneumoscope.errors import BusyError, CloudError, UsageError
from pneumoscope.progress import SILENT, Listener
from pneumoscope.settings.aws import Deploy
from pneumoscope.settings.aws_names import Location, checked_name

_DIGEST_DIGITS = 12  # of the model's SHA-256, which names its folder: another model never overwrites one in use


def endpoint_name(settings: Deploy) -> str:
    """An endpoint's name: the one given, or else the bundle's. A bundle's contract is checked in both cases.

    Raises:
        BundleError: the bundle's contract is damaged.
        UsageError: no name is given for a model in S3, or SageMaker does not allow the bundle's name.
    """
    if isinstance(settings.source, Path):
        contract = load_contract(settings.source)
        try:
            return settings.name or checked_name(contract.name)
        except ValueError as failure:
            raise UsageError(f"{failure}; pass --name.") from None
    if settings.name is None:
        raise UsageError("--name is missing; the name of a model in S3 is not known before it is downloaded.")
    return settings.name


def deploy(
    cloud: Cloud, settings: Deploy, *, listener: Listener = SILENT, pause: Callable[[float], None] = time.sleep
) -> None:
    """Create an endpoint's stack, or update the existing one. If that fails, what was created is removed again.

    After a `BusyError` nothing is removed: AWS may still complete the stack, which then needs the model.

    Args:
        cloud: the clients for the endpoint's region.
        settings: of `pneumoscope aws deploy`. The source is verified before anything is created.
        listener: receives progress.
        pause: sleeps for a number of seconds; tests replace it.

    Raises:
        BundleError: the bundle fails verification.
        UsageError: a bucket is public, no valid name is given, or the registry of AWS's images is unknown.
        CloudError: the bucket or the role does not exist, the name belongs to an endpoint that we did not create, AWS
            refuses, or the endpoint does not start.
    """
    name, for_ray = endpoint_name(settings), settings.serving == "ray"
    if settings.capture is not None:
        check_bucket(cloud, settings.capture)
    role = None if settings.role is None else role_arn(cloud, settings.role)
    # Before the model is downloaded, verified and uploaded.
    _require_own_endpoint(cloud, name)
    with verified_bundle(cloud, settings.source, listener) as bundle:
        digest = load_contract(bundle).files[MODEL_FILE][:_DIGEST_DIGITS]
        folder = settings.to / name / (f"{digest}-ray" if for_ray else digest)
        parameters = make_parameters(cloud, settings, name, folder, role)
        is_new = send_model(
            cloud, bundle, folder, tag=name, for_ray=for_ray, kms_key=settings.kms_key, listener=listener
        )
    template = resources.files("pneumoscope.aws.client").joinpath("endpoint.yaml").read_text(encoding="utf-8")
    try:
        stack = put_stack(cloud, stack_name(name), template, parameters, {TAG: name})
        # If nothing is updated, the stack's status is of an earlier operation, which may have failed.
        if settings.wait and stack is not None:
            await_stack(cloud, stack, listener=listener, pause=pause)
    except BusyError:  # the stack may still come up, so its model must stay
        raise
    except CloudError:
        # A folder that was there before may belong to a running endpoint.
        if is_new:
            remove_model(cloud, folder)
        raise


def make_parameters(cloud: Cloud, settings: Deploy, name: str, folder: Location, role: str | None) -> dict[str, str]:
    """The parameters of the template `endpoint.yaml`, for an endpoint whose model is in a folder of S3.

    Raises:
        UsageError: the registry of AWS's images in this region is unknown.
        CloudError: the KMS key does not exist, or access to it is denied.
    """
    capture = settings.capture
    return {
        "EndpointName": name,
        "Serving": settings.variant,
        "ImageUri": settings.image or aws_image(RAY_SERVE, cloud.region),
        "ServedByRay": str(settings.serving == "ray").lower(),
        "ModelBucketName": folder.bucket,
        "ModelPrefix": folder.key,
        "RoleArn": role or "",
        "InstanceType": settings.instance_type,
        "InstanceDisks": str(has_disks(settings.instance_type)).lower(),
        "MinInstances": str(settings.instances),
        "MaxInstances": str(max(settings.instances, settings.most_instances)),
        "InvocationsPerInstance": str(settings.calls_per_minute),
        "ServerlessMemory": str(settings.memory_mb),
        "Concurrency": str(settings.concurrency),
        "AsyncPrefix": folder.folder.key if settings.variant == "async" else "",
        "CaptureBucketName": "" if capture is None else capture.bucket,
        "CapturePrefix": "captures" if capture is None else capture.key,
        "KmsKeyArn": "" if settings.kms_key is None else _key_arn(cloud, settings.kms_key),
    }


def _key_arn(cloud: Cloud, key: str) -> str:
    if key.startswith("arn:"):
        return key
    with translate_errors(f"key {key}"):
        return str(cloud.client("kms").describe_key(KeyId=key)["KeyMetadata"]["Arn"])


def _require_own_endpoint(cloud: Cloud, name: str) -> None:
    """Refuse the name of an existing endpoint that no stack of ours created."""
    if describe_resource(cloud, "endpoint", name) is not None and find_stack(cloud, stack_name(name)) is None:
        raise CloudError(f"endpoint {name} already exists and was not created by a stack; choose another --name.")
