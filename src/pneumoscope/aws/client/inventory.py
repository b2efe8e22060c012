"""What `deploy`, `train` and `score` created in the account: listing it, with its state, and removing endpoints."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pneumoscope.aws.client.bucket import list_files, remove_file
from pneumoscope.aws.client.stack import delete_stack, find_stack, list_stacks, stack_parameters
from pneumoscope.aws.client.train import TAG
from pneumoscope.aws.session import Cloud, call_or_none, translate_errors
from pneumoscope.contract import CONTRACT_FILE
from pneumoscope.errors import CloudError
from pneumoscope.settings.aws import Variant
from pneumoscope.settings.aws_names import Location, parse_location

ARCHIVE = "model.tar.gz"
TRANSFORM_PREFIX = "pneumoscope-score-"  # of the names of batch transform jobs
_PRODUCT = "Pneumoscope"  # the first word of our templates' descriptions
_PAGE = 100  # training jobs per page, SageMaker's maximum


def stack_name(name: str) -> str:
    """The name of an endpoint's stack."""
    return f"pneumoscope-{name}"


@dataclass(frozen=True, kw_only=True)
class DeployedResource:
    """Something that `deploy` created: `name` describes it, `remove` deletes it."""

    name: str
    remove: Callable[[], object]


def deployed_resources(
    cloud: Cloud, name: str, *, keep_model: bool = False, pause: Callable[[float], None] = time.sleep
) -> Iterator[DeployedResource]:
    """What `deploy` created for an endpoint, in the order of removal.

    The stack comes last because its parameters locate the models' files: an interrupted removal can be repeated.

    Args:
        cloud: the clients for the endpoint's region.
        name: the endpoint's name.
        keep_model: leave out the models' files.
        pause: sleeps for a number of seconds; tests replace it.

    Raises:
        CloudError: AWS refuses.
    """
    if (stack := find_stack(cloud, stack_name(name))) is None:
        return
    if not keep_model:
        parameters = stack_parameters(stack)
        model = Location(bucket=parameters["ModelBucketName"], key=parameters["ModelPrefix"])
        yield from _model_files(cloud, name, model.folder)  # the folder above has one folder per model
    delete = partial(delete_stack, cloud, stack, pause=pause)
    yield DeployedResource(name=f"stack {stack['StackName']} with endpoint {name}", remove=delete)


def capture_location(cloud: Cloud, name: str) -> str | None:
    """Where an endpoint captures films and responses, or None if it captures nothing. They outlive the endpoint.

    Raises:
        CloudError: access to it is denied.
    """
    parameters = stack_parameters(find_stack(cloud, stack_name(name)) or {})
    return (
        f"s3://{parameters['CaptureBucketName']}/{parameters['CapturePrefix']}"
        if parameters.get("CaptureBucketName")
        else None
    )


def status(cloud: Cloud) -> list[dict[str, str]]:
    """Our stacks and jobs in this region: `kind`, `name`, `state` and `made`, the time of creation (UTC).

    Raises:
        CloudError: AWS refuses.
    """
    stacks = [each for each in list_stacks(cloud) if each.get("Description", "").startswith(_PRODUCT)]
    return [_stack_row(each) for each in stacks] + _training_job_rows(cloud) + _transform_job_rows(cloud)


def variant_and_contract(cloud: Cloud, name: str) -> tuple[Variant, Location | None]:
    """An endpoint's variant, and where its model's contract is, if the model is in S3.

    Raises:
        CloudError: the endpoint does not exist, or access to it is denied.
    """
    config = endpoint_config(cloud, name)
    production: dict[str, Any] = next(iter(config.get("ProductionVariants", [])), {})
    model = describe_resource(cloud, "model", production.get("ModelName", name)) or {}
    # A model made by others may have several containers, or no files in S3.
    url = model.get("PrimaryContainer", {}).get("ModelDataUrl", "")
    contract = parse_location(url).folder / CONTRACT_FILE if url.startswith("s3://") else None
    if config.get("AsyncInferenceConfig"):
        return "async", contract
    return ("serverless" if "ServerlessConfig" in production else "realtime"), contract


