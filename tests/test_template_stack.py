"""The SAM template's stack, created in moto: storage, functions, endpoint, alarms and tags."""

import importlib
import json
import re

import pytest
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from local_cloud import LocalCloud
from pneumoscope.aws.functions.shared import Settings
from pneumoscope.aws.limits import REALTIME, SERVERLESS
from sam_template import ALWAYS, CASES, make
from stacks import ACCOUNT, REGION, UNMADE, Stack

pytestmark = pytest.mark.filterwarnings(UNMADE)


@pytest.fixture(params=CASES)
def stack(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    return stacks[request.param]


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
    """The key is checked in the resolved template, because moto does not set it."""
    logs = stack.of("Logs::LogGroup")
    assert len(logs) == (3 if stack["Endpoint"] is None else 4)
    key = CASES[stack.name.removeprefix("case-")].get("KmsKeyArn")
    for each in logs.values():
        assert each.get("KmsKeyId") == key
        found = stack.aws.client("logs").describe_log_groups(logGroupNamePrefix=each["LogGroupName"])["logGroups"]
        assert [group["retentionInDays"] for group in found] == [30] * len(found) != []


def test_deleting_the_stack_leaves_nothing(shared_cloud: LocalCloud) -> None:
    def present() -> list[int]:
        return [
            len(shared_cloud.client("s3").list_buckets()["Buckets"]),
            len(shared_cloud.client("dynamodb").list_tables()["TableNames"]),
            len(shared_cloud.client("sqs").list_queues().get("QueueUrls", [])),
            len(shared_cloud.client("lambda").list_functions()["Functions"]),
            len(shared_cloud.client("iam").list_roles()["Roles"]),
            len(shared_cloud.client("logs").describe_log_groups()["logGroups"]),
            len(shared_cloud.client("events").list_rules()["Rules"]),
            len(shared_cloud.client("sagemaker").list_endpoints()["Endpoints"]),
            len(shared_cloud.client("sagemaker").list_endpoint_configs()["EndpointConfigs"]),
            len(shared_cloud.client("sagemaker").list_models()["Models"]),
        ]

    before = present()
    made = make(shared_cloud, "short", CASES["serverless"])
    assert [now - then for now, then in zip(present(), before, strict=True)] == [1, 1, 1, 2, 3, 4, 1, 1, 1, 1]
    shared_cloud.client("cloudformation").delete_stack(StackName=made.name)
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


def test_only_films_reach_the_function(shared_cloud: LocalCloud) -> None:
    """Events of two buckets pass through the rule, to a queue in place of the function, which moto cannot run."""
    stack = make(shared_cloud, "events", {})
    own, rule, queue = (stack.id(each) for each in ("FilmBucket", "FilmUploaded", "DeadLetterQueue"))
    events, s3 = shared_cloud.client("events"), shared_cloud.client("s3")
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
    messages = shared_cloud.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    details = [json.loads(each["Body"])["detail"] for each in messages]
    assert [(each["bucket"]["name"], each["object"]["key"]) for each in details] == [(own, "films/a.png")]


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


def test_the_key_encrypts_the_endpoints_disks_unless_they_are_local(
    stacks: dict[str, Stack], shared_cloud: LocalCloud
) -> None:
    key = CASES["realtime"]["KmsKeyArn"]
    assert stacks["realtime"]["EndpointConfig"]["KmsKeyId"] == key
    assert stacks["serverless"]["EndpointConfig"].get("KmsKeyId") is None
    changes = {"Serving": "realtime", "KmsKeyArn": key, "InstanceDisks": "true"}
    disks = make(shared_cloud, "disks", changes)
    assert disks["EndpointConfig"].get("KmsKeyId") is None
    assert disks["LendKeyToDisks"] is None


def test_the_endpoint_scales(stacks: dict[str, Stack], shared_cloud: LocalCloud) -> None:
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
    fixed = make(shared_cloud, "fixed", {"Serving": "realtime", "MinInstances": "2", "MaxInstances": "2"})
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
