"""An empty account of AWS, what is asked of it in the tests, and servers that say what moto does not."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from typing_extensions import override

from local_cloud import LocalCloud
from pneumoscope.aws.client.deploy import Deployment
from pneumoscope.aws.client.images import training_image
from pneumoscope.aws.client.inventory import belongings
from pneumoscope.aws.client.train import TrainingRequest
from pneumoscope.aws.client.upload import listed
from pneumoscope.aws.session import Cloud, parse_location
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.progress import Listener

REGION = "eu-central-1"
PLACE = parse_location("s3://films-bucket/films")
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
FILM = encode_jpeg(film("virus", patient=1))


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


def become_nobody(shared_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user to whom nothing is allowed."""
    iam = shared_cloud.client("iam")
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])


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


def wanted(**changes: Any) -> Deployment:
    values: dict[str, Any] = {
        "name": "films",
        "role": None,
        "place": "s3://films-bucket/models",
        "image": "111111111111.dkr.ecr.eu-central-1.amazonaws.com/pneumoscope:1",
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


def names(aws: Cloud, **options: Any) -> list[str]:
    return [each.name for each in belongings(aws, "films", **options)]
