"""What `deploy` and `train` have made: what is there, how it stands, and its removal."""

from typing import Any, Literal, TypeAlias

from botocore import exceptions

from pneumoscope.aws.jobs import TAG
from pneumoscope.aws.session import Cloud, Location, in_words, parse_location
from pneumoscope.contract import CONTRACT_FILE
from pneumoscope.errors import CloudError

Variant: TypeAlias = Literal["realtime", "serverless", "async"]
ARCHIVE = "model.tar.gz"
PRODUCTION = "AllTraffic"
NAMESPACE = "sagemaker"  # of Application Auto Scaling
#: What an endpoint is made of, in the order of removal.
KINDS = (("endpoint", "an endpoint"), ("endpoint_config", "an endpoint configuration"), ("model", "a model"))


def scaled(name: str) -> str:
    """An endpoint to Application Auto Scaling."""
    return f"endpoint/{name}/variant/{PRODUCTION}"


def described(cloud: Cloud, kind: str, name: str) -> dict[str, Any] | None:
    """AWS's description of an endpoint, configuration or model, or None if there is none.

    Raises:
        CloudError: it may not be looked at.
    """
    client = cloud.client("sagemaker")
    with in_words(f"{kind.replace('_', ' ')} {name}"):
        try:
            return dict(getattr(client, f"describe_{kind}")(**{_parameter(kind): name}))
        except exceptions.ClientError as failure:
            if "Could not find" in str(failure):  # a ValidationException like any other
                return None
            raise


def _parameter(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("_")) + "Name"


def teardown(cloud: Cloud, name: str, folder: Location | None = None) -> list[str]:
    """Remove what `deploy` made under a name, and nothing that does not bear its tag; what was removed.

    Args:
        cloud: of the endpoint's region.
        name: of the endpoint.
        folder: where its model lies in S3, if no model says so any more.

    Raises:
        CloudError: AWS refuses.
    """
    sagemaker, removed = cloud.client("sagemaker"), list[str]()
    model = described(cloud, "model", name)
    if model is not None and folder is None:
        folder = parse_location(model["PrimaryContainer"]["ModelDataUrl"]).folder
    for kind, _ in KINDS:
        told = described(cloud, kind, name)
        if told is None or not _ours(sagemaker, told[_parameter(kind).removesuffix("Name") + "Arn"], name):
            continue
        if kind == "endpoint":
            removed += _remove_scaling(cloud, name)
        with in_words(f"removing {kind.replace('_', ' ')} {name}"):
            getattr(sagemaker, f"delete_{kind}")(**{_parameter(kind): name})
        removed.append(f"{kind.replace('_', ' ')} {name}")
    return removed + ([] if folder is None else _remove_files(cloud, name, folder))


def _ours(sagemaker: Any, arn: str, name: str) -> bool:
    with in_words(arn):
        tags = sagemaker.list_tags(ResourceArn=arn)["Tags"]
    return {"Key": TAG, "Value": name} in tags


def _remove_scaling(cloud: Cloud, name: str) -> list[str]:
    client, target = cloud.client("application-autoscaling"), {"ServiceNamespace": NAMESPACE}
    with in_words(f"scaling of endpoint {name}"):
        found = client.describe_scalable_targets(**target, ResourceIds=[scaled(name)])["ScalableTargets"]
        for each in found:  # its policies and their alarms go with it
            client.deregister_scalable_target(
                **target, ResourceId=each["ResourceId"], ScalableDimension=each["ScalableDimension"]
            )
    return [f"scaling of endpoint {name}" for _ in found]


def _remove_files(cloud: Cloud, name: str, folder: Location) -> list[str]:
    s3, removed = cloud.client("s3"), list[str]()
    for file in (folder / ARCHIVE, folder / CONTRACT_FILE):
        place = {"Bucket": file.bucket, "Key": file.key}
        with in_words(f"removing {file}"):
            try:
                tags = s3.get_object_tagging(**place)["TagSet"]
            except s3.exceptions.NoSuchKey:
                continue
            if {"Key": TAG, "Value": name} in tags:
                s3.delete_object(**place)
                removed.append(str(file))
    return removed


def status(cloud: Cloud) -> list[dict[str, str]]:
    """What bears our tag in this region: kind, name, state, when it was made; training jobs too.

    Raises:
        CloudError: AWS refuses.
    """
    sagemaker, found = cloud.client("sagemaker"), list[dict[str, str]]()
    for kind, (operation, listed_as, state) in _LISTED.items():
        with in_words(f"listing {kind}s"):
            for page in sagemaker.get_paginator(operation).paginate():
                for each in page[listed_as]:
                    stem = "".join(part.capitalize() for part in kind.split())
                    with in_words(each[f"{stem}Arn"]):
                        tags = sagemaker.list_tags(ResourceArn=each[f"{stem}Arn"])["Tags"]
                    if any(tag["Key"] == TAG for tag in tags):
                        made = each["CreationTime"].strftime("%Y-%m-%d %H:%M")
                        found.append(
                            {"kind": kind, "name": each[f"{stem}Name"], "state": each.get(state, ""), "made": made}
                        )
    return found


_LISTED = {
    "endpoint": ("list_endpoints", "Endpoints", "EndpointStatus"),
    "endpoint config": ("list_endpoint_configs", "EndpointConfigs", ""),
    "model": ("list_models", "Models", ""),
    "training job": ("list_training_jobs", "TrainingJobSummaries", "TrainingJobStatus"),
}


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
    url = model.get("PrimaryContainer", {}).get("ModelDataUrl")
    contract = None if url is None else parse_location(url).folder / CONTRACT_FILE
    if "AsyncInferenceConfig" in config:
        return "async", contract
    return ("serverless" if "ServerlessConfig" in production else "realtime"), contract
