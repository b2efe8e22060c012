"""Training jobs, and what functions store: against moto over HTTP, or a scripted server for what moto cannot do."""

import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from botocore import exceptions
from pydantic import ValidationError

from account import (
    PLACE,
    REGION,
    RecordingListener,
    become_nobody,
    deploy_settings,
    head_object,
    run,
    scripted,
    train_settings,
)
from local_cloud import LocalCloud
from pneumoscope.aws.client.images import has_disks, training_image
from pneumoscope.aws.client.inventory import status
from pneumoscope.aws.client.package import pinned_requirements, requirements, training_archive, write_model_archive
from pneumoscope.aws.client.train import describe_job, follow, job_arguments, role_arn, start
from pneumoscope.aws.client.upload import upload
from pneumoscope.aws.endpoint import TimedDecision
from pneumoscope.aws.functions import on_upload, shared
from pneumoscope.aws.session import Cloud
from pneumoscope.aws.unpack import extract
from pneumoscope.dataset import Dataset
from pneumoscope.errors import (
    BusyError,
    CloudError,
    UsageError,
)
from pneumoscope.models import SHIPPED
from pneumoscope.settings.aws_names import parse_location

pytestmark = pytest.mark.usefixtures("aws")


def test_a_throttled_call_is_retried_and_then_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    throttled = (400, {"__type": "ThrottlingException", "message": "Rate exceeded"})
    job = (200, {"TrainingJobName": "a", "TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"})
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    with scripted(throttled, throttled, job) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", url)
        assert describe_job(Cloud(region=REGION), "a")["TrainingJobStatus"] == "Completed"
        assert len(asked) == 3
    with scripted(throttled) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", url)
        with pytest.raises(
            BusyError,
            match=r"training job a: AWS is busy, or throttles requests \(ThrottlingException\); try again later",
        ):
            describe_job(Cloud(region=REGION), "a")
        assert len(asked) == 3


def test_no_server_no_region_and_no_credentials_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(BusyError, match=r"http://127.0.0.1:9\S* cannot be reached"):
        describe_job(Cloud(region=REGION), "a")
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CloudError, match="no AWS region is set; pass --region"):
        Cloud()
    with pytest.raises(CloudError, match="there are no AWS credentials; run `aws configure`"):
        describe_job(Cloud(region=REGION), "a")
    monkeypatch.setenv("AWS_PROFILE", "missing-profile")
    with pytest.raises(CloudError, match="missing-profile"):
        Cloud(region=REGION)


def test_a_training_job_is_started_as_configured_and_followed(
    aws: Cloud, shared_cloud: LocalCloud, dataset: Dataset, tmp_path: Path
) -> None:
    upload(aws, dataset, PLACE)
    logs = shared_cloud.client("logs")
    logs.create_log_group(logGroupName="/aws/sagemaker/TrainingJobs")
    logs.create_log_stream(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName="mine/algo-1-1")
    lines = ["epoch 1/1 train loss 0.9", "done"]
    now = int(time.time() * 1000)
    events = [{"timestamp": now + number, "message": line} for number, line in enumerate(lines)]
    logs.put_log_events(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName="mine/algo-1-1", logEvents=events)
    done = run(
        *("train", "--data", "s3://films-bucket/films", "--out", "s3://films-bucket/runs", "--role", "trainer"),
        *("--recipe", "capstone-resnet50", "--set", "epochs=2", "--set", "freeze=true", "--name", "mine"),
        *("--export-precision", "int8"),
        *("--instances", "2", "--spot", "--fast-file", "--wait"),
    )
    assert done.code == 0, done.err
    assert "training job mine started in eu-central-1" in done.out, done.err
    assert all(line in done.err for line in lines)
    job = shared_cloud.client("sagemaker").describe_training_job(TrainingJobName="mine")
    assert job["ResourceConfig"]["InstanceCount"] == 2
    assert job["EnableManagedSpotTraining"] is True
    assert job["CheckpointConfig"]["S3Uri"] == "s3://films-bucket/runs/mine/checkpoints"
    assert job["HyperParameters"]["epochs"] == "2"
    assert job["HyperParameters"]["freeze"] == "true"
    assert job["HyperParameters"]["export_precision"] == "int8"
    (channel,) = job["InputDataConfig"]
    assert channel["ChannelName"] == "train"
    assert channel["InputMode"] == "FastFile"
    assert channel["DataSource"]["S3DataSource"]["S3Uri"] == "s3://films-bucket/films/"
    source = parse_location(job["HyperParameters"]["sagemaker_submit_directory"])
    assert head_object(aws, source.key)["ServerSideEncryption"] == "AES256"
    listed_jobs = [each for each in status(aws) if each["kind"] == "training job"]
    assert [each["name"] for each in listed_jobs] == ["mine"]
    code = tmp_path / "sourcedir.tar.gz"
    aws.client("s3").download_file(source.bucket, source.key, str(code))
    extract(code, tmp_path / "code")
    started = subprocess.run(  # as the training image does, outside this checkout
        [sys.executable, "train.py", "--help"], cwd=tmp_path / "code", capture_output=True, text=True, check=False
    )
    assert "the command of a training job's container" in started.stdout
    where = [sys.executable, "-c", "import train"]
    shown = subprocess.run(where, cwd=tmp_path / "code", capture_output=True, text=True, check=False)
    assert "Traceback" not in shown.stderr


