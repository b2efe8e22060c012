"""Data, jobs and endpoints against a real moto server over HTTP; what moto cannot say comes from a scripted one."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from boto3.exceptions import RetriesExceededError
from botocore import exceptions
from PIL import Image
from pydantic import ValidationError
from starlette.testclient import TestClient
from typing_extensions import override

import ray_serve
from local_cloud import LocalCloud, cloud
from pneumoscope.aws import function
from pneumoscope.aws.bucket import check_bucket
from pneumoscope.aws.deploy import Deployment, await_service, deploy, describe_config, scale, scales
from pneumoscope.aws.endpoint import Endpoint, read_prediction, said_by_model
from pneumoscope.aws.images import has_disks, training_image
from pneumoscope.aws.invoke import Client
from pneumoscope.aws.jobs import TrainingRequest, describe_request, follow, look, role_arn, start
from pneumoscope.aws.limits import REALTIME, SERVERLESS
from pneumoscope.aws.made import belongings, limits_of, status
from pneumoscope.aws.package import extract, requirements, training_archive, unpacked, write_model_archive
from pneumoscope.aws.payload import fit
from pneumoscope.aws.session import Cloud, in_words, parse_location
from pneumoscope.aws.upload import listed, upload
from pneumoscope.cli import main
from pneumoscope.contract import InputRule, load_contract
from pneumoscope.dataset import Dataset, load_dataset
from pneumoscope.engine import Engine
from pneumoscope.errors import (
    BundleError,
    BusyError,
    CloudError,
    DatasetError,
    ImageError,
    PneumoscopeError,
    UsageError,
)
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.progress import Listener
from pneumoscope.server.app import create_app
from pneumoscope.server.config import ServeConfig
from samples import REPOSITORY, encode
from service import serving

REGION = "eu-central-1"
PLACE = parse_location("s3://films-bucket/films")
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
FILM = encode_jpeg(film("virus", patient=1))


@pytest.fixture(scope="module")
def shared_cloud() -> Iterator[LocalCloud]:
    with cloud() as running:
        yield running


@pytest.fixture(autouse=True)
def aws(shared_cloud: LocalCloud) -> Cloud:
    """An empty account with a bucket and a role."""
    shared_cloud.reset()
    here = {"LocationConstraint": REGION}
    shared_cloud.client("s3").create_bucket(Bucket=PLACE.bucket, CreateBucketConfiguration=here)
    shared_cloud.client("iam").create_role(RoleName="trainer", AssumeRolePolicyDocument=TRUST)
    return Cloud(region=REGION)


class Heard(Listener):
    """What a listener was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.units = 0

    @override
    def say(self, line: str) -> None:
        self.lines.append(line)

    @override
    def advance(self, count: int) -> None:
        self.units += count


