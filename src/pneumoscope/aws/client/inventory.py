"""What `deploy` and `train` have made: what is there, how it stands, and its removal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from botocore import exceptions

from pneumoscope.aws.client.train import TAG
from pneumoscope.aws.session import Cloud, Location, code_of, in_words, parse_location
from pneumoscope.contract import CONTRACT_FILE
from pneumoscope.errors import CloudError

Variant: TypeAlias = Literal["realtime", "serverless", "async"]
ARCHIVE = "model.tar.gz"
PRODUCTION = "AllTraffic"
NAMESPACE = "sagemaker"  # of Application Auto Scaling
_PAGE = 100  # training jobs in one answer, the most there may be
#: What an endpoint is made of, in the order of removal.
KINDS = (("endpoint", "an endpoint"), ("endpoint_config", "an endpoint configuration"), ("model", "a model"))


def scaled(name: str) -> str:
    """An endpoint to Application Auto Scaling."""
    return f"endpoint/{name}/variant/{PRODUCTION}"


def described(cloud: Cloud, kind: str, name: str) -> dict[str, Any] | None:
    """AWS's description of an endpoint, configuration or model, or None if there is none.

    Raises:
        CloudError: access to it is denied.
    """
    client = cloud.client("sagemaker")
    with in_words(f"{kind.replace('_', ' ')} {name}"):
        try:
            return dict(getattr(client, f"describe_{kind}")(**{f"{_stem(kind)}Name": name}))
        except exceptions.ClientError as failure:
            if "Could not find" in str(failure):  # a ValidationException like any other
                return None
            raise


def _stem(kind: str) -> str:
    """A kind as AWS's parameters name it."""
    return "".join(part.capitalize() for part in kind.replace("_", " ").split())


@dataclass(frozen=True, kw_only=True)
class Belonging:
    """Something that `deploy` made. `name` says what it is, `remove` removes it."""

    name: str
    remove: Callable[[], object]


def belongings(cloud: Cloud, name: str, *, keep_model: bool = False) -> Iterator[Belonging]:
    """What `deploy` made under a name, in the order of removal, and nothing that does not bear its tag.

    The model goes last, for it tells where its files are: what is broken off can be repeated.

    Args:
        cloud: of the endpoint's region.
        name: of the endpoint.
        keep_model: leave the model's files out.

    Raises:
        CloudError: AWS refuses.
    """
    found = {kind: ours for kind, _ in KINDS if (ours := _ours(cloud, kind, name)) is not None}
    if "endpoint" in found:
        yield from _scaling(cloud, name)
    for kind, told in found.items():
        if kind == "model" and not keep_model and (folder := folder_of(told)) is not None:
            yield from _files(cloud, name, folder)
        yield Belonging(name=f"{kind.replace('_', ' ')} {name}", remove=partial(remove, cloud, kind, name))


def remove(cloud: Cloud, kind: str, name: str) -> None:
    """Remove an endpoint, endpoint configuration or model.

    Raises:
        CloudError: AWS refuses.
    """
    with in_words(f"removing {kind.replace('_', ' ')} {name}"):
        getattr(cloud.client("sagemaker"), f"delete_{kind}")(**{f"{_stem(kind)}Name": name})


def remove_file(cloud: Cloud, file: Location) -> None:
    """Remove an object from S3.

    Raises:
        CloudError: AWS refuses.
    """
    with in_words(f"removing {file}"):
        cloud.client("s3").delete_object(Bucket=file.bucket, Key=file.key)


def folder_of(model: dict[str, Any]) -> Location | None:
    """Where in S3 a model's archive lies, if that is where it lies; others' models have several, or none."""
    url = model.get("PrimaryContainer", {}).get("ModelDataUrl", "")
    return parse_location(url).folder if url.startswith("s3://") else None


def _ours(cloud: Cloud, kind: str, name: str) -> dict[str, Any] | None:
    told = described(cloud, kind, name)
    if told is None or {"Key": TAG, "Value": name} not in _tags(cloud, told[f"{_stem(kind)}Arn"]):
        return None
    return told


def _tags(cloud: Cloud, arn: str) -> list[dict[str, str]]:
    with in_words(arn):
        return list(cloud.client("sagemaker").list_tags(ResourceArn=arn)["Tags"])