def test_the_archive_for_script_mode_has_this_package_and_its_requirements() -> None:
    with tarfile.open(fileobj=BytesIO(training_archive())) as archive:
        names = archive.getnames()
        needed = archive.extractfile("requirements.txt")
        assert needed is not None
        text = needed.read().decode()
    assert {"train.py", "pneumoscope/cli/model.py", "pneumoscope/recipes/quick.toml"} <= set(names)
    assert not [name for name in names if name.startswith("/") or "__pycache__" in name]
    installed = {each.partition("==")[0] for each in pinned_requirements()}
    assert installed >= {"lightning", "pydicom", "timm"}, "an extra of an extra is missing"
    assert not installed & {"pytest", "boto3"}
    assert text == "".join(f"{each}\n" for each in pinned_requirements())
    assert training_archive() == training_archive()


def test_a_job_installs_only_packages_pinned_by_hash() -> None:
    """A package could read the films. PyTorch is the image's own build, and must not be replaced by a pinned one."""
    for each in pinned_requirements():
        assert re.match(r"[a-z0-9-]+==[\w.]+( ;[^\n]*)? \\\n    --hash=sha256:[0-9a-f]{64}", each), each[:80]
    installed = {each.partition("==")[0] for each in pinned_requirements()}
    needed = [each for extra in ("train", "data", "dicom", "weights") for each in requirements(extra)]
    required = {re.split(r"[^\w-]", each)[0].lower() for each in needed}
    assert required - installed == {"torch", "torchvision"}
    assert not [name for name in installed if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_no_archive_holds_the_shipped_bundle(tiny_bundle: Path) -> None:
    """A job trains its own model and an endpoint serves one: neither must fall back to ours."""
    stream = BytesIO()
    write_model_archive(tiny_bundle, stream, for_ray=True)
    for content in (training_archive(), stream.getvalue()):
        with tarfile.open(fileobj=BytesIO(content)) as archive:
            names = archive.getnames()
        assert "pneumoscope/models/__init__.py" in names
        assert not [name for name in names if f"models/{SHIPPED}" in name]


def test_a_custom_image_a_test_channel_and_a_key_are_in_the_request() -> None:
    settings = train_settings(image="1.dkr.ecr/x", test="s3://films-bucket/other", kms_key="key-1", instances=3)
    job = job_arguments(settings, "arn:role", REGION, None)
    assert not [name for name in job["HyperParameters"] if name.startswith("sagemaker")]
    assert [each["ChannelName"] for each in job["InputDataConfig"]] == ["train", "test"]
    assert job["OutputDataConfig"]["KmsKeyId"] == "key-1"
    assert "VolumeKmsKeyId" not in job["ResourceConfig"], "AWS refuses one for a type with local disks"
    plain = job_arguments(train_settings(kms_key="key-1", instance_type="ml.c6i.4xlarge"), "arn:role", REGION, None)
    assert plain["ResourceConfig"]["VolumeKmsKeyId"] == "key-1"
    assert job["EnableInterContainerTrafficEncryption"] is True
    assert "CheckpointConfig" not in job
    names = {each["Name"] for each in job["AlgorithmSpecification"]["MetricDefinitions"]}
    assert {"train:loss", "train:accuracy", "validation:loss", "validation:accuracy"} <= names


@pytest.mark.parametrize(
    ("instance_type", "disks"),
    [
        *((f"ml.{each}.xlarge", True) for each in ("g4dn", "g5", "g6", "g6e", "gr6", "p3dn", "p4d", "p5en", "p6-b200")),
        *((f"ml.{each}.xlarge", True) for each in ("trn1", "m5d", "c5d", "m6id", "r5dn")),
        *((f"ml.{each}.xlarge", False) for each in ("c5", "c6i", "c7i", "m5", "m7i", "r5", "p3", "p2", "inf2", "t3")),
    ],
)
def test_types_with_local_disks_are_known(instance_type: str, *, disks: bool) -> None:
    assert has_disks(instance_type) is disks
    assert train_settings(instance_type=instance_type).instance_type == instance_type


@pytest.mark.parametrize("family", ["c6g", "c7gd", "c7gn", "m6gd", "r7g", "t4g", "g5g", "p6e-gb200"])
def test_arm_is_refused_where_the_images_cannot_run(family: str) -> None:
    for make in (train_settings, partial(deploy_settings, "bundle")):
        with pytest.raises(ValidationError, match="has ARM processors, and the images are for x86"):
            make(instance_type=f"ml.{family}.xlarge")


def test_an_incomplete_data_set_is_not_trained_on(aws: Cloud, dataset: Dataset) -> None:
    upload(aws, dataset, PLACE)
    aws.client("s3").delete_object(Bucket=PLACE.bucket, Key="films/manifest.csv")
    with pytest.raises(CloudError, match=r"s3://films-bucket/films has no manifest.csv, .* or pass --unprepared"):
        start(aws, train_settings())
    start(aws, train_settings(unprepared=True))
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="other/train/normal/a.png", Body=b"x")
    with pytest.raises(CloudError, match=r"s3://films-bucket/other has no manifest.csv"):
        start(aws, train_settings(name="another", unprepared=True, test="s3://films-bucket/other"))
    with pytest.raises(CloudError, match="there is nothing under s3://films-bucket/none"):
        start(aws, train_settings(name="another", unprepared=True, test="s3://films-bucket/none"))


