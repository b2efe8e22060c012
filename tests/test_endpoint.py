"""Endpoints made, scaled and removed again in moto."""

import json
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions
from pydantic import ValidationError

from account import PLACE, REGION, Heard, keys, names, request, run, scripted, wanted
from local_cloud import LocalCloud
from pneumoscope.aws.client.deploy import await_service, deploy, describe_config, describe_model, scale, scales
from pneumoscope.aws.client.inventory import belongings, limits_of, status
from pneumoscope.aws.client.train import describe_request, role_arn
from pneumoscope.aws.session import Cloud, parse_location
from pneumoscope.aws.unpack import extract, unpacked
from pneumoscope.cli import main
from pneumoscope.contract import load_contract
from pneumoscope.errors import (
    BundleError,
    CloudError,
    UsageError,
)

pytestmark = pytest.mark.usefixtures("aws")


def test_an_endpoint_is_made_listed_and_removed_with_nothing_else(
    aws: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path, tmp_path: Path
) -> None:
    sagemaker = shared_cloud.client("sagemaker")
    role = role_arn(aws, "trainer")
    sagemaker.create_model(ModelName="theirs", PrimaryContainer={"Image": "1.dkr.ecr/x:1"}, ExecutionRoleArn=role)
    image = "1.dkr.ecr.eu-central-1.amazonaws.com/pneumoscope:1"
    options = (
        "--to",
        "s3://films-bucket/models",
        "--role",
        "trainer",
        "--image",
        image,
        "--name",
        "films",
        "--instance-type",
        "ml.c5.large",
    )
    done = run("deploy", tiny_bundle, *options, "--most-instances", 3)
    assert done.code == 0, done.err
    assert "endpoint films is in service" in done.out
    model = sagemaker.describe_model(ModelName="films")["PrimaryContainer"]
    assert model == {"Image": image, "ModelDataUrl": "s3://films-bucket/models/films/model.tar.gz"}
    config = sagemaker.describe_endpoint_config(EndpointConfigName="films")
    assert not config.get("DataCaptureConfig")
    assert keys(aws, "models") == ["models/films/contract.json", "models/films/model.tar.gz"]
    aws.client("s3").download_file(PLACE.bucket, "models/films/model.tar.gz", str(tmp_path / "model.tar.gz"))
    with unpacked(tmp_path / "model.tar.gz") as (bundle, engine):
        assert engine.contract == load_contract(tiny_bundle)
        assert (bundle / "contract.json").parent != bundle / "bundle"
    scaling = shared_cloud.client("application-autoscaling")
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 3)
    assert len(scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]) == 1
    told = json.loads(run("status", "--format", "json").out)
    assert {each["kind"] for each in told} == {"endpoint", "endpoint config", "model"}
    assert {each["name"] for each in told} == {"films"}
    assert "films" in run("status").out
    again = run("deploy", tiny_bundle, *options)
    assert (again.code, "there is an endpoint films already" in again.err) == (1, True)
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="models/films/notes.txt", Body=b"mine")
    unasked = run("teardown", "films")
    assert (unasked.code, "pass --yes" in unasked.err) == (2, True)
    assert unasked.err.count("to be removed: ") == 6
    removed = run("teardown", "films", "--yes")
    assert (removed.code, removed.out.count("removed: ")) == (0, 6), removed
    assert keys(aws, "models") == ["models/films/notes.txt"]
    assert [each["ModelName"] for each in sagemaker.list_models()["Models"]] == ["theirs"]
    assert not sagemaker.list_endpoints()["Endpoints"]
    assert not scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert "nothing named films" in run("teardown", "films", "--yes").out
    assert "nothing that was made from here" in run("status").out


def test_training_jobs_are_listed_without_a_call_for_each(aws: Cloud, shared_cloud: LocalCloud) -> None:
    asked = list[str]()
    role, own = role_arn(aws, "trainer"), {"Key": "pneumoscope", "Value": "x"}
    for number in range(20):
        arguments = describe_request(request(name=f"job-{number}"), role, REGION, None)
        tags = [own] if number % 2 else [{"Key": "theirs", "Value": "x"}]
        shared_cloud.client("sagemaker").create_training_job(**arguments | {"Tags": tags})
    aws.client("sagemaker").meta.events.register("before-call", lambda model, **_: asked.append(model.name))
    rows = status(aws)
    assert {each["name"] for each in rows} == {f"job-{number}" for number in range(1, 20, 2)}
    assert all(each["state"] and each["made"] for each in rows)
    assert sorted(asked) == ["ListEndpointConfigs", "ListEndpoints", "ListModels", "Search"]


