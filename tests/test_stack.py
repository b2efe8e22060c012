"""The template of one endpoint: linted, and stacks of every variant created, updated and deleted in moto."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_cloud import LocalCloud
from samples import REPOSITORY
from stacks import ACCOUNT, REGION, UNMADE, Stack, long_form, make_stack, update_stack

TEMPLATE = REPOSITORY / "deploy" / "aws" / "endpoint.yaml"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0c5e"
ALWAYS = {
    "EndpointName": "films",
    "ImageUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/pneumoscope:1.0",
    "ModelBucketName": "models-of-ours",
    "ModelPrefix": "models/films/one",
    "InstanceType": "ml.c5.large",  # a type that moto knows
}
CASES: dict[str, dict[str, str]] = {
    "realtime": {"MaxInstances": "3", "CaptureBucketName": "kept-films", "KmsKeyArn": KEY},
    "serverless": {"Serving": "serverless", "ServerlessMemory": "2048", "Concurrency": "7"},
    "async": {"Serving": "async", "AsyncPrefix": "models/films", "MaxInstances": "4", "Concurrency": "8"},
    "ray": {
        "ImageUri": f"763104351884.dkr.ecr.{REGION}.amazonaws.com/ray:serve-ml-sagemaker-cpu-v1",
        "ServedByRay": "true",
    },
    "role": {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/pneumoscope-endpoint", "KmsKeyArn": KEY, "InstanceDisks": "true"},
}
pytestmark = pytest.mark.filterwarnings(UNMADE)


@pytest.fixture(params=CASES)
def stack(request: pytest.FixtureRequest, shared_cloud: LocalCloud) -> Iterator[Stack]:
    shared_cloud.reset()
    made = make_stack(shared_cloud, request.param, json.loads(long_form(TEMPLATE)), ALWAYS | CASES[request.param])
    yield made
    shared_cloud.reset()


def test_cfn_lint_finds_nothing() -> None:
    command = [str(Path(sys.executable).parent / "cfn-lint"), "--include-checks", "I", "--", str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == ""


def test_every_parameter_is_described_bounded_and_grouped() -> None:
    template = json.loads(long_form(TEMPLATE))
    for name, each in template["Parameters"].items():
        assert each["Description"].endswith("."), name
        assert each.keys() & {"AllowedPattern", "AllowedValues", "MinValue"}, name
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert [name for group in groups for name in group["Parameters"]] == list(template["Parameters"])


@pytest.mark.parametrize(("file", "role"), [("endpoint.yaml", "Role"), ("template.yaml", "ServingRole")])
def test_the_model_refers_to_its_roles_policies_so_that_it_is_made_after_them(file: str, role: str) -> None:
    resources = json.loads(long_form(TEMPLATE.with_name(file)))["Resources"]
    policies = {
        name
        for name, each in resources.items()
        if each["Type"] == "AWS::IAM::Policy" and {"Ref": role} in each["Properties"]["Roles"]
    }
    assert policies
    referred = {each["Fn::If"][1]["Ref"]: each["Fn::If"][0] for each in resources["Model"]["Metadata"]["Policies"]}
    assert referred == {name: resources[name]["Condition"] for name in policies}


def describe_endpoint(aws: LocalCloud) -> dict[str, Any]:
    """The endpoint's configuration, its one variant and its model, as SageMaker describes them."""
    sagemaker = aws.client("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName="films")
    assert endpoint["EndpointStatus"] == "InService"
    config = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    (variant,) = config["ProductionVariants"]
    return {"config": config, "variant": variant, "model": sagemaker.describe_model(ModelName=variant["ModelName"])}


def test_a_stack_is_created_updated_and_deleted(stack: Stack) -> None:
    """Moto recreates resources only if the template's text differs: updates are checked as the template resolves."""
    made = describe_endpoint(stack.aws)
    assert made["model"]["PrimaryContainer"] == {
        "Image": (ALWAYS | CASES[stack.name])["ImageUri"],
        "ModelDataUrl": "s3://models-of-ours/models/films/one/model.tar.gz",
    }
    changed = ALWAYS | CASES[stack.name] | {"ModelPrefix": "models/films/two"}
    updated = update_stack(stack, changed)
    assert updated["Model"]["PrimaryContainer"]["ModelDataUrl"] == "s3://models-of-ours/models/films/two/model.tar.gz"
    stack.aws.client("cloudformation").delete_stack(StackName=stack.name)
    assert not stack.aws.client("sagemaker").list_endpoints()["Endpoints"]
    assert not stack.aws.client("sagemaker").list_models()["Models"]
    assert not stack.aws.client("iam").list_roles()["Roles"]
    assert not stack.aws.client("logs").describe_log_groups()["logGroups"]


def test_each_variant_has_its_own_settings_only(stack: Stack) -> None:
    found, config = describe_endpoint(stack.aws), stack["EndpointConfig"]
    is_serverless, is_async = stack.name == "serverless", stack.name == "async"
    assert ("ServerlessConfig" in found["variant"]) == is_serverless
    assert ("InstanceType" in found["variant"]) == (not is_serverless)
    assert (config.get("AsyncInferenceConfig") is not None) == is_async
    assert (config.get("DataCaptureConfig") is not None) == (stack.name == "realtime")
    assert (config.get("KmsKeyId") is not None) == (stack.name == "realtime")  # local disks take no key
    assert ("EnableNetworkIsolation" in stack["Model"]) == (stack.name not in ("serverless", "ray"))
    if is_serverless:
        assert found["variant"]["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 7}
    if is_async:
        output = config["AsyncInferenceConfig"]["OutputConfig"]
        assert output["S3OutputPath"] == "s3://models-of-ours/models/films/answers"


def test_the_endpoint_scales_with_its_load(stack: Stack) -> None:
    """Checked as the template resolves, because moto creates no scaling."""
    policy = stack["ScalingPolicy"]
    assert (policy is not None) == (stack.name in ("realtime", "async"))
    if policy is None:
        return
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    if stack.name == "async":
        assert tracking["TargetValue"] == 8
        assert tracking["CustomizedMetricSpecification"]["MetricName"] == "ApproximateBacklogSizePerInstance"
        assert "PredefinedMetricSpecification" not in tracking
    else:
        assert tracking["TargetValue"] == 600
        assert "CustomizedMetricSpecification" not in tracking
    assert stack["ScalableTarget"]["ResourceId"] == "endpoint/films/variant/AllTraffic"


def test_the_role_reads_the_model_and_little_else(stack: Stack) -> None:
    if stack.name == "role":
        assert stack["Role"] is None
        assert stack["Model"]["ExecutionRoleArn"] == CASES["role"]["RoleArn"]
        return
    places = [
        resource
        for each in stack.allowed("Role")
        if "s3:" in str(each["Action"])
        for resource in ([each["Resource"]] if isinstance(each["Resource"], str) else each["Resource"])
    ]
    bucket = "arn:aws:s3:::models-of-ours"
    expected = [f"{bucket}/models/films/one/model.tar.gz"]
    if stack.name == "async":
        expected += [f"{bucket}/models/films/{each}/*" for each in ("films", "answers", "failures")] + [bucket]
    if stack.name == "realtime":
        expected += ["arn:aws:s3:::kept-films/captures/*"]
    assert sorted(places) == sorted(expected)
