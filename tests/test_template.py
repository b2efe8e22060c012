"""The SAM template: linted, translated as AWS does it, created in moto, and tested for what it allows."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from hypothesis import given
from hypothesis import strategies as st
from moto.cloudformation.parsing import ResourceMap, clean_json, parse_condition
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from local_cloud import LocalCloud, cloud
from pneumoscope.aws.functions.shared import Settings
from pneumoscope.aws.limits import REALTIME, SERVERLESS
from samples import REPOSITORY
from stacks import ACCOUNT, REGION, UNMADE, Stack, long_form, make_stack

TOOLS = Path(sys.executable).parent
TEMPLATE = REPOSITORY / "deploy" / "aws" / "template.yaml"
pytestmark = pytest.mark.filterwarnings(UNMADE)

ALWAYS = {
    "ImageUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/pneumoscope:1.0",
    "ModelBucketName": "models-of-ours",
    "ModelPrefix": "models/one",
}
DIGEST = f"210987654321.dkr.ecr.us-east-1.amazonaws.com/team/pneumoscope@sha256:{'0' * 64}"
IN_CHINA = f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/team/pneumoscope:1.0"
CASES: dict[str, dict[str, str]] = {
    "plain": {},
    "realtime": {
        "ImageUri": DIGEST,
        "Serving": "realtime",
        "CapturePercentage": "10",
        "KmsKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0c5e",
        "Tracing": "Active",
        "CorsOrigins": "https://films.example.org,http://localhost:8080",
        "ApiAuthorization": "JWT",
        "JwtIssuer": "https://issuer.example.org",
        "JwtAudience": "films",
        "AlarmTopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms",
        "OnUploadConcurrency": "4",
        "FilmsPrefix": "films/ward-3/",
    },
    "serverless": {"Serving": "serverless", "ApiAuthorization": "NONE"},
}
#: Actions without resource-level permissions, which can only be allowed on "*".
WITHOUT_RESOURCES = {
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
}


@cache
def source_text() -> str:
    return long_form(TEMPLATE)


def source() -> dict[str, Any]:
    """The template as written, in CloudFormation's long form."""
    return dict(json.loads(source_text()))


def translate(parameters: dict[str, str]) -> dict[str, Any]:
    """The template as the SAM transform passes it to CloudFormation."""
    return dict(Translator({}, Parser()).translate(source(), dict(parameters)))


def make(aws: LocalCloud, name: str, case: dict[str, str]) -> Stack:
    return make_stack(aws, name, translate(ALWAYS | case), ALWAYS | case)


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalCloud]:
    with cloud() as made:
        yield made


@pytest.fixture(scope="module")
def stacks(aws: LocalCloud) -> dict[str, Stack]:
    return {name: make(aws, f"case-{name}", case) for name, case in CASES.items()}


