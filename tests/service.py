"""A running `pneumoscope serve`, as users run it: another process, reached over a socket."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from samples import INTERRUPTIBLE

_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Service:
    """The process, its port and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def request(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, seconds: float = 60
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: Any, kind: str | None = "image/jpeg", **headers: str) -> Reply:
        return self.request("POST", path, body, headers=headers | ({} if kind is None else {"Content-Type": kind}))

    def memory(self) -> float:
        """Resident megabytes now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(signum)
        return self.process.wait(_TIMEOUT_SECONDS)


@contextmanager
def serving(
    bundle: Path | None, *options: object, environment: dict[str, str] | None = None, within: tuple[str, ...] = ()
) -> Iterator[Service]:
    """Start the service on a free port, wait until it is ready, and stop it at the end. None is the shipped bundle.

    `within` is the beginning of a command that runs the rest of its arguments, such as one that drops privileges.
    """
    chosen = [] if bundle is None else ["--bundle", str(bundle)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*within, sys.executable, "-c", INTERRUPTIBLE, "serve", *chosen, "--port", "0", *map(str, options)],
                stderr=stream,
                env=os.environ | (environment or {}),
            )
        try:
            service = Service(process, log, _port(process, log))
            _await_ready(service)
            yield service
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://\S+:(\d+)/; Ctrl-C", log.read_text()):
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError(f"the service did not start: {log.read_text()}")


def _await_ready(service: Service) -> None:
    until = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < until and service.process.poll() is None:
        try:
            if service.get("/readyz").status == 200:
                return
        except ConnectionError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"the service is not ready: {service.log}")


def form(*files: tuple[str, bytes], fields: dict[str, str] | None = None) -> tuple[bytes, str]:
    """A multipart form's body and content type."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="films"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    parts += [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (fields or {}).items()
    ]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def problem(reply: Any) -> dict[str, Any]:
    """A problem document, checked."""
    assert reply.headers["content-type"] == "application/problem+json"
    document = reply.json()
    assert isinstance(document, dict)
    assert set(document) == {"type", "title", "status", "detail", "request_id"}
    assert document["status"] == reply.status
    assert document["title"] == HTTPStatus(reply.status).phrase
    assert document["request_id"] == reply.headers["x-request-id"]
    return document


def samples_of(page: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}