def test_teardown_says_where_captured_films_stay(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, wanted(capture="s3://films-bucket/captures"), tiny_bundle)
    removed = run("teardown", "films", "--yes")
    assert (removed.code, "captured stay in s3://films-bucket/captures" in removed.err) == (0, True), removed
    deploy(aws, wanted(), tiny_bundle)
    assert "captured" not in run("teardown", "films", "--yes").err


def test_a_teardown_that_was_broken_off_goes_on(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, wanted(), tiny_bundle)
    whole = names(aws)
    files = ["s3://films-bucket/models/films/model.tar.gz", "s3://films-bucket/models/films/contract.json"]
    assert whole == ["endpoint films", "endpoint config films", *files, "model films"]
    for left in range(len(whole) - 1, -1, -1):  # one step each, as if each had been the last one
        next(belongings(aws, "films")).remove()
        assert names(aws) == whole[len(whole) - left :]


def test_a_model_that_something_else_reads_is_kept(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, wanted(), tiny_bundle)
    assert run("teardown", "films", "--yes", "--keep-model").out.count("removed: ") == 3
    assert keys(aws, "models") == ["models/films/contract.json", "models/films/model.tar.gz"]
    with pytest.raises(CloudError, match=r"there is s3://films-bucket/models/films/model.tar.gz already"):
        deploy(aws, wanted(), tiny_bundle)
    assert keys(aws, "models") == ["models/films/contract.json", "models/films/model.tar.gz"]
    assert names(aws) == []