def test_the_log_of_a_job_on_many_hosts_is_complete(aws: Cloud, shared_cloud: LocalCloud) -> None:
    logs, group = shared_cloud.client("logs"), "/aws/sagemaker/TrainingJobs"
    logs.create_log_group(logGroupName=group)
    now, hosts = int(time.time() * 1000), 60  # AWS lists fifty streams per page
    for host in range(hosts):
        stream = {"logGroupName": group, "logStreamName": f"many/algo-{host}"}
        logs.create_log_stream(**stream)
        logs.put_log_events(**stream, logEvents=[{"timestamp": now, "message": f"host {host}"}])
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="films/manifest.csv", Body=b"x")
    start(aws, train_settings(name="many"))
    heard = RecordingListener()
    follow(aws, "many", listener=heard, pause=lambda _: None)
    assert {f"host {host}" for host in range(hosts)} <= set(heard.lines)


def test_images_are_those_of_the_region_and_the_instance_type() -> None:
    assert training_image("ml.g6.2xlarge", "us-east-1").endswith(
        "us-east-1.amazonaws.com/pytorch:2.13-cu133-amzn2023-sagemaker"
    )
    assert training_image("ml.c7i.xlarge", "eu-west-1").endswith("2.13-cpu-amzn2023-sagemaker")
    assert training_image("ml.m5.large", "cn-north-1").startswith("727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/")
    with pytest.raises(UsageError, match="pass --image"):
        training_image("ml.m5.large", "moon-west-1")