@pytest.fixture(params=CASES)
def stack(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    return stacks[request.param]


def as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


# ---------------------------------------------------------------- the template as written


def test_cfn_lint_finds_nothing() -> None:
    command = [str(TOOLS / "cfn-lint"), "--include-checks", "I", "--", str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == ""


def test_sam_finds_nothing() -> None:
    sam = shutil.which("sam")
    if sam is None:
        pytest.skip("the SAM CLI is not installed")
    environment = os.environ | {"AWS_DEFAULT_REGION": REGION, "SAM_CLI_TELEMETRY": "0"}
    command = [sam, "validate", "--lint", "--template", str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a valid SAM Template" in done.stdout


def test_cloudformation_can_read_its_yaml() -> None:
    """CloudFormation accepts no anchors and aliases."""
    aliased = re.compile(r"(^|[\s\[{,])[&*]\w", re.MULTILINE)
    assert aliased.search("Tags: *tags")
    assert not aliased.search(TEMPLATE.read_text())


def test_every_parameter_and_output_is_described_bounded_and_grouped() -> None:
    template = source()
    for name, each in template["Parameters"].items():
        assert each["Description"].endswith("."), name
        assert each.keys() & {"AllowedPattern", "AllowedValues", "MinValue"}, name
    for name, each in template["Outputs"].items():
        assert each["Description"].endswith("."), name
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert [name for group in groups for name in group["Parameters"]] == list(template["Parameters"])


def test_everything_is_closed_by_default() -> None:
    defaults = {name: each.get("Default") for name, each in source()["Parameters"].items()}
    assert {name for name, value in defaults.items() if value is None} == set(ALWAYS)
    assert defaults["ApiAuthorization"] == "AWS_IAM"
    assert defaults["CorsOrigins"] == ""
    assert defaults["Serving"] == "none"
    assert defaults["CapturePercentage"] == 0


@given(st.data())
def test_no_prefix_contains_another(data: st.DataObject) -> None:
    parameters = ("FilmsPrefix", "ResultsPrefix")
    patterns = [source()["Parameters"][name]["AllowedPattern"] for name in parameters]
    films, results = (data.draw(st.from_regex(each, fullmatch=True)).rstrip("\n") for each in patterns)
    for one, other in ((films, results), (films, "captures/"), (results, "captures/")):
        assert not one.startswith(other)
        assert not other.startswith(one)
    assert not re.fullmatch(patterns[0], results)
    assert not re.fullmatch(patterns[1], films)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "ImageUri",
            [ALWAYS["ImageUri"], DIGEST, IN_CHINA],
            ["pneumoscope:1.0", ALWAYS["ImageUri"].removesuffix(":1.0"), IN_CHINA.replace(".cn/", ".de/")],
        ),
        ("ModelPrefix", ["models", "models/2026-11-23"], ["", "/models", "models/", "a//b"]),
        ("CorsOrigins", ["", "https://a.example", "http://localhost:3000"], ["*", "http://a.example", "https://a/"]),
        ("KmsKeyArn", ["", CASES["realtime"]["KmsKeyArn"]], ["alias/films", "0c5e"]),
        ("OnUploadConcurrency", ["", "0", "10"], ["-1", "many"]),
    ],
)
def test_patterns_accept_good_values_and_refuse_bad_ones(name: str, good: list[str], bad: list[str]) -> None:
    pattern = source()["Parameters"][name]["AllowedPattern"]
    assert [value for value in good + bad if re.fullmatch(pattern, value)] == good


@pytest.mark.parametrize(
    ("parameters", "broken"),
    [
        ({}, set()),
        (CASES["realtime"], set()),
        ({"ApiAuthorization": "JWT"}, {"JwtIsComplete"}),
        ({"ApiAuthorization": "JWT", "JwtIssuer": "https://issuer.example.org"}, {"JwtIsComplete"}),
        ({"CapturePercentage": "1"}, {"CaptureIsRealtime"}),
        ({"CapturePercentage": "1", "Serving": "serverless"}, {"CaptureIsRealtime"}),
    ],
)
def test_rules_refuse_impossible_parameters(parameters: dict[str, str], broken: set[str]) -> None:
    template = source()
    given_parameters = ResourceMap("id", "name", ALWAYS | parameters, {}, REGION, ACCOUNT, template, None)
    given_parameters.load_parameters()

    def true(condition: Any) -> bool:
        return parse_condition(condition, given_parameters, {})

    found = {
        name
        for name, rule in template["Rules"].items()
        if true(rule["RuleCondition"]) and not all(true(each["Assert"]) for each in rule["Assertions"])
    }
    assert found == broken


# ---------------------------------------------------------------- the stack as created