def test_a_deployment_leaves_alone_what_another_one_makes_meanwhile(
    aws: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(aws, wanted(), tiny_bundle)
    # Both looked before either made.
    monkeypatch.setattr("pneumoscope.aws.client.deploy._require_free", lambda *_: None)
    with pytest.raises(CloudError, match=r"model.tar.gz already"):
        deploy(aws, wanted(), tiny_bundle)

    def taken(**_: Any) -> None:  # moto does not mind
        raise CloudError("Cannot create already existing model.")

    monkeypatch.setattr(aws.client("sagemaker"), "create_model", taken)
    with pytest.raises(CloudError, match="already existing model"):
        deploy(aws, wanted(place="s3://films-bucket/elsewhere"), tiny_bundle)
    assert keys(aws, "elsewhere") == []
    assert len(names(aws)) == 5
    assert shared_cloud.client("sagemaker").describe_endpoint(EndpointName="films")["EndpointStatus"] == "InService"


def test_an_endpoint_whose_answer_was_lost_is_there(
    aws: Cloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = aws.client("sagemaker").create_endpoint

    def lost(**arguments: Any) -> None:
        create(**arguments)
        raise exceptions.ReadTimeoutError(endpoint_url="https://sagemaker")

    monkeypatch.setattr(aws.client("sagemaker"), "create_endpoint", lost)
    deploy(aws, wanted(), tiny_bundle)
    assert len(names(aws)) == 5


def test_the_first_error_is_told_if_tidying_up_fails_too(
    aws: Cloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> None:
        raise CloudError("no instances of this type are left.")

    def denied(*_: Any) -> None:
        raise CloudError("AWS denies it.")

    monkeypatch.setattr(aws.client("sagemaker"), "create_endpoint", refused)
    monkeypatch.setattr("pneumoscope.aws.client.deploy.remove_file", denied)
    with pytest.raises(CloudError, match="no instances"):
        deploy(aws, wanted(), tiny_bundle)


@pytest.mark.parametrize(
    "container",
    [
        {"PrimaryContainer": {"Image": "1.dkr.ecr/x:1"}},
        {"PrimaryContainer": {"Image": "1.dkr.ecr/x:1", "ModelDataUrl": "https://films.s3.amazonaws.com/m.tar.gz"}},
        {"Containers": [{"Image": "1.dkr.ecr/x:1"}, {"Image": "1.dkr.ecr/y:1"}]},
    ],
)
def test_models_of_other_kinds_are_not_stumbled_over(
    aws: Cloud, shared_cloud: LocalCloud, container: dict[str, Any]
) -> None:
    sagemaker = shared_cloud.client("sagemaker")
    sagemaker.create_model(ModelName="films", ExecutionRoleArn=role_arn(aws, "trainer"), **container)
    assert names(aws) == []
    sagemaker.create_endpoint_config(**describe_config(wanted()))
    sagemaker.create_endpoint(EndpointName="films", EndpointConfigName="films")
    assert limits_of(aws, "films") == ("realtime", None)


def test_nothing_is_captured_where_the_public_can_read(aws: Cloud, tiny_bundle: Path) -> None:
    here = {"LocationConstraint": REGION}
    aws.client("s3").create_bucket(Bucket="open-bucket", CreateBucketConfiguration=here)
    aws.client("s3").put_bucket_acl(Bucket="open-bucket", ACL="public-read")
    with pytest.raises(UsageError, match="bucket open-bucket is open to the public") as failure:
        deploy(aws, wanted(capture="s3://open-bucket/films"), tiny_bundle)
    assert "--allow-public" not in str(failure.value), "there is no such option here"
    assert keys(aws, "models") == []
    for variant in ("serverless", "async"):
        with pytest.raises(ValidationError, match="captures nothing; leave out --capture"):
            wanted(variant=variant, capture="s3://films-bucket/kept")
    with pytest.raises(ValidationError, match="a serverless endpoint has no instances"):
        wanted(variant="serverless", most_instances=2)


def test_ctrl_c_while_waiting_says_that_the_endpoint_goes_on(
    aws: Cloud, tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pneumoscope.aws.client.deploy.await_service", interrupted)
    options = ["--to", "s3://films-bucket/models", "--role", "trainer", "--image", wanted().image, "--name", "films"]
    arguments = ["aws", "deploy", str(tiny_bundle), *options, "--instance-type", "ml.c5.large"]
    monkeypatch.setattr(sys, "argv", ["pneumoscope", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130
    assert "endpoint films is there all the same, and costs until" in capsys.readouterr().err
    assert len(names(aws)) == 5


def test_what_is_wrong_here_is_told_before_an_account_is_asked_for(tmp_path: Path) -> None:
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    place = ("--to", "s3://films-bucket/models", "--role", "trainer", "--serving", "ray", "--name", "films")
    for arguments in (("deploy", tmp_path / "none", *place), ("teardown", "a b"), ("invoke", "../x", tmp_path)):
        done = run(*arguments, **nobody)
        assert done.code in (1, 2)
        assert "credentials" not in done.err
        assert "Traceback" not in done.err
        assert len(done.err.strip().splitlines()) == 1, done.err


def test_what_does_not_bear_the_tag_stays(aws: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path) -> None:
    sagemaker = shared_cloud.client("sagemaker")
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="models/films/model.tar.gz", Body=b"theirs")
    container = {"Image": "1.dkr.ecr/x:1", "ModelDataUrl": "s3://films-bucket/models/films/model.tar.gz"}
    sagemaker.create_model(ModelName="films", PrimaryContainer=container, ExecutionRoleArn=role_arn(aws, "trainer"))
    assert names(aws) == []
    assert status(aws) == []
    assert len(sagemaker.list_models()["Models"]) == 1
    assert keys(aws, "models") == ["models/films/model.tar.gz"]
    with pytest.raises(CloudError, match="there is a model films already"):
        deploy(aws, wanted(), tiny_bundle)


def test_what_was_made_goes_again_if_a_step_fails(
    aws: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> None:
        raise CloudError("no instances of this type are left.")

    monkeypatch.setattr(aws.client("sagemaker"), "create_endpoint", refused)
    with pytest.raises(CloudError, match="no instances"):
        deploy(aws, wanted(), tiny_bundle)
    assert keys(aws, "models") == []
    assert not shared_cloud.client("sagemaker").list_models()["Models"]
    assert not shared_cloud.client("sagemaker").list_endpoint_configs()["EndpointConfigs"]


def test_a_bundle_that_does_not_verify_is_not_deployed(aws: Cloud, own_bundle: Path) -> None:
    (own_bundle / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model.onnx was changed"):
        deploy(aws, wanted(), own_bundle)
    assert keys(aws, "models") == []


def test_a_training_jobs_archive_is_deployed_from_s3(aws: Cloud, tiny_bundle: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:  # as SageMaker packs the model directory
        packed.add(tiny_bundle, arcname=".")
    aws.client("s3").upload_file(str(archive), PLACE.bucket, "runs/mine/output/model.tar.gz")
    heard = Heard()
    source = parse_location("s3://films-bucket/runs/mine/output/model.tar.gz")
    deploy(aws, wanted(variant="serverless"), source, listener=heard)
    await_service(aws, "films", listener=heard)
    assert heard.lines[-1] == "endpoint films: InService"
    variant, contract = limits_of(aws, "films")
    assert (variant, str(contract)) == ("serverless", "s3://films-bucket/models/films/contract.json")
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="junk/model.tar.gz", Body=b"no archive")
    with pytest.raises(BundleError, match="cannot be unpacked"):
        deploy(aws, wanted(name="other"), parse_location("s3://films-bucket/junk/model.tar.gz"))
    with pytest.raises(CloudError, match=r"reading s3://films-bucket/none.tar.gz"):
        deploy(aws, wanted(name="other"), parse_location("s3://films-bucket/none.tar.gz"))


def test_each_variant_is_described_as_aws_wants_it() -> None:
    realtime = describe_config(wanted(kms_key="key-1", capture="s3://films-bucket/kept"))
    assert realtime["DataCaptureConfig"]["EnableCapture"] is True
    assert realtime["KmsKeyId"] == realtime["DataCaptureConfig"]["KmsKeyId"] == "key-1"
    assert "KmsKeyId" not in describe_config(wanted(kms_key="key-1", instance_type="ml.g5.xlarge"))
    assert realtime["ProductionVariants"][0]["InstanceType"] == "ml.c5.large"
    serverless = describe_config(wanted(variant="serverless", memory_mb=2048, concurrency=7))
    assert serverless["ProductionVariants"][0]["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 7}
    assert "InstanceType" not in serverless["ProductionVariants"][0]
    later = describe_config(wanted(variant="async"))
    assert later["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"] == "s3://films-bucket/models/films/answers"
    assert "DataCaptureConfig" not in later
    answers = describe_config(wanted(variant="async", kms_key="key-1"))["AsyncInferenceConfig"]["OutputConfig"]
    assert answers["KmsKeyId"] == "key-1"
    assert scales(wanted(variant="async", most_instances=4))
    assert not scales(wanted())


@pytest.mark.parametrize(
    ("changes", "isolated"),
    [({}, True), ({"variant": "async"}, True), ({"variant": "serverless"}, False), ({"for_ray": True}, False)],
)
def test_a_model_reaches_no_network_where_that_can_be(changes: dict[str, Any], *, isolated: bool) -> None:
    assert describe_model(wanted(**changes), "arn:role")["EnableNetworkIsolation"] is isolated


def test_an_endpoint_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = {"EndpointName": "films", "EndpointStatus": "Creating"}
    failed = begun | {"EndpointStatus": "Failed", "FailureReason": "The container did not pass the ping health check."}
    with scripted((200, begun), (200, failed)) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", url)
        with pytest.raises(CloudError, match=r"did not start: The container did not pass .*; remove it with"):
            await_service(Cloud(region=REGION), "films", pause=lambda _: None)


def test_scaling_can_be_set_up_twice(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, wanted(most_instances=2), tiny_bundle)
    scale(aws, wanted(most_instances=2))
    scale(aws, wanted(most_instances=2))
    assert "scaling of endpoint films" in names(aws)
    waiting = wanted(name="later", variant="async", most_instances=3, concurrency=8)
    deploy(aws, waiting, tiny_bundle)
    scale(aws, waiting)
    policies = aws.client("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")
    followed = {
        each["ResourceId"]: each["TargetTrackingScalingPolicyConfiguration"] for each in policies["ScalingPolicies"]
    }
    assert followed["endpoint/films/variant/AllTraffic"]["TargetValue"] == 600
    backlog = followed["endpoint/later/variant/AllTraffic"]
    assert backlog["TargetValue"] == 8
    assert backlog["CustomizedMetricSpecification"]["MetricName"] == "ApproximateBacklogSizePerInstance"


def test_an_archive_that_leads_out_or_unpacks_endlessly_is_refused(
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
    monkeypatch.setattr("pneumoscope.aws.unpack._MOST_UNPACKED", 1000)
    with tarfile.open(evil, "w:gz") as packed:
        entry = tarfile.TarInfo("zeros")
        entry.size = 2000
        packed.addfile(entry, BytesIO(bytes(2000)))
    with pytest.raises(BundleError, match="more than 1,000 bytes"):
        extract(evil, tmp_path / "in")