def _scaling(cloud: Cloud, name: str) -> Iterator[Belonging]:
    client, target = cloud.client("application-autoscaling"), {"ServiceNamespace": NAMESPACE}
    what = f"scaling of endpoint {name}"
    with in_words(what):
        found = client.describe_scalable_targets(**target, ResourceIds=[scaled(name)])["ScalableTargets"]

    def deregister(dimension: str) -> None:
        with in_words(f"removing {what}"):  # its policies and their alarms go with it
            client.deregister_scalable_target(**target, ResourceId=scaled(name), ScalableDimension=dimension)

    for each in found:
        yield Belonging(name=what, remove=partial(deregister, each["ScalableDimension"]))


def _files(cloud: Cloud, name: str, folder: Location) -> Iterator[Belonging]:
    for file in (folder / ARCHIVE, folder / CONTRACT_FILE):
        with in_words(f"reading {file}"):
            try:
                tags = cloud.client("s3").get_object_tagging(Bucket=file.bucket, Key=file.key)["TagSet"]
            except exceptions.ClientError as failure:
                if code_of(failure) in ("NoSuchKey", "404"):
                    continue
                raise
        if {"Key": TAG, "Value": name} in tags:
            yield Belonging(name=str(file), remove=partial(remove_file, cloud, file))


def status(cloud: Cloud) -> list[dict[str, str]]:
    """What bears our tag in this region: kind, name, state, when it was made; training jobs too.

    Raises:
        CloudError: AWS refuses.
    """
    return [row for kind in _LISTED for row in _made(cloud, kind)] + _jobs(cloud)


_LISTED = {
    "endpoint": ("list_endpoints", "Endpoints", "EndpointStatus"),
    "endpoint config": ("list_endpoint_configs", "EndpointConfigs", ""),
    "model": ("list_models", "Models", ""),
}


def _made(cloud: Cloud, kind: str) -> Iterator[dict[str, str]]:
    stem, (operation, listed_as, state) = _stem(kind), _LISTED[kind]
    with in_words(f"listing {kind}s"):
        pages = cloud.client("sagemaker").get_paginator(operation).paginate()
        listed = [each for page in pages for each in page[listed_as]]
    for each in listed:
        if _is_tagged(_tags(cloud, each[f"{stem}Arn"])):
            yield _row(kind, each, state)


def _jobs(cloud: Cloud) -> list[dict[str, str]]:
    """Training jobs by SageMaker's search, which tells their tags along: accounts have hundreds, and keep them."""
    with in_words("listing training jobs"):
        search = cloud.client("sagemaker").get_paginator("search")
        pages = search.paginate(Resource="TrainingJob", PaginationConfig={"PageSize": _PAGE})
        found = [each["TrainingJob"] for page in pages for each in page["Results"]]
    return [_row("training job", job, "TrainingJobStatus") for job in found if _is_tagged(job.get("Tags", []))]


def _is_tagged(tags: list[dict[str, str]]) -> bool:
    return any(tag["Key"] == TAG for tag in tags)


def _row(kind: str, told: dict[str, Any], state: str) -> dict[str, str]:
    made = told["CreationTime"].strftime("%Y-%m-%d %H:%M")
    return {"kind": kind, "name": told[f"{_stem(kind)}Name"], "state": told.get(state, ""), "made": made}


def captured(cloud: Cloud, name: str) -> str | None:
    """Where the films and answers that an endpoint has captured lie: they outlive it.

    Raises:
        CloudError: access to it is denied.
    """
    config = described(cloud, "endpoint_config", name) or {}
    capture: dict[str, str] = config.get("DataCaptureConfig") or {}
    return capture.get("DestinationS3Uri")


def limits_of(cloud: Cloud, name: str) -> tuple[Variant, Location | None]:
    """An endpoint's variant, and where its model's contract lies, as far as AWS tells.

    Raises:
        CloudError: there is no such endpoint, or it may not be looked at.
    """
    endpoint = described(cloud, "endpoint", name)
    if endpoint is None:
        raise CloudError(
            f"there is no endpoint {name} in {cloud.region}; `pneumoscope aws status` lists those made here."
        )
    config = described(cloud, "endpoint_config", endpoint["EndpointConfigName"]) or {}
    production: dict[str, Any] = next(iter(config.get("ProductionVariants", [])), {})
    model = described(cloud, "model", production.get("ModelName", name)) or {}
    folder = folder_of(model)
    contract = None if folder is None else folder / CONTRACT_FILE
    if "AsyncInferenceConfig" in config:
        return "async", contract
    return ("serverless" if "ServerlessConfig" in production else "realtime"), contract