def endpoint_config(cloud: Cloud, name: str) -> dict[str, Any]:
    """AWS's description of an endpoint's configuration.

    Raises:
        CloudError: the endpoint does not exist, or access to it is denied.
    """
    endpoint = describe_resource(cloud, "endpoint", name)
    if endpoint is None:
        raise CloudError(
            f"there is no endpoint {name} in {cloud.region}; `pneumoscope aws status` lists those of this region."
        )
    return describe_resource(cloud, "endpoint_config", endpoint["EndpointConfigName"]) or {}


def describe_resource(cloud: Cloud, kind: str, name: str) -> dict[str, Any] | None:
    """AWS's description of an endpoint, an endpoint configuration or a model; None if it does not exist.

    Raises:
        CloudError: access to it is denied.
    """
    describe = getattr(cloud.client("sagemaker"), f"describe_{kind}")
    # All of SageMaker's errors are ValidationException; only the message tells a missing resource from a bad request.
    argument = "".join(part.capitalize() for part in kind.split("_")) + "Name"
    return call_or_none(f"{kind.replace('_', ' ')} {name}", describe, ".*Could not find", **{argument: name})


def _model_files(cloud: Cloud, name: str, folder: Location) -> Iterator[DeployedResource]:
    """The files of all models that were deployed for an endpoint, found by their tag."""
    for each in list(list_files(cloud, folder)):
        file = Location(bucket=folder.bucket, key=each["Key"])
        is_model = file.key.rpartition("/")[2] in (ARCHIVE, CONTRACT_FILE)
        if is_model and {"Key": TAG, "Value": name} in _tags(cloud, file):
            yield DeployedResource(name=str(file), remove=partial(remove_file, cloud, file))


def _tags(cloud: Cloud, file: Location) -> list[dict[str, str]]:
    read, absent = cloud.client("s3").get_object_tagging, "NoSuchKey|404"  # deleted since it was listed
    reply = call_or_none(f"reading {file}", read, absent, Bucket=file.bucket, Key=file.key)
    return [] if reply is None else list(reply["TagSet"])


def _stack_row(stack: dict[str, Any]) -> dict[str, str]:
    endpoint = stack_parameters(stack).get("EndpointName")
    kind, name = ("stack", stack["StackName"]) if endpoint is None else ("endpoint", endpoint)
    return _row(kind, name, stack["StackStatus"], stack["CreationTime"])


def _training_job_rows(cloud: Cloud) -> list[dict[str, str]]:
    """Our training jobs, found by SageMaker's search.

    It returns tags too. Other calls would be needed once for each of an account's jobs, and there may be hundreds.
    """
    with translate_errors("listing training jobs"):
        search = cloud.client("sagemaker").get_paginator("search")
        pages = search.paginate(Resource="TrainingJob", PaginationConfig={"PageSize": _PAGE})
        found = [each["TrainingJob"] for page in pages for each in page["Results"]]
    return [
        _row("training job", job["TrainingJobName"], job["TrainingJobStatus"], job["CreationTime"])
        for job in found
        if any(tag["Key"] == TAG for tag in job.get("Tags", []))
    ]


def _transform_job_rows(cloud: Cloud) -> list[dict[str, str]]:
    """Our batch transform jobs, by their names: SageMaker's search does not know this kind of job."""
    with translate_errors("listing transform jobs"):
        pages = cloud.client("sagemaker").get_paginator("list_transform_jobs").paginate(NameContains=TRANSFORM_PREFIX)
        found = [each for page in pages for each in page["TransformJobSummaries"]]
    return [
        _row("transform job", job["TransformJobName"], job["TransformJobStatus"], job["CreationTime"])
        for job in found
        if job["TransformJobName"].startswith(TRANSFORM_PREFIX)
    ]


def _row(kind: str, name: str, state: str, made: datetime) -> dict[str, str]:
    return {"kind": kind, "name": name, "state": state, "made": f"{made.astimezone(UTC):%Y-%m-%d %H:%M}"}
