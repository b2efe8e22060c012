"""AWS Lambda on this machine: the Runtime API for the real runtime client, and Lambda's retries.

The function runs in its own process as in its container image, `python -m awslambdaric HANDLER`, and gets its events
through the API that AWS documents ("Using the Lambda runtime API for custom runtimes").
"""

import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

_ROOT = "/2018-06-01/runtime"
_WAIT_SECONDS = 60.0
_TIMEOUT_SECONDS = 60  # the function's time limit, from which its deadline follows
_ARN = "arn:aws:lambda:eu-central-1:123456789012:function:films"
_TRACE = "Root=1-65000000-0123456789abcdef01234567;Parent=0123456789abcdef;Sampled=0"
#: The variables that Lambda sets. Of this machine's environment, functions get PATH only.
_ENVIRONMENT = {
    "AWS_LAMBDA_FUNCTION_NAME": "films",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/films",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "_X_AMZN_TRACE_ID": _TRACE,
    "TZ": ":UTC",
    "LANG": "en_US.UTF-8",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one invocation led to: a response, or an error as the runtime posts it, and the lines added to the log."""

    response: Any = None
    error: dict[str, Any] | None = None
    log: str

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The log's JSON lines with this message."""
        return [line for line in structured(self.log) if line.get("message") == message]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The metrics in the log (CloudWatch's embedded format)."""
        return [line for line in structured(self.log) if "_aws" in line]


def structured(log: str) -> list[dict[str, Any]]:
    """The lines of a log that are JSON objects."""
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


class Function:
    """A running function. It gets one event at a time, as from Lambda."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, api: "_Api") -> None:
        self._process = process
        self._log = log
        self._api = api

    @property
    def log(self) -> str:
        return self._log.read_text()

    def peak(self) -> float:
        """The process's peak resident memory, in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024

    def invoke(self, event: Any) -> Outcome:
        """Pass an event to the function, and wait for the outcome."""
        before = len(self.log)
        self._api.events.put(json.dumps(event).encode())
        until = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < until:
            try:
                kind, body = self._api.responses.get(timeout=0.1)
            except queue.Empty:
                assert self._process.poll() is None, f"the function's process ended: {self.log}"
                continue
            found = {"response": json.loads(body)} if kind == "response" else {"error": json.loads(body)}
            return Outcome(log=self.log[before:], **found)
        raise AssertionError(f"the function does not answer: {self.log}")

    def deliver(self, event: Any, sqs: Any, dead_letters: str, *, tries: int = 3) -> list[Outcome]:
        """Deliver an event as Lambda does asynchronously: retry after errors, then send it to the dead-letter queue."""
        outcomes = list[Outcome]()
        while len(outcomes) < tries:
            outcomes.append(self.invoke(event))
            if outcomes[-1].error is None:
                return outcomes
        error = outcomes[-1].error
        assert error is not None
        sqs.send_message(
            QueueUrl=dead_letters,
            MessageBody=json.dumps(event),
            MessageAttributes={"ErrorMessage": {"DataType": "String", "StringValue": error["errorMessage"][:1024]}},
        )
        return outcomes


@contextmanager
def running(handler: str, environment: dict[str, str]) -> Iterator[Function]:
    """Start a function in its own process, and stop it at the end.

    Args:
        handler: `module.function`.
        environment: the function's configured variables; Lambda's own are added.
    """
    with TemporaryDirectory() as folder, _Api() as api:
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "awslambdaric", handler],
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=lambda_environment(environment) | {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}"},
            )
        try:
            yield Function(process, log, api)
        finally:
            process.kill()  # as Lambda ends a frozen process: without a signal that it could handle
            process.wait(_WAIT_SECONDS)


def lambda_environment(environment: dict[str, str]) -> dict[str, str]:
    """Lambda's variables and those that the function is configured with."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | _ENVIRONMENT | environment


class _Api(ThreadingHTTPServer):
    """The Runtime API's server: it hands out events and receives responses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: queue.Queue[bytes | None] = queue.Queue()
        self.responses: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.events.put(None)  # releases the pending request for the next event
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """The API's two requests: GET for the next event, POST for its outcome."""

    protocol_version = "HTTP/1.1"
    server: _Api

    def do_GET(self) -> None:
        assert self.path == f"{_ROOT}/invocation/next"
        event = self.server.events.get()
        if event is None:
            self.close_connection = True
            return
        headers = {
            "Lambda-Runtime-Aws-Request-Id": str(uuid.uuid4()),
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + _TIMEOUT_SECONDS) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": _ARN,
            "Lambda-Runtime-Trace-Id": _TRACE,
        }
        self._reply(200, event, headers)

    def do_POST(self) -> None:
        found = re.fullmatch(rf"{_ROOT}/(?:invocation/([0-9a-f-]+)/(response|error)|init/(error))", self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if found is None:
            self._reply(404, b"{}", {})
            return
        self._reply(202, b'{"status":"OK"}', {})
        self.server.responses.put((found[2] or found[3], body))

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Log nothing."""


def nowhere() -> str:
    """The URL of a free port, where nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def official_emulator() -> Path | None:
    """AWS's own Lambda emulator, from PNEUMOSCOPE_LAMBDA_EMULATOR or an installed aws-sam-cli, or None."""
    if given := os.environ.get("PNEUMOSCOPE_LAMBDA_EMULATOR"):
        return Path(given)
    found = find_spec("samcli")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "local" / "rapid" / "aws-lambda-rie-x86_64"


def invoke_in_emulator(program: Path, handler: str, environment: dict[str, str], event: Any) -> Outcome:
    """Start a function in AWS's own emulator, invoke it once, and stop it."""
    outside, inside = urlsplit(nowhere()).netloc, urlsplit(nowhere()).netloc
    command = [str(program), "--runtime-interface-emulator-address", outside, "--runtime-api-address", inside]
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("wb+") as log:
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "awslambdaric", handler],
            cwd=folder,
            env=lambda_environment(environment),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            response = _post(outside, "/2015-03-31/functions/function/invocations", json.dumps(event))
        finally:
            process.terminate()
            process.wait(_WAIT_SECONDS)
        log.seek(0)
        return Outcome(response=json.loads(response), log=log.read().decode())


def _post(address: str, path: str, body: str) -> bytes:
    """The answer to a request, which is repeated until the server listens."""
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            with closing(HTTPConnection(address, timeout=_WAIT_SECONDS)) as connection:
                connection.request("POST", path, body)
                return connection.getresponse().read()
        except ConnectionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