def test_a_failed_job_is_reported_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = {"TrainingJobName": "a", "TrainingJobStatus": "InProgress", "SecondaryStatus": "Starting"}
    training = begun | {"SecondaryStatus": "Training"}
    failed = begun | {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": "no split 'val'."}
    heard, waited = RecordingListener(), list[float]()
    with scripted((200, begun), (200, begun), (200, training), (200, failed)) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", url)
        with pytest.raises(CloudError, match=r"training job a failed: no split 'val'; its log is in /aws/sagemaker"):
            follow(Cloud(region=REGION), "a", listener=heard, pause=waited.append)
    assert heard.lines == ["a: Starting", "a: Training", "a: Failed"]
    assert waited == [15.0] * 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--role", "nobody"), "there is no role nobody"),
        (("--data", "s3://films-bucket/empty"), "there is nothing under s3://films-bucket/empty"),
        (("--set", "epochs=many"), "epochs"),
        (("--set", "epochs"), "is not NAME=VALUE"),
        (("--set", "epoch=3"), "epoch"),
        (("--recipe", "unknown"), "not a shipped recipe"),
        (("--recipe", "mine.toml"), "not a shipped recipe"),
        (("--set", "weights=mine.safetensors"), "are a file, which a job cannot read"),
        (("--instance-type", "large"), "'large' is not an instance type"),
        (("--export-precision", "int4"), "int4"),
        (("--name", "a b"), "name"),
        (("--region", "us-east-1"), "is in eu-central-1, but"),
    ],
)
def test_an_impossible_job_is_not_started(
    options: tuple[str, str], sentence: str, aws: Cloud, shared_cloud: LocalCloud
) -> None:
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="films/manifest.csv", Body=b"x")
    given = {"--data": "s3://films-bucket/films", "--out": "s3://films-bucket/runs", "--role": "trainer"}
    given |= {options[0]: options[1]}
    done = run("train", *(part for pair in given.items() for part in pair))
    assert done.code in (1, 2)
    assert sentence in done.err
    assert "Traceback" not in done.err
    assert not shared_cloud.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]


def test_a_role_that_cannot_be_read_is_used_by_its_arn(
    aws: Cloud, shared_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = role_arn(aws, "trainer")
    assert role_arn(aws, arn) == arn
    become_nobody(shared_cloud, monkeypatch)
    with shared_cloud.guarded():
        assert role_arn(Cloud(region=REGION), arn) == arn
        with pytest.raises(CloudError, match=r"role trainer: AWS denies access .*allow GetRole for"):
            role_arn(Cloud(region=REGION), "trainer")


@pytest.fixture
def in_a_function(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of a function, and afterwards empty caches of what was read from it."""
    for name, value in (("MODEL", "s3://films-bucket/model.tar.gz"), ("BUCKET", PLACE.bucket), ("TABLE", "films")):
        monkeypatch.setenv(f"PNEUMOSCOPE_{name}", value)
    yield
    shared.cloud.cache_clear()
    shared.settings.cache_clear()


@pytest.mark.usefixtures("in_a_function")
def test_of_two_concurrent_writes_of_a_result_one_is_retried(aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both calls read the stored result before either of them writes."""
    upload_of = partial(on_upload.Upload, bucket=PLACE.bucket, key="films/a.png", version=None)
    film, place = (
        shared.StoredObject(data=b"", size=0, etag="e"),
        {"Bucket": PLACE.bucket, "Key": "results/a.png.json"},
    )
    decided = TimedDecision(prediction={"status": "answered", "reason_codes": []}, milliseconds=1.0)
    store = partial(on_upload._store, film=film, decided=decided, request_id="1")
    before = on_upload._read_stored(place)
    assert store(upload_of(sequencer="0B"))
    after = on_upload._read_stored(place)
    monkeypatch.setattr(on_upload, "_read_stored", lambda _: before)
    with pytest.raises(BusyError, match="another call stored a result"):
        store(upload_of(sequencer="0A"))
    monkeypatch.setattr(on_upload, "_read_stored", lambda _: after)
    assert store(upload_of(sequencer="0C"))
    with pytest.raises(BusyError, match="another call stored a result"):
        store(upload_of(sequencer="0D"))
    assert aws.client("s3").head_object(**place)["Metadata"] == {"sequencer": "0C"}


@pytest.mark.usefixtures("in_a_function")
def test_a_missing_object_is_distinguished_from_a_forbidden_one(aws: Cloud) -> None:
    """Where listing is allowed for a prefix only, S3 answers AccessDenied for both."""
    denied = exceptions.ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="results/there.json", Body=b"{}")
    assert shared.is_absent(denied, "results/missing.json")
    assert shared.is_absent(denied, "results/there")
    assert not shared.is_absent(denied, "results/there.json")
    absent, other = (exceptions.ClientError({"Error": {"Code": code}}, "GetObject") for code in ("NoSuchKey", "500"))
    assert shared.is_absent(absent, "results/there.json")
    assert not shared.is_absent(other, "results/missing.json")
