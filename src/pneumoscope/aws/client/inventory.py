"""What `deploy` and `train` have made: what is there, how it stands, and its removal."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from pneumoscope.aws.client.bucket import list_files, remove_file
from pneumoscope.aws.client.stack import delete_stack, find_stack, list_stacks, parameters_of
from pneumoscope.aws.client.train import TAG
from pneumoscope.aws.session import Cloud, ask_for, in_words
from pneumoscope.contract import CONTRACT_FILE
from pneumoscope.errors import CloudError
from pneumoscope.settings.aws import Variant
from pneumoscope.settings.aws_names import Location, parse_location

ARCHIVE = "model.tar.gz"
_PRODUCT = "Pneumoscope"  # with which the descriptions of our templates begin
_PAGE = 100  # training jobs in one answer, the most there may be


def stack_of(name: str) -> str:
    """The stack of an endpoint."""
    return f"pneumoscope-{name}"


@dataclass(frozen=True, kw_only=True)
class Belonging:
    """Something that `deploy` made. `name` says what it is, `remove` removes it."""

    name: str
    remove: Callable[[], object]


def belongings(
    cloud: Cloud, name: str, *, keep_model: bool = False, pause: Callable[[float], None] = time.sleep
) -> Iterator[Belonging]:
    """What `deploy` made under a name, in the order of removal.

    The stack goes last, for it tells where its models' files are: what is broken off can be repeated.

    Args:
        cloud: of the endpoint's region.
        name: of the endpoint.
        keep_model: leave the models' files out.
        pause: waits so many seconds.

    Raises:
        CloudError: AWS refuses.
    """
    if (stack := find_stack(cloud, stack_of(name))) is None:
        return
    if not keep_model:
        given = parameters_of(stack)
        model = Location(bucket=given["ModelBucketName"], key=given["ModelPrefix"])
        yield from _files(cloud, name, model.folder)  # in which each of the endpoint's models has one
    delete = partial(delete_stack, cloud, stack, pause=pause)
    yield Belonging(name=f"stack {stack['StackName']} with endpoint {name}", remove=delete)


def captured(cloud: Cloud, name: str) -> str | None:
    """Where the films and answers that an endpoint has captured lie: they outlive it.

    Raises:
        CloudError: access to it is denied.
    """
    given = parameters_of(find_stack(cloud, stack_of(name)) or {})
    return f"s3://{given['CaptureBucketName']}/{given['CapturePrefix']}" if given.get("CaptureBucketName") else None


def status(cloud: Cloud) -> list[dict[str, str]]:
    """Our stacks and training jobs in this region: kind, name, state, when it was made.

    Raises:
        CloudError: AWS refuses.
    """
    stacks = [each for each in list_stacks(cloud) if each.get("Description", "").startswith(_PRODUCT)]
    return [_stack_row(each) for each in stacks] + _jobs(cloud)


def limits_of(cloud: Cloud, name: str) -> tuple[Variant, Location | None]:
    """An endpoint's variant, and where its model's contract lies, as far as AWS tells.

    Raises:
        CloudError: there is no such endpoint, or access to it is denied.
    """
    config = config_of(cloud, name)
    production: dict[str, Any] = next(iter(config.get("ProductionVariants", [])), {})
    model = described(cloud, "model", production.get("ModelName", name)) or {}
    url = model.get("PrimaryContainer", {}).get("ModelDataUrl", "")  # others' models have several, or none in S3
    contract = parse_location(url).folder / CONTRACT_FILE if url.startswith("s3://") else None
    if config.get("AsyncInferenceConfig"):
        return "async", contract
    return ("serverless" if "ServerlessConfig" in production else "realtime"), contract


def config_of(cloud: Cloud, name: str) -> dict[str, Any]:
    """AWS's description of an endpoint's configuration.

    Raises:
        CloudError: there is no such endpoint, or access to it is denied.
    """
    endpoint = described(cloud, "endpoint", name)
    if endpoint is None:
        raise CloudError(
            f"there is no endpoint {name} in {cloud.region}; `pneumoscope aws status` lists those made here."
        )
    return described(cloud, "endpoint_config", endpoint["EndpointConfigName"]) or {}


def described(cloud: Cloud, kind: str, name: str) -> dict[str, Any] | None:
    """AWS's description of an endpoint, configuration or model, or None if there is none.

    Raises:
        CloudError: access to it is denied.
    """
    describe = getattr(cloud.client("sagemaker"), f"describe_{kind}")
    argument = "".join(part.capitalize() for part in kind.split("_")) + "Name"
    return ask_for(f"{kind.replace('_', ' ')} {name}", describe, ".*Could not find", **{argument: name})


def _files(cloud: Cloud, name: str, folder: Location) -> Iterator[Belonging]:
    """The files of every model that was deployed under a name, by their tag."""
    for each in list(list_files(cloud, folder)):
        file = Location(bucket=folder.bucket, key=each["Key"])
        is_model = file.key.rpartition("/")[2] in (ARCHIVE, CONTRACT_FILE)
        if is_model and {"Key": TAG, "Value": name} in _tags(cloud, file):
            yield Belonging(name=str(file), remove=partial(remove_file, cloud, file))


def _tags(cloud: Cloud, file: Location) -> list[dict[str, str]]:
    read, gone = cloud.client("s3").get_object_tagging, "NoSuchKey|404"  # since it was listed
    reply = ask_for(f"reading {file}", read, gone, Bucket=file.bucket, Key=file.key)
    return [] if reply is None else list(reply["TagSet"])


def _stack_row(stack: dict[str, Any]) -> dict[str, str]:
    endpoint = parameters_of(stack).get("EndpointName")
    kind, name = ("stack", stack["StackName"]) if endpoint is None else ("endpoint", endpoint)
    return _row(kind, name, stack["StackStatus"], stack["CreationTime"])


def _jobs(cloud: Cloud) -> list[dict[str, str]]:
    """Training jobs by SageMaker's search, which tells their tags along: accounts have hundreds, and keep them."""
    with in_words("listing training jobs"):
        search = cloud.client("sagemaker").get_paginator("search")
        pages = search.paginate(Resource="TrainingJob", PaginationConfig={"PageSize": _PAGE})
        found = [each["TrainingJob"] for page in pages for each in page["Results"]]
    return [
        _row("training job", job["TrainingJobName"], job["TrainingJobStatus"], job["CreationTime"])
        for job in found
        if any(tag["Key"] == TAG for tag in job.get("Tags", []))
    ]


def _row(kind: str, name: str, state: str, made: datetime) -> dict[str, str]:
    return {"kind": kind, "name": name, "state": state, "made": f"{made:%Y-%m-%d %H:%M}"}
