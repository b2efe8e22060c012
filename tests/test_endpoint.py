"""Endpoints in moto, created, updated and removed by their stacks."""

import json
import re
import sys
import tarfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydantic import ValidationError

from account import PLACE, REGION, RecordingListener, deploy_settings, deployed_names, list_keys, run, train_settings
from local_cloud import LocalCloud
from pneumoscope.aws.client.deploy import deploy, make_parameters
from pneumoscope.aws.client.images import RAY_SERVE, aws_image
from pneumoscope.aws.client.inventory import deployed_resources, status, variant_and_contract
from pneumoscope.aws.client.model_upload import put_model
from pneumoscope.aws.client.stack import await_stack, find_stack, stack_parameters
from pneumoscope.aws.client.train import job_arguments, role_arn
from pneumoscope.aws.session import Cloud
from pneumoscope.aws.unpack import extract, fetch_bundle
from pneumoscope.cli import main
from pneumoscope.contract import load_contract
from pneumoscope.errors import (
    BundleError,
    CloudError,
    UsageError,
)
from pneumoscope.settings.aws import PutModel
from pneumoscope.settings.aws_names import parse_location
from samples import REPOSITORY
from stacks import UNMADE, long_form

pytestmark = [pytest.mark.usefixtures("aws"), pytest.mark.filterwarnings(UNMADE)]
IMAGE = "111111111111.dkr.ecr.eu-central-1.amazonaws.com/pneumoscope:1"
OPTIONS = ("--to", "s3://films-bucket/models", "--image", IMAGE, "--name", "films", "--instance-type", "ml.c5.large")


