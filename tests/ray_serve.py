"""Ray Serve on this machine, started by the same command as in AWS's image."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_cluster import free_port

_TIMEOUT_SECONDS = 150.0


@contextmanager
def running(place: Path) -> Iterator[Callable[[bytes], tuple[int, bytes]]]:
    """Run `serve run config.yaml` in an unpacked model archive; yield a function that posts a film to it."""
    port = free_port()
    config = place / "config.yaml"
    config.write_text(f"http_options:\n  host: 127.0.0.1\n  port: {port}\n" + config.read_text())
    log = place / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "serve"), "run", "config.yaml"],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(place), "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _await_ready(process, port, log)
        yield lambda film: _post(port, film)
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            if _request(port, "GET", "/")[0] == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"Ray Serve did not start: {log.read_text(errors='replace')[-3000:]}")


def _post(port: int, film: bytes) -> tuple[int, bytes]:
    return _request(port, "POST", "/", film)


def _request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/x-image"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
