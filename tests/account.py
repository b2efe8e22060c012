"""Helpers for tests against an empty AWS account in moto, and a scripted server for what moto does not send."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from typing_extensions import override

from local_cloud import LocalCloud
from local_server import listening
from pneumoscope.aws.client.bucket import list_files
from pneumoscope.aws.client.inventory import deployed_resources
from pneumoscope.aws.session import Cloud
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.progress import Listener
from pneumoscope.settings.aws import Deploy, Train
from pneumoscope.settings.aws_names import Location, parse_location
from samples import REPOSITORY

REGION = "eu-central-1"
PLACE = parse_location("s3://films-bucket/films")
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
FILM = encode_jpeg(film("virus", patient=1))


class RecordingListener(Listener):
    """A listener that records what it receives."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.units = 0

    @override
    def say(self, line: str) -> None:
        self.lines.append(line)

    @override
    def advance(self, count: int) -> None:
        self.units += count


def keys_of(cloud: Cloud, place: Location) -> dict[str, str | None]:
    """The KMS key's id of each file directly under a prefix, None if it has none; `part` stands for all parts."""
    s3, found = cloud.client("s3"), dict[str, str | None]()
    for each in list_files(cloud, place, folders=False):
        name = each["Key"].rpartition("/")[2]
        key = s3.head_object(Bucket=place.bucket, Key=each["Key"]).get("SSEKMSKeyId")
        name, key = "part" if name.startswith("part-") else name, key and key.rpartition("/")[2]
        assert found.setdefault(name, key) == key
    return found


@contextmanager
def scripted(*replies: tuple[int, dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these responses in order and repeats the last one; its URL, and the list of its requests."""
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
    with listening(server):
        yield f"http://127.0.0.1:{server.server_address[1]}", asked


def head_object(aws: Cloud, key: str) -> dict[str, Any]:
    found: dict[str, Any] = aws.client("s3").head_object(Bucket=PLACE.bucket, Key=key, ChecksumMode="ENABLED")
    return found


def become_nobody(shared_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, name: str = "nobody") -> None:
    """Use the credentials of a new user without permissions."""
    iam = shared_cloud.client("iam")
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])


def become_documented_user(shared_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the credentials of a new user with the permissions of deploy/aws/user.json."""
    policy = (REPOSITORY / "deploy" / "aws" / "user.json").read_text()
    policy = policy.replace("BUCKET", PLACE.bucket).replace("ROLE", "trainer")
    # Application Auto Scaling requires this permission of a user who registers an endpoint; moto does not.
    assert '"sagemaker:UpdateEndpointWeightsAndCapacities"' in policy
    # Moto checks an action s3:HeadBucket, which AWS does not have.
    policy = policy.replace('"s3:ListBucket"', '"s3:ListBucket", "s3:HeadBucket"')
    # Moto compares resources for S3 only, and no tags, so the other limits are removed.
    policy = re.sub(r'"arn:aws:(logs|cloudformation|cloudwatch):[^"]+"', '"*"', policy)
    policy = re.sub(r',\s*"Condition": {"Null": {"aws:ResourceTag/pneumoscope": "false"}}', "", policy)
    become_nobody(shared_cloud, monkeypatch)
    shared_cloud.client("iam").put_user_policy(UserName="nobody", PolicyName="films", PolicyDocument=policy)
    shared_cloud.client("iam").create_role(RoleName="trainer-endpoint", AssumeRolePolicyDocument=TRUST)


def train_settings(**changes: Any) -> Train:
    values: dict[str, Any] = {
        "name": "capstone-1",
        "role": "trainer",
        "data": "s3://films-bucket/films",
        "out": "s3://films-bucket/runs",
    }
    return Train(**values | changes)


def run(*arguments: object, **environment: str) -> SimpleNamespace:
    """Run `pneumoscope aws` in its own process, with this process's environment."""
    done = subprocess.run(
        [sys.executable, "-m", "pneumoscope", "aws", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
        timeout=300,
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def deploy_settings(source: object, **changes: Any) -> Deploy:
    values: dict[str, Any] = {
        "source": source,
        "name": "films",
        "to": "s3://films-bucket/models",
        "image": "111111111111.dkr.ecr.eu-central-1.amazonaws.com/pneumoscope:1",
        "instance_type": "ml.c5.large",  # a type that moto knows
    }
    return Deploy(**values | changes)


def list_keys(aws: Cloud, prefix: str) -> list[str]:
    return [each["Key"] for each in list_files(aws, parse_location(f"s3://{PLACE.bucket}/{prefix}"))]


def deployed_names(aws: Cloud, **options: Any) -> list[str]:
    return [each.name for each in deployed_resources(aws, "films", **options)]