def model_of(cloud: LocalCloud) -> dict[str, Any]:
    """The model that the endpoint `films` serves now."""
    sagemaker = cloud.client("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName="films")
    config = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    return dict(sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"]))


def test_an_endpoint_is_created_listed_and_removed(aws: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path) -> None:
    sagemaker = shared_cloud.client("sagemaker")
    role = role_arn(aws, "trainer")
    sagemaker.create_model(ModelName="theirs", PrimaryContainer={"Image": "1.dkr.ecr/x:1"}, ExecutionRoleArn=role)
    done = run("deploy", tiny_bundle, *OPTIONS, "--most-instances", 3)
    assert done.code == 0, done.err
    assert "endpoint films is in service" in done.out
    container = model_of(shared_cloud)["PrimaryContainer"]
    archive = parse_location(container["ModelDataUrl"])
    assert container["Image"] == IMAGE
    assert archive.bucket == PLACE.bucket
    digest = load_contract(tiny_bundle).files["model.onnx"][:12]
    assert list_keys(aws, "models") == [f"models/films/{digest}/contract.json", f"models/films/{digest}/model.tar.gz"]
    with fetch_bundle(aws, archive) as (_, engine):
        assert engine.contract == load_contract(tiny_bundle)
    listed = json.loads(run("status", "--format", "json").out)
    assert [(each["kind"], each["name"], each["state"]) for each in listed] == [
        ("endpoint", "films", "CREATE_COMPLETE")
    ]
    assert "films" in run("status").out
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="models/films/notes.txt", Body=b"mine")
    unconfirmed = run("teardown", "films")
    assert unconfirmed.code == 2
    assert "pass --yes" in unconfirmed.err
    assert unconfirmed.err.count("to be removed: ") == 3
    removed = run("teardown", "films", "--yes")
    assert removed.code == 0, removed
    assert removed.out.count("removed: ") == 3, removed
    assert list_keys(aws, "models") == ["models/films/notes.txt"]
    assert [each["ModelName"] for each in sagemaker.list_models()["Models"]] == ["theirs"]
    assert not sagemaker.list_endpoints()["Endpoints"]
    assert "nothing named films" in run("teardown", "films", "--yes").out
    assert "Pneumoscope has made nothing" in run("status").out


def test_an_endpoint_is_updated_in_place(aws: Cloud, tiny_bundle: Path) -> None:
    """With other options, and then with the same options again."""
    deploy(aws, deploy_settings(tiny_bundle))
    deploy(aws, deploy_settings(tiny_bundle, instances=2, most_instances=2))
    stack = find_stack(aws, "pneumoscope-films")
    assert stack is not None
    assert stack["StackStatus"] == "UPDATE_COMPLETE"
    assert stack_parameters(stack)["MinInstances"] == "2"
    assert len(list_keys(aws, "models")) == 2
    deploy(aws, deploy_settings(tiny_bundle, instances=2, most_instances=2))
    assert len(deployed_names(aws)) == 3


def test_what_runs_already_can_be_deployed_after_an_update_that_failed(
    aws: Cloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a stack keeps the status of the failed update. Moto's stacks neither fail nor compare parameters."""
    deploy(aws, deploy_settings(tiny_bundle))
    client = aws.client("cloudformation")
    describe, update = client.describe_stacks, client.update_stack

    def describe_rolled_back(**arguments: Any) -> dict[str, Any]:
        reply: dict[str, Any] = describe(**arguments)
        return {"Stacks": [each | {"StackStatus": "UPDATE_ROLLBACK_COMPLETE"} for each in reply["Stacks"]]}

    def update_if_different(**arguments: Any) -> dict[str, Any]:
        given = {each["ParameterKey"]: each["ParameterValue"] for each in arguments["Parameters"]}
        stack = describe(StackName=arguments["StackName"])["Stacks"][0]
        if given.items() <= stack_parameters(stack).items():
            error = {"Code": "ValidationError", "Message": "No updates are to be performed."}
            raise ClientError({"Error": error}, "UpdateStack")
        return dict(update(**arguments))

    monkeypatch.setattr(client, "describe_stacks", describe_rolled_back)
    monkeypatch.setattr(client, "update_stack", update_if_different)
    deploy(aws, deploy_settings(tiny_bundle))
    with pytest.raises(CloudError, match="update rollback complete"):
        deploy(aws, deploy_settings(tiny_bundle, instances=2, most_instances=2), pause=lambda _: None)


def test_an_interrupted_teardown_can_be_repeated(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, deploy_settings(tiny_bundle))
    before = deployed_names(aws)
    assert before[-1] == "stack pneumoscope-films with endpoint films"
    assert [each.rpartition("/")[2] for each in before[:2]] == ["contract.json", "model.tar.gz"]
    for left in range(len(before) - 1, -1, -1):  # one step at a time, as if each had been interrupted
        next(deployed_resources(aws, "films")).remove()
        assert deployed_names(aws) == before[len(before) - left :]


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("", 1), ("y\n", None)])
def test_a_teardown_asks_on_a_terminal(
    answer: str,
    code: int | None,
    aws: Cloud,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deploy(aws, deploy_settings(tiny_bundle))

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "argv", ["pneumoscope", "aws", "teardown", "films"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == code
    printed = capsys.readouterr()
    assert "Remove these 3 resources in eu-central-1?" in printed.err
    assert ("error: not confirmed; nothing was changed." in printed.err) == (code == 1)
    assert len(deployed_names(aws)) == (3 if code == 1 else 0)


def test_keep_model_leaves_the_models_files(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, deploy_settings(tiny_bundle))
    assert run("teardown", "films", "--yes", "--keep-model").out.count("removed: ") == 1
    assert len(list_keys(aws, "models")) == 2
    assert deployed_names(aws) == []


def test_an_endpoint_of_others_is_left_alone(aws: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path) -> None:
    sagemaker, role = shared_cloud.client("sagemaker"), role_arn(aws, "trainer")
    container = {"Image": "1.dkr.ecr/x:1", "ModelDataUrl": "https://films.s3.amazonaws.com/m.tar.gz"}
    sagemaker.create_model(ModelName="theirs", PrimaryContainer=container, ExecutionRoleArn=role)
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": "theirs",
        "InstanceType": "ml.c5.large",
        "InitialInstanceCount": 1,
    }
    sagemaker.create_endpoint_config(EndpointConfigName="theirs", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="films", EndpointConfigName="theirs")
    with pytest.raises(CloudError, match="endpoint films already exists and was not created by a stack"):
        deploy(aws, deploy_settings(tiny_bundle))
    assert list_keys(aws, "models") == []
    assert deployed_names(aws) == []
    assert status(aws) == []
    assert variant_and_contract(aws, "films") == ("realtime", None)


def test_an_uploaded_model_is_removed_if_the_stack_is_refused(
    aws: Cloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> None:
        raise CloudError("the limit of stacks is reached.")

    monkeypatch.setattr(aws.client("cloudformation"), "create_stack", refused)
    with pytest.raises(CloudError, match="limit of stacks"):
        deploy(aws, deploy_settings(tiny_bundle))
    assert list_keys(aws, "models") == []


def test_a_failed_stack_is_reported_with_its_cause_and_its_model_is_removed(
    aws: Cloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moto's stacks do not fail, so its responses are replaced by failing states and events."""
    client, event = aws.client("cloudformation"), {"LogicalResourceId": "Endpoint", "ResourceStatus": "CREATE_FAILED"}
    describe, states = client.describe_stacks, iter(["CREATE_IN_PROGRESS", "DELETE_IN_PROGRESS", "DELETE_COMPLETE"])

    def failing(**arguments: Any) -> dict[str, Any]:
        reply: dict[str, Any] = describe(**arguments)
        return {"Stacks": [each | {"StackStatus": next(states)} for each in reply["Stacks"]]}

    class Events:
        def paginate(self, **_: Any) -> list[dict[str, Any]]:
            why = "The primary container did not pass the ping health check."
            later = {"LogicalResourceId": "Log", "ResourceStatus": "CREATE_FAILED"}
            cancelled = later | {"ResourceStatusReason": "Resource creation cancelled"}
            return [{"StackEvents": [cancelled, event | {"ResourceStatusReason": why}]}]

    monkeypatch.setattr(client, "describe_stacks", failing)
    monkeypatch.setattr(client, "get_paginator", lambda _: Events())
    with pytest.raises(CloudError, match=r"failed \(delete complete\): Endpoint: The primary container did not pass"):
        deploy(aws, deploy_settings(tiny_bundle), pause=lambda _: None)
    assert list_keys(aws, "models") == []


@pytest.mark.parametrize(
    ("statuses", "cause"),
    [
        (["UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE"], "Endpoint: the new container does not answer"),
        (["DELETE_IN_PROGRESS", "DELETE_FAILED"], "Log: the log is in use"),
    ],
)
def test_the_cause_of_a_failure_is_that_of_the_last_operation(
    statuses: list[str], cause: str, aws: Cloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack's earlier update failed too. As above, moto's responses are replaced."""
    deploy(aws, deploy_settings(tiny_bundle))
    stack = find_stack(aws, "pneumoscope-films")
    assert stack is not None
    client, states = aws.client("cloudformation"), iter(statuses)

    def event(name: str, status: str, reason: str = "") -> dict[str, str]:
        physical = stack["StackId"] if name == stack["StackName"] else name
        names = {"LogicalResourceId": name, "PhysicalResourceId": physical}
        return names | {"ResourceStatus": status, "ResourceStatusReason": reason}

    def own_event(status: str) -> dict[str, str]:
        return event(stack["StackName"], status)

    last_operation = {
        "UPDATE_IN_PROGRESS": [
            own_event("UPDATE_ROLLBACK_COMPLETE"),
            event("Log", "UPDATE_FAILED", "a consequence"),
            event("Endpoint", "UPDATE_FAILED", "the new container does not answer."),
        ],
        "DELETE_IN_PROGRESS": [own_event("DELETE_FAILED"), event("Log", "DELETE_FAILED", "the log is in use.")],
    }
    earlier_update = [
        own_event("UPDATE_ROLLBACK_COMPLETE"),
        event("Endpoint", "UPDATE_FAILED", "the old container does not answer."),
        own_event("UPDATE_IN_PROGRESS"),
    ]

    class Events:
        def paginate(self, **_: Any) -> list[dict[str, Any]]:
            newest_first = [*last_operation[statuses[0]], own_event(statuses[0]), *earlier_update]
            return [{"StackEvents": newest_first[:2]}, {"StackEvents": newest_first[2:]}]

    monkeypatch.setattr(client, "describe_stacks", lambda **_: {"Stacks": [stack | {"StackStatus": next(states)}]})
    monkeypatch.setattr(client, "get_paginator", lambda _: Events())
    with pytest.raises(CloudError, match=cause):
        await_stack(aws, stack["StackId"], pause=lambda _: None)


def test_captures_into_a_public_bucket_are_refused(aws: Cloud, tiny_bundle: Path) -> None:
    here = {"LocationConstraint": REGION}
    aws.client("s3").create_bucket(Bucket="open-bucket", CreateBucketConfiguration=here)
    aws.client("s3").put_bucket_acl(Bucket="open-bucket", ACL="public-read")
    with pytest.raises(UsageError, match="bucket open-bucket is open to the public") as failure:
        deploy(aws, deploy_settings(tiny_bundle, capture="s3://open-bucket/films"))
    assert "--allow-public" not in str(failure.value), "there is no such option here"
    assert list_keys(aws, "models") == []
    for variant in ("serverless", "async"):
        with pytest.raises(ValidationError, match="captures nothing; leave out --capture"):
            deploy_settings(tiny_bundle, variant=variant, capture="s3://films-bucket/kept")
    with pytest.raises(ValidationError, match="captures need a folder in the bucket"):
        deploy_settings(tiny_bundle, capture="s3://films-bucket")
    with pytest.raises(ValidationError, match="a serverless endpoint has no instances"):
        deploy_settings(tiny_bundle, variant="serverless", most_instances=2)


def test_ctrl_c_while_waiting_reports_that_the_endpoint_may_be_created(
    aws: Cloud, tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pneumoscope.aws.client.deploy.await_stack", interrupted)
    monkeypatch.setattr(sys, "argv", ["pneumoscope", "aws", "deploy", str(tiny_bundle), *OPTIONS])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130
    assert "AWS may still make endpoint films" in capsys.readouterr().err
    assert len(deployed_names(aws)) == 3


def test_local_mistakes_are_reported_before_credentials_are_needed(tmp_path: Path) -> None:
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    place = ("--to", "s3://films-bucket/models", "--role", "trainer", "--serving", "ray", "--name", "films")
    for arguments in (("deploy", tmp_path / "none", *place), ("teardown", "a b"), ("invoke", "../x", tmp_path)):
        done = run(*arguments, **nobody)
        assert done.code in (1, 2)
        assert "credentials" not in done.err
        assert "Traceback" not in done.err
        assert len(done.err.strip().splitlines()) == 1, done.err


@pytest.fixture
def other_time_zone() -> Iterator[None]:
    """A machine's time zone that is far from UTC; botocore gives SageMaker's times in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("other_time_zone")
def test_times_of_creation_are_in_utc(aws: Cloud, shared_cloud: LocalCloud) -> None:
    arguments = job_arguments(train_settings(name="job"), role_arn(aws, "trainer"), REGION, None)
    shared_cloud.client("sagemaker").create_training_job(**arguments)
    (row,) = status(aws)
    assert abs(datetime.fromisoformat(row["made"] + "+00:00") - datetime.now(UTC)) < timedelta(hours=1)


def test_training_jobs_are_listed_by_a_single_call(aws: Cloud, shared_cloud: LocalCloud) -> None:
    calls = list[str]()
    role, own = role_arn(aws, "trainer"), {"Key": "pneumoscope", "Value": "x"}
    for number in range(20):
        arguments = job_arguments(train_settings(name=f"job-{number}"), role, REGION, None)
        tags = [own] if number % 2 else [{"Key": "theirs", "Value": "x"}]
        shared_cloud.client("sagemaker").create_training_job(**arguments | {"Tags": tags})
    aws.client("sagemaker").meta.events.register("before-call", lambda model, **_: calls.append(model.name))
    rows = status(aws)
    assert {each["name"] for each in rows} == {f"job-{number}" for number in range(1, 20, 2)}
    assert all(each["state"] and each["made"] for each in rows)
    assert calls == ["Search", "ListTransformJobs"]


def test_teardown_reports_where_captured_films_stay(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, deploy_settings(tiny_bundle, capture="s3://films-bucket/captures"))
    removed = run("teardown", "films", "--yes")
    assert removed.code == 0, removed
    assert "captured films and responses stay in s3://films-bucket/captures" in removed.err, removed
    deploy(aws, deploy_settings(tiny_bundle))
    assert "captured" not in run("teardown", "films", "--yes").err


def test_a_model_is_verified_and_never_overwritten(
    aws: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path, own_bundle: Path
) -> None:
    done = run("put-model", tiny_bundle, "s3://films-bucket/models/one")
    assert done.code == 0, done
    assert "model in s3://films-bucket/models/one" in done.out, done
    assert list_keys(aws, "models") == ["models/one/contract.json", "models/one/model.tar.gz"]
    with fetch_bundle(aws, parse_location("s3://films-bucket/models/one/model.tar.gz")) as (_, engine):
        assert engine.contract == load_contract(tiny_bundle)
    tags = shared_cloud.client("s3").get_object_tagging(Bucket=PLACE.bucket, Key="models/one/model.tar.gz")["TagSet"]
    assert tags == [{"Key": "pneumoscope", "Value": "one"}]
    again = run("put-model", tiny_bundle, "s3://films-bucket/models/one")
    assert again.code == 1, again
    assert "model.tar.gz exists already; choose another folder" in again.err, again
    no_folder = run("put-model", tiny_bundle, "s3://films-bucket")
    assert no_folder.code == 2, no_folder
    assert "name a folder in it" in no_folder.err, no_folder
    (own_bundle / "model.onnx").write_bytes(b"other")
    damaged = run("put-model", own_bundle, "s3://films-bucket/models/two")
    assert damaged.code == 1, damaged
    assert "model.onnx was changed" in damaged.err, damaged
    assert list_keys(aws, "models/two") == []


def test_an_incomplete_model_is_removed(aws: Cloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = aws.client("s3").put_object

    def refused(**arguments: Any) -> Any:
        if arguments["Key"].endswith("contract.json"):
            raise CloudError("the disk is full.")
        return write(**arguments)

    monkeypatch.setattr(aws.client("s3"), "put_object", refused)
    with pytest.raises(CloudError, match="the disk is full"):
        put_model(aws, PutModel(source=tiny_bundle, folder="s3://films-bucket/models/one"))
    assert list_keys(aws, "models") == []


def test_a_bundle_that_fails_verification_is_not_deployed(aws: Cloud, own_bundle: Path) -> None:
    (own_bundle / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model.onnx was changed"):
        deploy(aws, deploy_settings(own_bundle))
    assert list_keys(aws, "models") == []


def test_a_training_jobs_archive_is_deployed_from_s3(aws: Cloud, tiny_bundle: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:  # as SageMaker packs the model directory
        packed.add(tiny_bundle, arcname=".")
    aws.client("s3").upload_file(str(archive), PLACE.bucket, "runs/mine/output/model.tar.gz")
    heard = RecordingListener()
    source = parse_location("s3://films-bucket/runs/mine/output/model.tar.gz")
    deploy(aws, deploy_settings(source, variant="serverless"), listener=heard)
    assert heard.lines[-1] == "stack pneumoscope-films: create complete"
    variant, contract = variant_and_contract(aws, "films")
    digest = load_contract(tiny_bundle).files["model.onnx"][:12]
    assert variant == "serverless"
    assert str(contract) == f"s3://films-bucket/models/films/{digest}/contract.json"
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="junk/model.tar.gz", Body=b"no archive")
    with pytest.raises(BundleError, match="cannot be unpacked"):
        deploy(aws, deploy_settings(parse_location("s3://films-bucket/junk/model.tar.gz"), name="other"))
    with pytest.raises(CloudError, match=r"reading s3://films-bucket/none.tar.gz"):
        deploy(aws, deploy_settings(parse_location("s3://films-bucket/none.tar.gz"), name="other"))


def test_options_become_valid_parameters_of_the_template(aws: Cloud, shared_cloud: LocalCloud) -> None:
    folder = parse_location("s3://films-bucket/models/films/one")
    template = json.loads(long_form(REPOSITORY / "deploy" / "aws" / "endpoint.yaml"))["Parameters"]
    key = shared_cloud.client("kms").create_key()["KeyMetadata"]
    for changes in (
        {},
        {"variant": "serverless", "memory_mb": 2048},
        {"variant": "async", "most_instances": 4, "concurrency": 8},
        {"serving": "ray", "image": None},
        {"capture": "s3://films-bucket/kept", "kms_key": key["KeyId"], "role": "trainer"},
        {"instance_type": "ml.g5.xlarge", "kms_key": key["Arn"]},
    ):
        settings = deploy_settings("bundle", **{"image": IMAGE} | changes)
        role = None if settings.role is None else role_arn(aws, settings.role)
        given = make_parameters(aws, settings, "films", folder, role)
        assert given.keys() <= template.keys()
        for name, value in given.items():
            pattern, values = template[name].get("AllowedPattern"), template[name].get("AllowedValues")
            assert pattern is None or re.fullmatch(pattern, value), name
            assert values is None or value in map(str, values), name
        assert given["ImageUri"] == (settings.image or aws_image(RAY_SERVE, REGION))
        assert given["KmsKeyArn"] in ("", key["Arn"])
        assert given["InstanceDisks"] == ("true" if "g5" in settings.instance_type else "false")
        assert given["AsyncPrefix"] == ("models/films" if settings.variant == "async" else "")


def test_an_archive_with_outside_paths_or_too_many_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = tmp_path / "evil.tar.gz"
    with tarfile.open(evil, "w:gz") as packed:
        entry = tarfile.TarInfo("../outside")
        entry.size = 3
        packed.addfile(entry, BytesIO(b"bad"))
    with pytest.raises(BundleError, match="cannot be unpacked"):
        extract(evil, tmp_path / "in")
    assert not (tmp_path / "outside").exists()
    monkeypatch.setattr("pneumoscope.aws.unpack._MAX_UNPACKED", 1000)
    with tarfile.open(evil, "w:gz") as packed:
        entry = tarfile.TarInfo("zeros")
        entry.size = 2000
        packed.addfile(entry, BytesIO(bytes(2000)))
    with pytest.raises(BundleError, match="more than 1,000 bytes"):
        extract(evil, tmp_path / "in")