@contextmanager
def scripted(*replies: tuple[int, dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers one after the other, the last one for ever; its address, and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        @override
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(self.headers.get("X-Amz-Target", self.path))
            number, document = replies[min(len(asked), len(replies)) - 1]
            body = json.dumps(document).encode()
            self.send_response(number)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            if "__type" in document:
                self.send_header("x-amzn-ErrorType", document["__type"])
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def heads(aws: Cloud, key: str) -> dict[str, Any]:
    found: dict[str, Any] = aws.client("s3").head_object(Bucket=PLACE.bucket, Key=key, ChecksumMode="ENABLED")
    return found


# --- data into S3


def test_a_data_set_is_uploaded_once_encrypted_and_readable_again(aws: Cloud, dataset: Dataset, tmp_path: Path) -> None:
    heard = Heard()
    first = upload(aws, dataset, PLACE, listener=heard)
    assert (first.sent, first.there) == (len(dataset.films) + 2, 0)
    assert heard.units == sum(each.bytes for each in dataset.films)
    assert heads(aws, "films/manifest.csv")["ServerSideEncryption"] == "AES256"
    again = upload(aws, dataset, PLACE)
    assert (again.sent, again.sent_bytes, again.there) == (0, 0, len(dataset.films) + 2)
    for each in listed(aws.client("s3"), PLACE):
        target = tmp_path / each["Key"]
        target.parent.mkdir(parents=True, exist_ok=True)
        aws.client("s3").download_file(PLACE.bucket, each["Key"], str(target))
    copy = load_dataset(tmp_path / "films")
    assert copy.fingerprint == dataset.fingerprint
    assert [copy.read(each) for each in copy.films[:3]] == [dataset.read(each) for each in dataset.films[:3]]


def test_another_key_encrypts_what_is_there_already(aws: Cloud, shared_cloud: LocalCloud, dataset: Dataset) -> None:
    upload(aws, dataset, PLACE)
    key = shared_cloud.client("kms").create_key()["KeyMetadata"]["KeyId"]
    assert upload(aws, dataset, PLACE, kms_key=key).there == 0
    told = heads(aws, "films/manifest.csv")
    assert (told["ServerSideEncryption"], told["SSEKMSKeyId"].endswith(key)) == ("aws:kms", True)
    assert upload(aws, dataset, PLACE, kms_key=key).sent == 0


def test_what_changed_is_sent_again(aws: Cloud, dataset: Dataset) -> None:
    upload(aws, dataset, PLACE)
    changed = dataset.films[0]
    spoilt = bytes(changed.bytes)  # as long, but other bytes
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key=f"films/{changed.path}", Body=spoilt)
    aws.client("s3").delete_object(Bucket=PLACE.bucket, Key=f"films/{dataset.films[1].path}")
    assert upload(aws, dataset, PLACE).sent == 2
    body = aws.client("s3").get_object(Bucket=PLACE.bucket, Key=f"films/{changed.path}")["Body"].read()
    assert body == dataset.read(changed)


def test_a_broken_upload_leaves_no_manifest_and_goes_on(aws: Cloud, dataset: Dataset, tmp_path: Path) -> None:
    copy = load_dataset(Path(shutil.copytree(dataset.root, tmp_path / "data")))
    last = copy.films[-1]
    (copy.root / last.path).write_bytes(b"another")
    with pytest.raises(DatasetError, match="not the file the manifest names"):
        upload(aws, copy, PLACE)
    keys = {each["Key"] for each in listed(aws.client("s3"), PLACE)}
    assert keys
    assert "films/manifest.csv" not in keys
    (copy.root / last.path).write_bytes(dataset.read(dataset.films[-1]))
    done = upload(aws, copy, PLACE)
    assert done.there == len(keys)
    assert "films/manifest.csv" in {each["Key"] for each in listed(aws.client("s3"), PLACE)}


def test_a_bucket_elsewhere_missing_or_public_is_refused(aws: Cloud, shared_cloud: LocalCloud) -> None:
    s3 = shared_cloud.client("s3")
    ireland = shared_cloud.client("s3", region_name="eu-west-1")
    ireland.create_bucket(Bucket="in-ireland", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    with pytest.raises(
        CloudError, match=r"in-ireland is in eu-west-1, but .* in eu-central-1; pass --region eu-west-1"
    ):
        check_bucket(aws, parse_location("s3://in-ireland/x"))
    with pytest.raises(CloudError, match=r"bucket nowhere does not exist; make it with: aws s3 mb"):
        check_bucket(aws, parse_location("s3://nowhere"))
    everybody = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::films-bucket/*"}
        ],
    }
    check_bucket(aws, PLACE)
    s3.put_bucket_policy(Bucket=PLACE.bucket, Policy=json.dumps(everybody))
    with pytest.raises(UsageError, match=r"films-bucket is open to the public \(its policy says so\)"):
        check_bucket(aws, PLACE)
    check_bucket(aws, PLACE, allow_public=True)
    blocked = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    s3.put_public_access_block(Bucket=PLACE.bucket, PublicAccessBlockConfiguration=blocked)
    check_bucket(aws, PLACE)


def test_a_bucket_opened_by_its_access_control_list_is_refused(aws: Cloud, shared_cloud: LocalCloud) -> None:
    shared_cloud.client("s3").put_bucket_acl(Bucket=PLACE.bucket, ACL="public-read")
    with pytest.raises(UsageError, match="access control list"):
        check_bucket(aws, PLACE)


def become_nobody(shared_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user to whom nothing is allowed."""
    iam = shared_cloud.client("iam")
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])


def test_denied_access_is_one_sentence(
    shared_cloud: LocalCloud, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_nobody(shared_cloud, monkeypatch)
    with shared_cloud.guarded(), pytest.raises(CloudError, match=r"AWS denies it .*let \w+ be allowed") as failure:
        upload(Cloud(region=REGION), dataset, PLACE)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("address", ["films", "s3:/films", "s3://", "s3://UPPER/x", "https://films.s3.amazonaws.com"])
def test_what_is_no_address_in_s3_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"write s3://BUCKET/PREFIX"):
        parse_location(address)


# --- AWS's other refusals


def test_throttling_is_waited_for_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    throttled = (400, {"__type": "ThrottlingException", "message": "Rate exceeded"})
    job = (200, {"TrainingJobName": "a", "TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"})
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    with scripted(throttled, throttled, job) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", url)
        assert look(Cloud(region=REGION), "a").status == "Completed"
        assert len(asked) == 3
    with scripted(throttled) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", url)
        with pytest.raises(
            BusyError, match=r"training job a: AWS is busy or throttles \(ThrottlingException\); try again later"
        ):
            look(Cloud(region=REGION), "a")
        assert len(asked) == 3


def test_nobody_there_no_region_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(BusyError, match=r"http://127.0.0.1:9\S* cannot be reached"):
        look(Cloud(region=REGION), "a")
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CloudError, match="no AWS region is set; pass --region"):
        Cloud()
    with pytest.raises(CloudError, match="there are no AWS credentials; run `aws configure`"):
        look(Cloud(region=REGION), "a")
    monkeypatch.setenv("AWS_PROFILE", "of-somebody-else")
    with pytest.raises(CloudError, match="of-somebody-else"):
        Cloud(region=REGION)


# --- training jobs


def request(**changes: Any) -> TrainingRequest:
    values: dict[str, Any] = {
        "name": "capstone-1",
        "role": "trainer",
        "data": "s3://films-bucket/films",
        "unprepared": False,
        "test": None,
        "output": "s3://films-bucket/runs",
        "image": training_image("ml.g5.xlarge", REGION),
        "own_image": False,
        "instance_type": "ml.g5.xlarge",
        "instances": 1,
        "volume_gb": 50,
        "max_hours": 2.0,
        "spot": False,
        "fast_file": False,
        "kms_key": None,
        "hyperparameters": {"recipe": "quick"},
    }
    return TrainingRequest(**values | changes)


def run(*arguments: object, **environment: str) -> SimpleNamespace:
    """The command line in its own process, with this process's environment."""
    done = subprocess.run(
        [sys.executable, "-m", "pneumoscope", "aws", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
        timeout=300,
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def test_a_training_job_is_started_as_asked_and_followed(
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
    assert (done.code, "training job mine started in eu-central-1" in done.out) == (0, True), done.err
    assert all(line in done.err for line in lines)
    told = shared_cloud.client("sagemaker").describe_training_job(TrainingJobName="mine")
    assert told["ResourceConfig"]["InstanceCount"] == 2
    assert told["EnableManagedSpotTraining"] is True
    assert told["CheckpointConfig"]["S3Uri"] == "s3://films-bucket/runs/mine/checkpoints"
    assert told["HyperParameters"]["epochs"] == "2"
    assert told["HyperParameters"]["freeze"] == "true"
    assert told["HyperParameters"]["export_precision"] == "int8"
    (channel,) = told["InputDataConfig"]
    assert (channel["ChannelName"], channel["InputMode"]) == ("train", "FastFile")
    assert channel["DataSource"]["S3DataSource"]["S3Uri"] == "s3://films-bucket/films/"
    source = parse_location(told["HyperParameters"]["sagemaker_submit_directory"])
    assert heads(aws, source.key)["ServerSideEncryption"] == "AES256"
    listed_jobs = [each for each in status(aws) if each["kind"] == "training job"]
    assert [each["name"] for each in listed_jobs] == ["mine"]
    code = tmp_path / "sourcedir.tar.gz"
    aws.client("s3").download_file(source.bucket, source.key, str(code))
    extract(code, tmp_path / "code")
    started = subprocess.run(  # as the training image does, away from this checkout
        [sys.executable, "train.py", "--help"], cwd=tmp_path / "code", capture_output=True, text=True, check=False
    )
    assert "Train a network" in started.stdout
    where = [sys.executable, "-c", "import train"]
    shown = subprocess.run(where, cwd=tmp_path / "code", capture_output=True, text=True, check=False)
    assert "Traceback" not in shown.stderr


def test_the_code_for_script_mode_is_this_package_and_what_it_needs() -> None:
    with tarfile.open(fileobj=BytesIO(training_archive())) as archive:
        names = archive.getnames()
        needed = archive.extractfile("requirements.txt")
        assert needed is not None
        lines = needed.read().decode().splitlines()
    assert {"train.py", "pneumoscope/cli/model.py", "pneumoscope/recipes/quick.toml"} <= set(names)
    assert not [name for name in names if name.startswith("/") or "__pycache__" in name]
    assert lines == requirements("train")
    assert any(line.startswith("lightning") for line in lines)
    assert any(line.startswith("pydicom") for line in lines), "an extra of an extra is missing"
    assert not any("pytest" in line or "extra ==" in line or "boto3" in line for line in lines)
    assert training_archive() == training_archive()


def test_own_image_and_test_channel_and_key_are_in_the_request() -> None:
    wanted = request(own_image=True, image="1.dkr.ecr/x", test="s3://films-bucket/other", kms_key="key-1", instances=3)
    told = describe_request(wanted, "arn:role", REGION, None)
    assert not [name for name in told["HyperParameters"] if name.startswith("sagemaker")]
    assert [each["ChannelName"] for each in told["InputDataConfig"]] == ["train", "test"]
    assert told["OutputDataConfig"]["KmsKeyId"] == "key-1"
    assert "VolumeKmsKeyId" not in told["ResourceConfig"], "AWS refuses one for a type with disks of its own"
    plain = describe_request(request(kms_key="key-1", instance_type="ml.c6i.4xlarge"), "arn:role", REGION, None)
    assert plain["ResourceConfig"]["VolumeKmsKeyId"] == "key-1"
    assert told["EnableInterContainerTrafficEncryption"] is True
    assert "CheckpointConfig" not in told
    names = {each["Name"] for each in told["AlgorithmSpecification"]["MetricDefinitions"]}
    assert {"train:loss", "train:accuracy", "validation:loss", "validation:accuracy"} <= names


@pytest.mark.parametrize(
    ("instance_type", "disks"),
    [
        *((f"ml.{each}.xlarge", True) for each in ("g4dn", "g5", "g6", "g6e", "gr6", "p3dn", "p4d", "p5en", "p6-b200")),
        *((f"ml.{each}.xlarge", True) for each in ("trn1", "m5d", "c5d", "m6id", "r5dn")),
        *((f"ml.{each}.xlarge", False) for each in ("c5", "c6i", "c7i", "m5", "m7i", "r5", "p3", "p2", "inf2", "t3")),
    ],
)
def test_types_with_disks_of_their_own_are_known(instance_type: str, *, disks: bool) -> None:
    assert has_disks(instance_type) is disks
    assert request(instance_type=instance_type).instance_type == instance_type


@pytest.mark.parametrize("family", ["c6g", "c7gd", "c7gn", "m6gd", "r7g", "t4g", "g5g"])
def test_arm_is_refused_where_the_images_cannot_run(family: str) -> None:
    for make in (request, wanted):
        with pytest.raises(ValidationError, match="has ARM processors, and the images are for x86"):
            make(instance_type=f"ml.{family}.xlarge")


def test_a_data_set_whose_upload_was_broken_off_is_not_trained_on(aws: Cloud, dataset: Dataset) -> None:
    upload(aws, dataset, PLACE)
    aws.client("s3").delete_object(Bucket=PLACE.bucket, Key="films/manifest.csv")
    with pytest.raises(CloudError, match=r"s3://films-bucket/films has no manifest.csv, .* or pass --unprepared"):
        start(aws, request())
    start(aws, request(unprepared=True))
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="other/train/normal/a.png", Body=b"x")
    with pytest.raises(CloudError, match=r"s3://films-bucket/other has no manifest.csv"):
        start(aws, request(name="another", unprepared=True, test="s3://films-bucket/other"))
    with pytest.raises(CloudError, match="nothing lies under s3://films-bucket/none"):
        start(aws, request(name="another", unprepared=True, test="s3://films-bucket/none"))


def test_a_job_of_many_hosts_is_heard_whole(aws: Cloud, shared_cloud: LocalCloud) -> None:
    logs, group = shared_cloud.client("logs"), "/aws/sagemaker/TrainingJobs"
    logs.create_log_group(logGroupName=group)
    now, hosts = int(time.time() * 1000), 60  # AWS tells of fifty streams at a time
    for host in range(hosts):
        stream = {"logGroupName": group, "logStreamName": f"many/algo-{host}"}
        logs.create_log_stream(**stream)
        logs.put_log_events(**stream, logEvents=[{"timestamp": now, "message": f"host {host}"}])
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="films/manifest.csv", Body=b"x")
    start(aws, request(name="many"))
    heard = Heard()
    follow(aws, "many", listener=heard, pause=lambda _: None)
    assert {f"host {host}" for host in range(hosts)} <= set(heard.lines)


def test_images_are_those_of_the_region_and_the_kind_of_machine() -> None:
    assert training_image("ml.g6.2xlarge", "us-east-1").endswith(
        "us-east-1.amazonaws.com/pytorch:2.13-cu133-amzn2023-sagemaker"
    )
    assert training_image("ml.c7i.xlarge", "eu-west-1").endswith("2.13-cpu-amzn2023-sagemaker")
    assert training_image("ml.m5.large", "cn-north-1").startswith("727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/")
    with pytest.raises(UsageError, match="pass --image"):
        training_image("ml.m5.large", "moon-west-1")


def test_a_failing_job_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = {"TrainingJobName": "a", "TrainingJobStatus": "InProgress", "SecondaryStatus": "Starting"}
    training = begun | {"SecondaryStatus": "Training"}
    failed = begun | {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": "no split 'val'."}
    heard, waited = Heard(), list[float]()
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
        (("--data", "s3://films-bucket/empty"), "nothing lies under s3://films-bucket/empty"),
        (("--set", "epochs=many"), "epochs"),
        (("--set", "epochs"), "is not NAME=VALUE"),
        (("--set", "epoch=3"), "epoch"),
        (("--recipe", "unknown"), "no shipped recipe"),
        (("--recipe", "mine.toml"), "no shipped recipe"),
        (("--set", "weights=mine.safetensors"), "are a file, which a job does not have"),
        (("--instance-type", "large"), "'large' is no type of instance"),
        (("--export-precision", "int4"), "int4"),
        (("--name", "a b"), "name"),
        (("--region", "us-east-1"), "is in eu-central-1, but"),
    ],
)
def test_a_job_that_cannot_be_is_not_started(
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


def test_a_role_that_may_not_be_looked_at_is_taken_by_its_arn(
    aws: Cloud, shared_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = role_arn(aws, "trainer")
    assert role_arn(aws, arn) == arn
    become_nobody(shared_cloud, monkeypatch)
    with shared_cloud.guarded():
        assert role_arn(Cloud(region=REGION), arn) == arn
        with pytest.raises(CloudError, match=r"role trainer: AWS denies it .*let GetRole be allowed"):
            role_arn(Cloud(region=REGION), "trainer")


# --- endpoints


def wanted(**changes: Any) -> Deployment:
    values: dict[str, Any] = {
        "name": "films",
        "role": "trainer",
        "place": "s3://films-bucket/models",
        "image": "1.dkr.ecr.eu-central-1.amazonaws.com/pneumoscope:1",
        "for_ray": False,
        "variant": "realtime",
        "instance_type": "ml.c5.large",  # one that moto knows
        "instances": 1,
        "most_instances": 1,
        "calls_per_minute": 600,
        "memory_mb": 3072,
        "concurrency": 4,
        "capture": None,
        "kms_key": None,
    }
    return Deployment(**values | changes)


def keys(aws: Cloud, prefix: str) -> list[str]:
    return [each["Key"] for each in listed(aws.client("s3"), parse_location(f"s3://{PLACE.bucket}/{prefix}"))]


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


def names(aws: Cloud, **options: Any) -> list[str]:
    return [each.name for each in belongings(aws, "films", **options)]


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
    monkeypatch.setattr("pneumoscope.aws.deploy._require_free", lambda *_: None)  # both looked before either made
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


def test_the_first_error_is_told_if_tidying_up_fails_too(
    aws: Cloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> None:
        raise CloudError("no instances of this type are left.")

    def denied(*_: Any) -> None:
        raise CloudError("AWS denies it.")

    monkeypatch.setattr(aws.client("sagemaker"), "create_endpoint", refused)
    monkeypatch.setattr("pneumoscope.aws.deploy.remove_file", denied)
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

    monkeypatch.setattr("pneumoscope.aws.deploy.await_service", interrupted)
    options = ["--to", "s3://films-bucket/models", "--role", "trainer", "--image", wanted().image, "--name", "films"]
    arguments = ["aws", "deploy", str(tiny_bundle), *options, "--instance-type", "ml.c5.large"]
    monkeypatch.setattr(sys, "argv", ["pneumoscope", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130
    assert "endpoint films goes on and costs until `pneumoscope aws teardown films`" in capsys.readouterr().err
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
    monkeypatch.setattr("pneumoscope.aws.package._MOST_UNPACKED", 1000)
    with tarfile.open(evil, "w:gz") as packed:
        entry = tarfile.TarInfo("zeros")
        entry.size = 2000
        packed.addfile(entry, BytesIO(bytes(2000)))
    with pytest.raises(BundleError, match="more than 1,000 bytes"):
        extract(evil, tmp_path / "in")


# --- asking an endpoint


@pytest.fixture(scope="module")
def standing_in(tiny_bundle: Path) -> Iterator[str]:
    """Our service in the place of an endpoint."""
    with serving(tiny_bundle, "--as-endpoint", "films") as service:
        yield service.url


@pytest.fixture
def runtime(standing_in: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", standing_in)
    monkeypatch.delenv("AWS_ENDPOINT_URL")  # no control plane, as for whoever has no account
    return standing_in


def big_film() -> bytes:
    """A film of more than 6 MB: an uncompressed-looking PNG of noise over a phantom."""
    luma = film("bacteria", patient=2, size=(2600, 2900)).astype(np.int16)
    luma += np.random.default_rng(0).integers(-40, 40, luma.shape, np.int16)
    return encode(Image.fromarray(luma.clip(0, 255).astype(np.uint8)))


@pytest.mark.usefixtures("runtime")
def test_boto3_gets_the_engines_own_answer(aws: Cloud, tiny_bundle: Path) -> None:
    """`serve --as-endpoint` to an unchanged client of AWS's."""
    reply = aws.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="films", Body=FILM, ContentType="application/x-image"
    )
    assert reply["InvokedProductionVariant"] == "AllTraffic"
    said = json.loads(reply["Body"].read())
    assert said["probabilities"] == Engine.load(tiny_bundle).predict(FILM).as_json()["probabilities"]
    assert "Not a medical device" in said["notice"]


@pytest.mark.usefixtures("runtime")
def test_a_stand_in_errs_as_aws_does(aws: Cloud) -> None:
    client = aws.client("sagemaker-runtime")
    with pytest.raises(client.exceptions.ModelError) as failure:
        client.invoke_endpoint(EndpointName="films", Body=b"text", ContentType="image/png")
    assert failure.value.response["OriginalStatusCode"] == 422
    assert "not an accepted image" in failure.value.response["OriginalMessage"]
    assert failure.value.response["LogStreamArn"].endswith("films")
    with pytest.raises(client.exceptions.ClientError, match=r"ValidationError.*Endpoint other of account"):
        client.invoke_endpoint(EndpointName="other", Body=FILM)
    with pytest.raises(client.exceptions.ClientError, match=r"413.*exceeded 6291456 bytes"):
        client.invoke_endpoint(EndpointName="films", Body=bytes(REALTIME + 1), ContentType="image/png")
    with pytest.raises(client.exceptions.ModelError, match="415"):
        client.invoke_endpoint(EndpointName="films", Body=FILM, ContentType="text/plain")


def test_a_service_with_a_token_cannot_stand_in(tiny_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pneumoscope", "serve", str(tiny_bundle), "--as-endpoint", "films", "--port", "0"],
        env=os.environ | {"PNEUMOSCOPE_TOKEN": "t" * 20},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot send a token" in done.stderr


@pytest.mark.usefixtures("runtime")
def test_invoke_prints_decisions_and_what_the_call_took(tmp_path: Path) -> None:
    (tmp_path / "a.jpeg").write_bytes(FILM)
    done = run("invoke", "films", tmp_path / "a.jpeg", "--format", "json")
    said = json.loads(done.out)
    assert (done.code, said["status"], said["image"]) == (0, "answered", str(tmp_path / "a.jpeg"))
    assert said["endpoint"] | {"milliseconds": 1} == {
        "name": "films",
        "variant": "realtime",
        "milliseconds": 1,
        "tries": 1,
        "shrunk": False,
    }
    (tmp_path / "b.png").write_bytes(b"text")
    shown = run("invoke", "films", tmp_path)
    assert shown.code == 1
    assert "Not a medical device" in shown.out
    assert shown.out.count("answered") == 1
    assert "b.png: not an accepted image" in shown.err
    assert "Traceback" not in shown.err


def test_a_stand_in_needs_no_account(standing_in: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpeg").write_bytes(FILM)
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    bare |= {"HOME": str(tmp_path), "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": standing_in}
    command = [sys.executable, "-m", "pneumoscope", "aws", "invoke", "films", str(tmp_path / "a.jpeg")]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert (done.returncode, "answered" in done.stdout) == (0, True), done.stderr


@pytest.mark.usefixtures("runtime")
def test_a_large_film_is_shrunk_by_the_contracts_rule(tiny_bundle: Path, tmp_path: Path) -> None:
    large = big_film()
    assert len(large) > REALTIME
    (tmp_path / "large.png").write_bytes(large)
    without = run("invoke", "films", tmp_path / "large.png")
    assert (without.code, "name the endpoint's bundle with --bundle" in without.err) == (1, True)
    done = run("invoke", "films", tmp_path / "large.png", "--bundle", tiny_bundle, "--format", "json")
    said = json.loads(done.out)
    assert said["endpoint"]["shrunk"] is True
    assert f"sent as the {load_contract(tiny_bundle).input.size}×" in done.err
    assert said["probabilities"] == Engine.load(tiny_bundle).predict(large).as_json()["probabilities"]


def test_the_contract_beside_the_model_says_how_to_shrink(
    aws: Cloud, standing_in: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(aws, wanted(variant="serverless"), tiny_bundle)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", standing_in)
    client = Client(Cloud(region=REGION), "films")
    assert (client.variant, client.limit) == ("serverless", SERVERLESS)
    large = big_film()
    found = client.classify(large)
    assert found.shrunk
    assert (
        found.answer.prediction["probabilities"] == Engine.load(tiny_bundle).predict(large).as_json()["probabilities"]
    )


def queue_answers(url: str, answers: dict[str, Any]) -> None:
    """Tell moto what an asynchronous endpoint will say."""
    place = f"{url}/moto-api/static/sagemaker/async-endpoint-results"
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(place, json.dumps(answers).encode(), headers)) as reply:
        assert reply.status < 300


def test_an_asynchronous_endpoint_is_asked_through_s3(aws: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path) -> None:
    deploy(aws, wanted(variant="async"), tiny_bundle)
    prediction = Engine.load(tiny_bundle).predict(FILM).as_json()
    refused = 'Received client error (422) from primary with message "{"detail": "the file is empty."}". See logs.'
    queue_answers(
        shared_cloud.url,
        {
            "region": REGION,
            "results": [
                {"data": json.dumps(prediction)},
                {"is_failure": True, "data": refused},
                {"is_failure": True, "data": "Amazon SageMaker could not get a response"},
                {"data": "hello"},
            ],
        },
    )
    client = Client(aws, "films", pause=lambda _: None)
    assert client.variant == "async"
    assert client.classify(FILM).answer.prediction == prediction
    with pytest.raises(ImageError, match="the file is empty"):
        client.classify(FILM)
    with pytest.raises(CloudError, match="could not get a response"):
        client.classify(FILM)
    with pytest.raises(CloudError, match="does not answer like this product"):
        client.classify(FILM)
    assert keys(aws, "models/films/films") == [], "films were left behind"


def test_a_film_that_nobody_waits_for_any_more_stays_for_the_endpoint(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, wanted(variant="async"), tiny_bundle)
    client = Client(aws, "films", patience=0.0, pause=lambda _: None)

    def nothing_yet(address: str) -> None:
        assert address.startswith("s3://")

    client._object = nothing_yet  # type: ignore[method-assign] # moto answers at once
    with pytest.raises(BusyError, match=r"gave no answer in 0 s; it may come yet, in s3://"):
        client.classify(FILM)
    assert len(keys(aws, "models/films/films")) == 1
    assert client.limit == ServeConfig(bundle=tiny_bundle).max_bytes, "the service behind it takes no more"


def test_an_endpoint_that_never_answers_is_given_up_in_time() -> None:
    """As a function must, whose own time is short."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as environment:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", address)
        asked = Endpoint(Cloud(region=REGION).asker(0.4), "films", patience=0.4)
        started = time.monotonic()
        with pytest.raises(BusyError, match="cannot be reached"):
            asked.classify(FILM)
        assert time.monotonic() - started < 5  # and not 70 seconds, six times, five times over
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_an_address_that_is_none_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "film.jpeg").write_bytes(FILM)
    done = run("invoke", "films", tmp_path, "--variant", "realtime", AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME="127.0.0.1:80")
    assert (done.code, "correct AWS_ENDPOINT_URL" in done.err) == (1, True), done.err
    assert "Traceback" not in done.err


def test_a_download_that_breaks_off_again_and_again_is_said_in_words() -> None:
    with pytest.raises(BusyError, match=r"reading s3://a/b: .*try again later"), in_words("reading s3://a/b"):
        raise RetriesExceededError(OSError("the connection was closed"))


def test_a_model_without_a_contract_beside_it_is_asked_for_its_bundle(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, wanted(), tiny_bundle)
    aws.client("s3").delete_object(Bucket=PLACE.bucket, Key="models/films/contract.json")
    with pytest.raises(ImageError, match="name the endpoint's bundle with --bundle"):
        Client(aws, "films").classify(big_film())


def test_a_missing_endpoint_is_named(aws: Cloud) -> None:
    with pytest.raises(CloudError, match=r"there is no endpoint films in eu-central-1"):
        Client(aws, "films")


@pytest.mark.usefixtures("runtime")
def test_an_unknown_endpoint_and_a_stopped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CloudError, match=r"Endpoint other of account \d+ not found; `pneumoscope aws status`"):
        Client(Cloud(region=REGION), "other", variant="realtime").classify(FILM)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    waits: list[float] = []
    with pytest.raises(BusyError, match="cannot be reached"):
        Client(Cloud(region=REGION), "films", variant="realtime", pause=waits.append).classify(FILM)
    assert waits == [0.25, 0.5, 1.0, 2.0]


def model_error(number: int, said: str) -> tuple[int, dict[str, Any]]:
    return 424, {"__type": "ModelError", "OriginalStatusCode": number, "OriginalMessage": said, "LogStreamArn": "arn:x"}


def test_a_busy_model_is_asked_again_and_a_broken_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = {"status": "answered", "probabilities": {}, "reasons": []}
    busy = model_error(503, json.dumps({"detail": "the queue is full."}))

    def ask(*replies: tuple[int, dict[str, Any]]) -> Any:
        with scripted(*replies) as (url, asked):
            monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
            runtime = Cloud(region=REGION).asker()
            try:
                return Endpoint(runtime, "films", pause=lambda _: None).classify(FILM)
            finally:
                counted.append(len(asked))

    counted: list[int] = []
    assert ask(busy, busy, (200, prediction)).tries == 3
    with pytest.raises(BusyError, match=r"its model answered 503 \(the queue is full\); try again later"):
        ask(busy)
    with pytest.raises(CloudError, match=r"its model answered 418 \(teapot\); its log is arn:x"):
        ask(model_error(418, "teapot"))
    with pytest.raises(CloudError, match="does not answer like this product"):
        ask((200, {"label": 2}))
    assert counted == [3, 5, 1, 1]


def test_words_of_models_and_of_others() -> None:
    assert said_by_model('{"detail": "so it is."}') == "so it is."
    assert said_by_model("plain") == "plain"
    assert said_by_model("[1]") == "[1]"
    with pytest.raises(CloudError):
        read_prediction(b"\xff", "films")


def test_a_film_that_fits_is_not_touched() -> None:
    rule = InputRule.squash(64)
    assert fit(FILM, len(FILM), rule) == (FILM, False)
    smaller, shrunk = fit(FILM, len(FILM) - 1, rule)
    assert shrunk
    assert len(smaller) < len(FILM)
    with pytest.raises(ImageError):
        fit(b"text", 2, rule)


def test_a_ray_serve_package_runs_in_ray_serve(tiny_bundle: Path, tmp_path: Path) -> None:
    """What `deploy --serving ray` sends, unpacked and started as AWS's image does, with the image's own command."""
    if sys.version_info >= (3, 14):
        pytest.skip("Ray has no release for this Python")
    archive = tmp_path / "model.tar.gz"
    with archive.open("wb") as stream:
        write_model_archive(tiny_bundle, stream, for_ray=True)
    place = tmp_path / "model"
    extract(archive, place)
    needed = (place / "code" / "requirements.txt").read_text()
    assert "onnxruntime" in needed
    assert "torch" not in needed
    with ray_serve.running(place) as ask:
        number, body = ask(FILM)
        assert number == 200
        assert json.loads(body)["probabilities"] == Engine.load(tiny_bundle).predict(FILM).as_json()["probabilities"]
        number, body = ask(b"text")
        assert number == 422
        assert "not an accepted image" in json.loads(body)["detail"]


def test_a_replica_waits_for_its_model_and_does_not_start_with_a_damaged_one(own_bundle: Path) -> None:
    """The application as Ray Serve's ingress starts it."""

    def fail(failure: PneumoscopeError) -> None:
        raise failure

    def started() -> int:
        app = create_app(ServeConfig(bundle=own_bundle), on_failure=fail, ready_first=True)
        with TestClient(app) as client:
            return client.get("/readyz").status_code

    assert started() == 200
    golden = next((own_bundle / "golden").glob("*.json"))
    golden.write_bytes(golden.read_bytes().replace(b'"label"', b'"labeI"', 1))
    with pytest.raises(BundleError, match="golden"):
        started()


def test_the_documented_role_lets_a_job_do_its_work_and_no_more(
    shared_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two documents of docs/aws.md, put into IAM; then what may be done with them is tried."""
    folder, iam = REPOSITORY / "deploy" / "aws", shared_cloud.client("iam")
    policy = (folder / "sagemaker-role.json").read_text().replace("BUCKET", PLACE.bucket)
    iam.create_role(RoleName="films", AssumeRolePolicyDocument=(folder / "sagemaker-trust.json").read_text())
    iam.put_role_policy(RoleName="films", PolicyName="films", PolicyDocument=policy)
    become_nobody(shared_cloud, monkeypatch)
    iam.put_user_policy(UserName="nobody", PolicyName="films", PolicyDocument=policy)
    theirs = {"LocationConstraint": REGION}
    shared_cloud.client("s3").create_bucket(Bucket="theirs", CreateBucketConfiguration=theirs)
    somebody = Cloud(region=REGION)
    with shared_cloud.guarded():
        s3 = somebody.client("s3")
        s3.put_object(Bucket=PLACE.bucket, Key="runs/a", Body=b"x")
        assert s3.get_object(Bucket=PLACE.bucket, Key="runs/a")["Body"].read() == b"x"
        with pytest.raises(CloudError, match="denies"), in_words():
            s3.put_object(Bucket="theirs", Key="a", Body=b"x")
        with pytest.raises(CloudError, match="denies"), in_words():
            somebody.client("iam").list_users()


def test_the_documented_user_can_do_all_that_the_commands_do(
    shared_cloud: LocalCloud, dataset: Dataset, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = (REPOSITORY / "deploy" / "aws" / "user.json").read_text()
    policy = policy.replace("BUCKET", PLACE.bucket).replace("ROLE", "trainer")
    policy = policy.replace('"s3:ListBucket"', '"s3:ListBucket", "s3:HeadBucket"')  # moto's own name; AWS has none
    policy = re.sub(r'"arn:aws:logs:[^"]+"', '"*"', policy)  # moto compares resources for S3 alone
    become_nobody(shared_cloud, monkeypatch)
    shared_cloud.client("iam").put_user_policy(UserName="nobody", PolicyName="films", PolicyDocument=policy)
    scaled = wanted(most_instances=2)
    with shared_cloud.guarded():
        somebody = Cloud(region=REGION)
        upload(somebody, dataset, PLACE)
        start(somebody, request())
        follow(somebody, "capstone-1", pause=lambda _: None)
        deploy(somebody, scaled, tiny_bundle)
        await_service(somebody, "films", pause=lambda _: None)
        scale(somebody, scaled)
        assert limits_of(somebody, "films")[0] == "realtime"
        assert {each["name"] for each in status(somebody)} == {"films", "capstone-1"}
        for each in list(belongings(somebody, "films")):
            each.remove()
        assert [each["name"] for each in status(somebody)] == ["capstone-1"]
        with pytest.raises(CloudError, match="denies"), in_words():
            somebody.client("iam").list_users()


def test_the_documented_line_empties_a_bucket_with_versions(aws: Cloud) -> None:
    s3 = aws.client("s3")
    s3.put_bucket_versioning(Bucket=PLACE.bucket, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket=PLACE.bucket, Key="films/a", Body=body)
    s3.delete_object(Bucket=PLACE.bucket, Key="films/a")
    text = (REPOSITORY / "docs" / "aws.md").read_text()
    (line,) = re.findall(r'^python -c "(.+)"$', text, re.MULTILINE)
    emptied = [sys.executable, "-c", line.replace("STACK-BUCKET", PLACE.bucket)]
    subprocess.run(emptied, check=True)
    s3.delete_bucket(Bucket=PLACE.bucket)


def test_a_missing_object_is_told_from_a_forbidden_one(aws: Cloud) -> None:
    """S3 says AccessDenied of both where listing is allowed for a prefix only."""
    denied = exceptions.ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="results/there.json", Body=b"{}")
    try:
        assert function.is_absent(denied, PLACE.bucket, "results/missing.json")
        assert function.is_absent(denied, PLACE.bucket, "results/there")
        assert not function.is_absent(denied, PLACE.bucket, "results/there.json")
        gone, other = (exceptions.ClientError({"Error": {"Code": code}}, "GetObject") for code in ("NoSuchKey", "500"))
        assert function.is_absent(gone, PLACE.bucket, "results/there.json")
        assert not function.is_absent(other, PLACE.bucket, "results/missing.json")
    finally:
        function.cloud.cache_clear()
