"""AWS on this machine: moto's server over HTTP, and an environment in which boto3 uses no other."""

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
    """Moto's server at `url`, and clients for it. Moto's state is global: two servers in one process would share it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = boto3.Session()
        self._clients: dict[tuple[str, ...], Any] = {}

    def client(self, service: str, **credentials: str) -> Any:
        """A boto3 client for a service, created once; `credentials` replace those of the environment."""
        key = (service, *credentials.values())
        if key not in self._clients:
            self._clients[key] = self._session.client(service, endpoint_url=self.url, **credentials)
        return self._clients[key]

    def reset(self) -> None:
        """Delete everything in the account."""
        self._post("reset")
        self._post("config", json.dumps({"lambda": {"use_docker": False}}))

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Apply IAM policies to every call. Moto compares resources for S3 only; for other services, only actions."""
        self._post("reset-auth", "0")
        try:
            yield
        finally:
            self._post("reset-auth", "inf")

    def close(self) -> None:
        """Close the clients' connections."""
        for each in self._clients.values():
            each.close()

    def _post(self, what: str, body: str = "") -> None:
        connection = HTTPConnection(self.url.removeprefix("http://"))
        try:
            connection.request("POST", f"/moto-api/{what}", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            assert reply.status < 300, reply.read()
        finally:
            connection.close()


@contextmanager
def cloud() -> Iterator[LocalCloud]:
    """An empty account, and an environment that points to it, until the block ends."""
    with served() as url, pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": url}).items():
            environment.setenv(name, value)
        # Otherwise moto makes up the name of a stack's endpoint, whatever the template says.
        environment.setattr(FakeEndpoint, "cloudformation_name_type", staticmethod(lambda: "EndpointName"))
        local = LocalCloud(url)
        local.reset()
        try:
            yield local
        finally:
            local.reset()
            local.close()


@contextmanager
def served() -> Iterator[str]:
    """Moto's server on a free port; its URL."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()
        assert server._server is not None
        server._server.server_close()  # stop() leaves the socket open
