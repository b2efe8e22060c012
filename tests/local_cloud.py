"""AWS on this machine: moto's server over HTTP, and an environment in which boto3 knows no other."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import boto3
import pytest
from moto.sagemaker.models import FakeEndpoint
from moto.server import ThreadedMotoServer

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_MAX_ATTEMPTS": "2",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


class LocalCloud:
    """A server at `url`, and clients of it. Its state is the process's: two at once would share it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = boto3.Session()
        self._clients: dict[tuple[str, ...], Any] = {}

    def client(self, service: str, **credentials: str) -> Any:
        """A boto3 client of a service, made once; with `credentials` as another than the environment says."""
        key = (service, *credentials.values())
        if key not in self._clients:
            self._clients[key] = self._session.client(service, endpoint_url=self.url, **credentials)
        return self._clients[key]

    def reset(self) -> None:
        """Forget everything."""
        self._tell("reset")
        self._tell("config", json.dumps({"lambda": {"use_docker": False}}))

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Apply the policies of IAM to every call; for S3 by object, for other services by action alone."""
        self._tell("reset-auth", "0")
        try:
            yield
        finally:
            self._tell("reset-auth", "inf")

    def close(self) -> None:
        """Close the clients' connections."""
        for each in self._clients.values():
            each.close()

    def _tell(self, what: str, body: str = "") -> None:
        connection = HTTPConnection(self.url.removeprefix("http://"))
        try:
            connection.request("POST", f"/moto-api/{what}", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            assert reply.status < 300, reply.read()
        finally:
            connection.close()


@contextmanager
def cloud() -> Iterator[LocalCloud]:
    """An empty cloud, and an environment that names it; both are gone afterwards."""
    with served() as url, pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": url}).items():
            environment.setenv(name, value)
        # moto names a stack's endpoint itself, whatever the template says
        environment.setattr(FakeEndpoint, "cloudformation_name_type", staticmethod(lambda: "EndpointName"))
        made = LocalCloud(url)
        made.reset()
        try:
            yield made
        finally:
            made.reset()
            made.close()


@contextmanager
def served() -> Iterator[str]:
    """Moto's server at a free port."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()
        assert server._server is not None
        server._server.server_close()  # which stop() forgets