def test_the_stack_is_created(stack: Stack) -> None:
    client = stack.aws.client
    bucket, table = stack.id("FilmBucket"), stack.id("FilmTable")
    (encryption,) = client("s3").get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    algorithm = "AES256" if stack["UseKey"] is None else "aws:kms"
    assert encryption["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == algorithm
    description = client("dynamodb").describe_table(TableName=table)["Table"]
    assert description["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
    assert description["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    queue = client("sqs").get_queue_attributes(QueueUrl=stack.id("DeadLetterQueue"), AttributeNames=["All"])
    assert queue["Attributes"]["MessageRetentionPeriod"] == str(14 * 24 * 3600)
    rule = client("events").describe_rule(Name=stack.id("FilmUploaded"))
    assert rule["State"] == "ENABLED"
    for name in ("OnUploadFunction", "ApiFunction"):
        assert (
            client("lambda").get_function(FunctionName=stack.id(name))["Code"]["ImageUri"]
            == stack[name]["Code"]["ImageUri"]
        )


def test_logs_expire_and_are_encrypted(stack: Stack) -> None:
    """The key is checked as the template resolves, because moto does not set it."""
    logs = stack.of("Logs::LogGroup")
    assert len(logs) == (3 if stack["Endpoint"] is None else 4)
    key = CASES[stack.name.removeprefix("case-")].get("KmsKeyArn")
    for each in logs.values():
        assert each.get("KmsKeyId") == key
        found = stack.aws.client("logs").describe_log_groups(logGroupNamePrefix=each["LogGroupName"])["logGroups"]
        assert [group["retentionInDays"] for group in found] == [30] * len(found) != []


def test_deleting_the_stack_leaves_nothing(aws: LocalCloud) -> None:
    def present() -> list[int]:
        return [
            len(aws.client("s3").list_buckets()["Buckets"]),
            len(aws.client("dynamodb").list_tables()["TableNames"]),
            len(aws.client("sqs").list_queues().get("QueueUrls", [])),
            len(aws.client("lambda").list_functions()["Functions"]),
            len(aws.client("iam").list_roles()["Roles"]),
            len(aws.client("logs").describe_log_groups()["logGroups"]),
            len(aws.client("events").list_rules()["Rules"]),
            len(aws.client("sagemaker").list_endpoints()["Endpoints"]),
            len(aws.client("sagemaker").list_endpoint_configs()["EndpointConfigs"]),
            len(aws.client("sagemaker").list_models()["Models"]),
        ]

    before = present()
    made = make(aws, "short", CASES["serverless"])
    assert [now - then for now, then in zip(present(), before, strict=True)] == [1, 1, 1, 2, 3, 4, 1, 1, 1, 1]
    aws.client("cloudformation").delete_stack(StackName=made.name)
    assert present() == before


def test_the_bucket_is_closed(stack: Stack) -> None:
    bucket = stack["FilmBucket"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (statement,) = stack["FilmBucketPolicy"]["PolicyDocument"]["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Principal"] == "*"
    assert statement["Action"] == "s3:*"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": False}}
    arn = f"arn:aws:s3:::{stack.id('FilmBucket')}"
    assert statement["Resource"] == [arn, f"{arn}/*"]


def test_films_results_and_captures_expire(stack: Stack) -> None:
    rules = {each["Id"]: each for each in stack["FilmBucket"]["LifecycleConfiguration"]["Rules"]}
    assert {each["Status"] for each in rules.values()} == {"Enabled"}
    days = {each["Prefix"]: each["ExpirationInDays"] for each in rules.values() if "Prefix" in each}
    films = "films/" if stack["UseKey"] is None else "films/ward-3/"
    assert days == {films: 30, "captures/": 30, "results/": 365}
    leftovers = rules["leftovers"]
    assert leftovers["NoncurrentVersionExpiration"]["NoncurrentDays"] == 7
    assert leftovers["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 1
    assert stack["FilmTable"]["TimeToLiveSpecification"] == {"AttributeName": "expiration", "Enabled": True}


@pytest.mark.parametrize("name", ["plain", "realtime"])
def test_only_listed_origins_are_allowed(stacks: dict[str, Stack], name: str) -> None:
    bucket, api = (stacks[name][each].get("CorsConfiguration") for each in ("FilmBucket", "HttpApi"))
    if name == "plain":
        assert bucket is None
        assert api is None
        return
    origins = CASES[name]["CorsOrigins"].split(",")
    (rule,) = bucket["CorsRules"]
    assert rule["AllowedOrigins"] == api["AllowOrigins"] == origins
    assert rule["AllowedMethods"] == ["POST"]
    assert api["AllowMethods"] == ["GET", "POST", "OPTIONS"]
    signed = {"authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"}
    assert set(api["AllowHeaders"]) == {"content-type"} | signed


# ---------------------------------------------------------------- the functions


def test_functions_start_handlers_that_exist(stack: Stack) -> None:
    functions = stack.of("Lambda::Function")
    assert len(functions) == 2
    for each in functions.values():
        assert each["PackageType"] == "Image"
        assert each["Architectures"] == ["x86_64"]
        assert each["ImageConfig"]["EntryPoint"] == ["python", "-m", "awslambdaric"]
        (command,) = each["ImageConfig"]["Command"]
        assert re.fullmatch(r"pneumoscope\.aws\.functions\.\w+\.handler", command)
        module, _, handler = command.rpartition(".")
        assert callable(getattr(importlib.import_module(module), handler))
    assert functions["OnUploadFunction"]["Timeout"] == 60
    assert functions["ApiFunction"]["Timeout"] == 29 < stack["HttpIntegration"]["TimeoutInMillis"] / 1000
    reserved = functions["OnUploadFunction"].get("ReservedConcurrentExecutions")
    assert reserved == (None if stack["Capture"] is None else "4")


def test_the_environment_has_exactly_the_variables_that_the_code_reads(stack: Stack) -> None:
    names = {f"PNEUMOSCOPE_{field.upper()}" for field in Settings.model_fields}
    names |= {"AWS_MAX_ATTEMPTS"} | {
        f"POWERTOOLS_{rest}" for rest in ("SERVICE_NAME", "METRICS_NAMESPACE", "LOG_LEVEL")
    }
    for function in ("OnUploadFunction", "ApiFunction"):
        found = stack.aws.client("lambda").get_function_configuration(FunctionName=stack.id(function))
        variables = found["Environment"]["Variables"]
        assert set(variables) == names
        read = Settings.read(variables)
        assert read.bucket == stack.id("FilmBucket")
        assert read.table == stack.id("FilmTable")
        assert read.films_prefix == stack["FilmBucket"]["LifecycleConfiguration"]["Rules"][0]["Prefix"]
        assert str(read.model) == "s3://models-of-ours/models/one/model.tar.gz"
        assert read.endpoint_limit == (SERVERLESS if stack.name == "case-serverless" else REALTIME)
        assert bool(read.endpoint) == (stack["Endpoint"] is not None)
        assert len(read.cors_origins) == (2 if stack.name == "case-realtime" else 0)
        assert variables["POWERTOOLS_METRICS_NAMESPACE"] == "Pneumoscope"


def test_undelivered_and_failed_events_go_to_one_queue(stack: Stack) -> None:
    queue = stack.arn("DeadLetterQueue")
    (target,) = stack.aws.client("events").list_targets_by_rule(Rule=stack.id("FilmUploaded"))["Targets"]
    assert target["Arn"] == stack.arn("OnUploadFunction")
    assert target["DeadLetterConfig"]["Arn"] == queue
    assert target["RetryPolicy"]["MaximumRetryAttempts"] > 0
    (invoke,) = stack.of("Lambda::EventInvokeConfig").values()
    assert invoke["FunctionName"] == stack.id("OnUploadFunction")
    assert invoke["MaximumRetryAttempts"] == 2
    assert invoke["DestinationConfig"]["OnFailure"]["Destination"] == queue
    assert stack["DeadLetterQueue"]["SqsManagedSseEnabled"] is True
    allow, deny = stack["DeadLetterQueuePolicy"]["PolicyDocument"]["Statement"]
    assert allow["Condition"] == {"ArnEquals": {"aws:SourceArn": stack.arn("FilmUploaded")}}
    assert allow["Principal"] == {"Service": "events.amazonaws.com"}
    assert allow["Resource"] == queue
    assert deny["Effect"] == "Deny"
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": False}}


def test_only_films_reach_the_function(aws: LocalCloud) -> None:
    """Events of two buckets pass through the rule, to a queue in place of the function, which moto cannot run."""
    stack = make(aws, "events", {})
    own, rule, queue = (stack.id(each) for each in ("FilmBucket", "FilmUploaded", "DeadLetterQueue"))
    events, s3 = aws.client("events"), aws.client("s3")
    events.remove_targets(Rule=rule, Ids=["on-upload"])
    events.put_targets(Rule=rule, Targets=[{"Id": "queue", "Arn": stack.arn("DeadLetterQueue")}])
    notified = stack["FilmBucket"]["NotificationConfiguration"]
    assert notified == {"EventBridgeConfiguration": {"EventBridgeEnabled": True}}
    s3.create_bucket(Bucket="not-ours", CreateBucketConfiguration={"LocationConstraint": REGION})
    for bucket in (own, "not-ours"):
        s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
        )
        for key in ("results/films/a.png.json", "filmsa.png", "films/a.png", "captures/films/a.jsonl", "a.png"):
            s3.put_object(Bucket=bucket, Key=key, Body=b"film")
    messages = aws.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    details = [json.loads(each["Body"])["detail"] for each in messages]
    assert [(each["bucket"]["name"], each["object"]["key"]) for each in details] == [(own, "films/a.png")]


# ---------------------------------------------------------------- permissions

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
        role: statement["Principal"]["Service"]
        for role, each in stack.of("IAM::Role").items()
        for statement in each["AssumeRolePolicyDocument"]["Statement"]
    }
    serving = {"ServingRole": "sagemaker.amazonaws.com"} if stack["Endpoint"] else {}
    assert trusted == {"OnUploadRole": "lambda.amazonaws.com", "ApiRole": "lambda.amazonaws.com"} | serving


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
def test_no_function_can_feed_itself(aws: LocalCloud, role: str, reads: set[str], writes: set[str]) -> None:
    models = f"models-for-{role.lower()}"
    stack = make(aws, f"as-{role.lower()}", {"ModelBucketName": models})
    own, files = stack.id("FilmBucket"), ("model.tar.gz", "contract.json", "other")
    present, new = ("films/a.png", "results/a.png.json", "captures/a"), ("films/b.png", "results/b.png.json", "b.png")
    aws.client("s3").create_bucket(Bucket=models, CreateBucketConfiguration={"LocationConstraint": REGION})
    for bucket, keys in ((own, present), (models, [f"models/one/{name}" for name in files])):
        for key in keys:
            aws.client("s3").put_object(Bucket=bucket, Key=key, Body=b"{}")
    s3 = become(stack, role)
    with aws.guarded():
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


# ---------------------------------------------------------------- the endpoint


def test_without_an_endpoint_there_are_no_sagemaker_resources(stacks: dict[str, Stack]) -> None:
    assert not stacks["plain"].of("SageMaker::Endpoint")
    assert not stacks["plain"].of("SageMaker::Model")
    assert not stacks["plain"].of("ApplicationAutoScaling::ScalableTarget")


@pytest.mark.parametrize("name", ["realtime", "serverless"])
def test_the_endpoint_serves_the_model(stacks: dict[str, Stack], name: str) -> None:
    stack = stacks[name]
    sagemaker = stack.aws.client("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName=stack.id("Endpoint").rpartition("/")[2])
    assert endpoint["EndpointStatus"] == "InService"
    config = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    (variant,) = config["ProductionVariants"]
    model = sagemaker.describe_model(ModelName=variant["ModelName"])
    assert model["PrimaryContainer"] == {
        "Image": (ALWAYS | CASES[name])["ImageUri"],
        "ModelDataUrl": "s3://models-of-ours/models/one/model.tar.gz",
    }
    assert model["ExecutionRoleArn"] == stack.arn("ServingRole")
    assert stack["Endpoint"]["EndpointName"] == f"{stack.name}-{name}"
    assert stack["ServingLog"]["LogGroupName"] == f"/aws/sagemaker/Endpoints/{stack.name}-{name}"
    if name == "serverless":
        assert variant["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 5}
        assert not {"InstanceType", "InitialInstanceCount"} & set(variant)
        assert stack["EndpointConfig"].get("DataCaptureConfig") is None
        assert "EnableNetworkIsolation" not in stack["Model"]
    else:
        assert variant["InstanceType"] == "ml.c5.large"
        assert variant["InitialInstanceCount"] == 1
        assert config["DataCaptureConfig"]["InitialSamplingPercentage"] == 10
        assert config["DataCaptureConfig"]["DestinationS3Uri"] == f"s3://{stack.id('FilmBucket')}/captures"
        assert stack["Model"]["EnableNetworkIsolation"] is True


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("serverless", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/pneumoscope"),
        ("realtime", "arn:aws:ecr:us-east-1:210987654321:repository/team/pneumoscope"),
    ],
)
def test_the_endpoint_pulls_its_own_image(stacks: dict[str, Stack], name: str, repository: str) -> None:
    (pull,) = (each for each in stacks[name].allowed("ServingRole") if "ecr:BatchGetImage" in each["Action"])
    assert pull["Resource"] == repository


def test_the_key_encrypts_the_endpoints_disks_unless_they_are_local(stacks: dict[str, Stack], aws: LocalCloud) -> None:
    key = CASES["realtime"]["KmsKeyArn"]
    assert stacks["realtime"]["EndpointConfig"]["KmsKeyId"] == key
    assert stacks["serverless"]["EndpointConfig"].get("KmsKeyId") is None
    changes = {"Serving": "realtime", "KmsKeyArn": key, "InstanceDisks": "true"}
    disks = make(aws, "disks", changes)
    assert disks["EndpointConfig"].get("KmsKeyId") is None
    assert disks["LendKeyToDisks"] is None


def test_no_resource_names_a_partition() -> None:
    """In China, ARNs and image registries have other names."""
    assert not re.search(r"arn:aws[:-]", json.dumps(source()["Resources"]))
    template, parameters = source(), ALWAYS | {"ImageUri": IN_CHINA, "Serving": "realtime"}
    names = ResourceMap("id", "name", parameters, {}, "cn-north-1", ACCOUNT, template, None)
    names.load_parameters()
    names._parsed_resources["AWS::Partition"] = "aws-cn"  # moto assumes the same partition everywhere
    names.load_conditions()
    statements = template["Resources"]["ServingRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    pull = next(each for each in statements if each["Sid"] == "PullImage")
    assert clean_json(pull["Resource"], names) == f"arn:aws-cn:ecr:cn-north-1:{ACCOUNT}:repository/team/pneumoscope"


def test_the_documented_key_policy_is_for_cloudwatch_logs() -> None:
    statement = json.loads((REPOSITORY / "deploy" / "aws" / "key-for-logs.json").read_text())
    assert statement["Principal"] == {"Service": "logs.REGION.amazonaws.com"}
    assert statement["Condition"]["ArnLike"]


def test_the_endpoint_scales(stacks: dict[str, Stack], aws: LocalCloud) -> None:
    stack = stacks["realtime"]
    target, policy = stack["ScalableTarget"], stack["ScalingPolicy"]
    assert target["MinCapacity"] == 1
    assert target["MaxCapacity"] == 2
    endpoint = stack.id("Endpoint").rpartition("/")[2]
    assert target["ResourceId"] == f"endpoint/{endpoint}/variant/AllTraffic"
    tracked = policy["TargetTrackingScalingPolicyConfiguration"]
    assert tracked["PredefinedMetricSpecification"]["PredefinedMetricType"] == "SageMakerVariantInvocationsPerInstance"
    assert tracked["TargetValue"] == 600
    assert stack["Endpoint"]["RetainAllVariantProperties"] is True
    fixed = make(aws, "fixed", {"Serving": "realtime", "MinInstances": "2", "MaxInstances": "2"})
    assert fixed["ScalableTarget"] is None
    assert fixed["ScalingPolicy"] is None
    assert fixed["EndpointConfig"]["ProductionVariants"][0]["InitialInstanceCount"] == 2


# ---------------------------------------------------------------- alarms and tags


def test_alarms_watch_every_part_of_the_stack(stack: Stack) -> None:
    alarms = stack.of("CloudWatch::Alarm")
    watched = {(each["Namespace"], each["MetricName"], each["Dimensions"][0]["Value"]) for each in alarms.values()}
    expected = {
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible", stack.arn("DeadLetterQueue").rpartition(":")[2]),
        ("AWS/Lambda", "Errors", stack.id("OnUploadFunction")),
        ("AWS/ApiGateway", "5xx", "<HttpApi>"),
    }
    if stack["Endpoint"] is not None:
        name = stack.id("Endpoint").rpartition("/")[2]
        expected |= {("AWS/SageMaker", "Invocation5XXErrors", name), ("AWS/SageMaker", "ModelLatency", name)}
    assert watched == expected
    topic = CASES[stack.name.removeprefix("case-")].get("AlarmTopicArn")
    assert all(each.get("AlarmActions") == (topic and [topic]) for each in alarms.values())


def test_every_taggable_resource_has_the_stacks_tag(stack: Stack) -> None:
    tagged = set()
    for name, resource in stack.template["Resources"].items():
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, resource["Type"]).schema
        if not stack.has(resource) or "Tags" not in schema["properties"]:
            continue
        tags = stack[name]["Tags"]
        pairs = tags if isinstance(tags, dict) else {each["Key"]: each["Value"] for each in tags}
        assert pairs["pneumoscope:stack"] == stack.name, name
        tagged.add(resource["Type"])
    assert tagged >= {"AWS::S3::Bucket", "AWS::Lambda::Function", "AWS::ApiGatewayV2::Api", "AWS::Events::Rule"}
