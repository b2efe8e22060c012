"""What the SAM template's stack allows: the permissions of its roles, and who may call its HTTP API."""

import json
import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_cloud import LocalCloud
from sam_template import ALWAYS, CASES, make
from stacks import ACCOUNT, REGION, UNMADE, Stack

pytestmark = pytest.mark.filterwarnings(UNMADE)

#: Actions without resource-level permissions, which can only be allowed on "*".
WITHOUT_RESOURCES = {
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
}
READ_MODEL = {"s3:GetObject"}
FUNCTION = READ_MODEL | {"sagemaker:InvokeEndpoint", "logs:CreateLogStream", "logs:PutLogEvents"}
TRACE = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
PERMISSIONS = {
    "OnUploadRole": FUNCTION
    | {"s3:GetObjectVersion", "s3:ListBucket", "s3:PutObject", "sqs:SendMessage"}
    | {f"dynamodb:{verb}Item" for verb in ("Get", "Put", "Update", "Delete")},
    "ApiRole": FUNCTION | {"s3:PutObject", "s3:ListBucket"},
    "ServingRole": READ_MODEL
    | {"s3:PutObject", "cloudwatch:PutMetricData", "kms:CreateGrant", "kms:DescribeKey"}
    | {f"logs:{verb}" for verb in ("CreateLogGroup", "CreateLogStream", "DescribeLogStreams", "PutLogEvents")}
    | {f"ecr:{verb}" for verb in ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")}
    | {"ecr:GetAuthorizationToken"},
}


@pytest.fixture(params=CASES)
def stack(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    return stacks[request.param]


def as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def actions(stack: Stack, role: str) -> set[str]:
    return {action for each in stack.allowed(role) for action in as_list(each["Action"])}


def test_roles_have_the_listed_permissions_and_no_others(stacks: dict[str, Stack]) -> None:
    assert {role: actions(stacks["realtime"], role) for role in PERMISSIONS} == PERMISSIONS
    assert actions(stacks["plain"], "OnUploadRole") == PERMISSIONS["OnUploadRole"] - {"sagemaker:InvokeEndpoint"}
    assert actions(stacks["plain"], "ApiRole") == PERMISSIONS["ApiRole"] - {"sagemaker:InvokeEndpoint"}
    assert stacks["plain"]["ServingRole"] is None
    only_realtime = {"s3:PutObject", "kms:CreateGrant", "kms:DescribeKey"}
    assert actions(stacks["serverless"], "ServingRole") == PERMISSIONS["ServingRole"] - only_realtime


def test_permissions_name_narrow_resources(stack: Stack) -> None:
    own = stack.id("FilmBucket")
    open_ended = re.compile(rf"arn:aws:s3:::{own}/(films/(ward-3/)?|results/|captures/)\*|arn:aws:logs:[^*]+(:\*)?")
    for role in stack.of("IAM::Role"):
        for statement in stack.allowed(role):
            for resource in as_list(statement["Resource"]):
                assert resource.startswith("arn:") or resource == "*"
                if resource == "*":
                    assert set(as_list(statement["Action"])) <= WITHOUT_RESOURCES
                elif "*" in resource:
                    assert open_ended.fullmatch(resource), resource
    listing = [each for each in stack.allowed("ApiRole") if each["Action"] == "s3:ListBucket"]
    assert [each["Condition"] for each in listing] == [{"StringLike": {"s3:prefix": "results/*"}}]


def test_each_role_trusts_one_service(stack: Stack) -> None:
    trusted = {
        role: [statement["Principal"] for statement in each["AssumeRolePolicyDocument"]["Statement"]]
        for role, each in stack.of("IAM::Role").items()
    }
    services = {"OnUploadRole": "lambda.amazonaws.com", "ApiRole": "lambda.amazonaws.com"}
    services |= {"ServingRole": "sagemaker.amazonaws.com"} if stack["Endpoint"] else {}
    assert trusted == {role: [{"Service": service}] for role, service in services.items()}


def test_roles_have_the_policies_for_key_and_traces_that_they_need(stack: Stack) -> None:
    attached = [each.get("ManagedPolicyArns") for each in stack.of("IAM::Role").values()]
    if stack.name != "case-realtime":
        assert attached == [None] * len(attached)
        return
    assert attached == [[stack.id("UseKey"), stack.id("Trace")]] * 2 + [[stack.id("UseKey")]]
    (traces,) = stack["Trace"]["PolicyDocument"]["Statement"]
    assert set(traces["Action"]) == TRACE
    (statement,) = stack["UseKey"]["PolicyDocument"]["Statement"]
    assert statement["Resource"] == CASES["realtime"]["KmsKeyArn"]
    assert statement["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]


def become(stack: Stack, role: str) -> Any:
    """An S3 client with the permissions of a role."""
    for policy, document in stack.policies(role).items():  # stored again as JSON, the only form that moto can enforce
        stack.aws.client("iam").put_role_policy(
            RoleName=stack.id(role), PolicyName=policy, PolicyDocument=json.dumps(document)
        )
    assumed = stack.aws.client("sts").assume_role(RoleArn=stack.arn(role), RoleSessionName="test")["Credentials"]
    return stack.aws.client(
        "s3",
        aws_access_key_id=assumed["AccessKeyId"],
        aws_secret_access_key=assumed["SecretAccessKey"],
        aws_session_token=assumed["SessionToken"],
    )


def is_allowed(call: Any, bucket: str, key: str, **more: Any) -> bool:
    """Whether S3 allows the call; errors other than AccessDenied are raised."""
    try:
        call(Bucket=bucket, Key=key, **more)
    except ClientError as failure:
        if failure.response["Error"]["Code"] == "AccessDenied":
            return False
        raise
    return True


@pytest.mark.parametrize(
    ("role", "reads", "writes"),
    [
        ("OnUploadRole", {"films/a.png", "results/a.png.json"}, {"results/b.png.json"}),
        ("ApiRole", {"results/a.png.json"}, {"films/b.png"}),
    ],
)
def test_no_function_can_feed_itself(shared_cloud: LocalCloud, role: str, reads: set[str], writes: set[str]) -> None:
    models = f"models-for-{role.lower()}"
    stack = make(shared_cloud, f"as-{role.lower()}", {"ModelBucketName": models})
    own, files = stack.id("FilmBucket"), ("model.tar.gz", "contract.json", "other")
    present, new = ("films/a.png", "results/a.png.json", "captures/a"), ("films/b.png", "results/b.png.json", "b.png")
    shared_cloud.client("s3").create_bucket(Bucket=models, CreateBucketConfiguration={"LocationConstraint": REGION})
    for bucket, keys in ((own, present), (models, [f"models/one/{name}" for name in files])):
        for key in keys:
            shared_cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=b"{}")
    s3 = become(stack, role)
    with shared_cloud.guarded():
        assert {key for key in present if is_allowed(s3.get_object, own, key)} == reads
        assert {key for key in new if is_allowed(s3.put_object, own, key, Body=b"{}")} == writes
        assert not any(is_allowed(s3.delete_object, own, key) for key in present)
        assert [is_allowed(s3.get_object, models, f"models/one/{name}") for name in files] == [True, True, False]
        assert not is_allowed(s3.put_object, models, "models/one/model.tar.gz", Body=b"{}")


# ---------------------------------------------------------------- the HTTP API


def test_every_route_requires_the_chosen_authorization(stack: Stack) -> None:
    routes = stack.of("ApiGatewayV2::Route").values()
    assert {each["RouteKey"] for each in routes} == {"POST /predictions", "POST /jobs", "GET /jobs/{id}"}
    expected = (ALWAYS | {"ApiAuthorization": "AWS_IAM"} | CASES[stack.name.removeprefix("case-")])["ApiAuthorization"]
    assert {each["AuthorizationType"] for each in routes} == {expected}
    assert {each["Target"] for each in routes} == {"integrations/<HttpIntegration>"}
    assert {each.get("AuthorizerId") for each in routes} == {"<HttpAuthorizer>" if expected == "JWT" else None}
    authorizer = stack["HttpAuthorizer"]
    assert (authorizer is not None) == (expected == "JWT")
    if authorizer is not None:
        assert authorizer["JwtConfiguration"] == {"Issuer": "https://issuer.example.org", "Audience": ["films"]}


def test_only_the_api_can_invoke_its_function(stack: Stack) -> None:
    integration = stack["HttpIntegration"]
    assert integration["IntegrationType"] == "AWS_PROXY"
    assert integration["PayloadFormatVersion"] == "2.0"
    assert integration["IntegrationUri"] == stack.arn("ApiFunction")
    permissions = {each["FunctionName"]: each for each in stack.of("Lambda::Permission").values()}
    assert {(each["Principal"], each["SourceArn"]) for each in permissions.values()} == {
        ("apigateway.amazonaws.com", f"arn:aws:execute-api:{REGION}:{ACCOUNT}:<HttpApi>/*"),
        ("events.amazonaws.com", stack.arn("FilmUploaded")),
    }
    assert permissions[stack.id("ApiFunction")]["Principal"] == "apigateway.amazonaws.com"


def test_the_api_is_throttled_and_logs_callers_but_not_addresses(stack: Stack) -> None:
    stage = stack["HttpStage"]
    assert stage["StageName"] == "$default"
    assert stage["AutoDeploy"]
    assert stage["DefaultRouteSettings"] == {"ThrottlingBurstLimit": 20, "ThrottlingRateLimit": 10}
    written = json.loads(stage["AccessLogSettings"]["Format"])
    assert written["request"] == "$context.requestId"
    is_jwt = stack["HttpAuthorizer"] is not None
    assert written["principal"] == ("$context.authorizer.claims.sub" if is_jwt else "$context.identity.userArn")
    assert not re.search("sourceIp|userAgent|path|email", json.dumps(written))
