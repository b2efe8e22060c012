"""A real HTTP server on this machine, which serves a file correctly or with a chosen fault; and helpers."""

import hashlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import override

from pneumoscope.archive.remote import RetryPolicy

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = RetryPolicy(timeout=0.5, attempts=4, first_attempts=3, first_wait=0.01, longest_wait=0.05)
PIECE = 16_384


@contextmanager
def listening(server: HTTPServer) -> Iterator[None]:
    """Run a server in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Server(ThreadingHTTPServer):
    """Serves `content` under `/BEHAVIOUR`. `requests` records each request's behaviour and Range header."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.requests: list[tuple[str, str | None]] = []
        self.times: Counter[str] = Counter()
        self.sent = 0

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{behaviour}"

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that are killed in the middle of a request."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    @override
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        behaviour = urlsplit(self.path).path.strip("/")
        self.server.requests.append((behaviour, self.headers.get("Range")))
        self.server.times[behaviour] += 1
        getattr(self, behaviour.replace("-", "_"), self.missing)(self.server.times[behaviour])

    def good(self, _: int) -> None:
        self.send_range()

    def missing(self, _: int) -> None:
        self.respond(404)

    def redirect(self, _: int) -> None:
        self.respond(302, {"Location": "/good"})

    def circle(self, _: int) -> None:
        self.respond(302, {"Location": "/circle"})

    def busy_twice(self, attempt: int) -> None:
        self.respond(503, {"Retry-After": "0"}) if attempt <= 2 else self.send_range()

    def always_busy(self, _: int) -> None:
        self.respond(503)

    def busy_later(self, attempt: int) -> None:
        self.respond(503) if attempt > 1 else self.send_range()

    def breaks(self, attempt: int) -> None:
        """Send a third of the file and close the connection, every time."""
        self.send_range(stop_after=len(self.server.content) // 3 + attempt)

    def breaks_ranges(self, _: int) -> None:
        """Send a third of the requested part and close the connection, every time."""
        self.send_range(stop_after_share=1 / 3)

    def breaks_at_once(self, _: int) -> None:
        self.send_range(stop_after=0)

    def no_ranges(self, _: int) -> None:
        self.send_whole(self.server.content)

    def no_ranges_breaks_once(self, attempt: int) -> None:
        half = len(self.server.content) // 2
        self.send_whole(self.server.content, stop_after=half if attempt == 1 else None)

    def wrong_range(self, _: int) -> None:
        """Announce and send another part than the requested one."""
        if self.headers.get("Range") is None:
            self.send_range(stop_after=1000)
        else:
            self.respond(
                206, {"Content-Range": self.content_range(5, len(self.server.content))}, self.server.content[5:]
            )

    def stalls_once(self, attempt: int) -> None:
        self.send_range(stop_after=2000, stall=2.0) if attempt == 1 else self.send_range()

    def announces_more(self, _: int) -> None:
        self.send_whole(self.server.content, announced=len(self.server.content) + 7)

    def announces_less(self, _: int) -> None:
        self.send_whole(self.server.content, announced=len(self.server.content) - 7)

    def corrupt(self, _: int) -> None:
        self.send_range(self.damaged())

    def corrupt_once(self, attempt: int) -> None:
        # After the size and three reads of a ZIP archive's directory, the fifth request is the first for a member.
        self.send_range(self.damaged() if attempt <= 5 else self.server.content)

    def no_length(self, _: int) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(self.server.content)

    def maintenance(self, _: int) -> None:
        """Answer with an HTML page and status 200 instead of the file."""
        page = b"<html>back soon</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def curt(self, _: int) -> None:
        """Serve the first byte, which tells the size; answer anything else with 416, without the file's length."""
        if self.headers.get("Range") == "bytes=0-0":
            self.send_range()
        else:
            self.respond(416)

    def to_nowhere(self, _: int) -> None:
        self.respond(302, {"Location": f"http://{'a' * 70}.com/x"})

    def to_ftp(self, _: int) -> None:
        self.respond(302, {"Location": "ftp://127.0.0.1/x"})

    def long_numbers(self, _: int) -> None:
        self.respond(206, {"Content-Range": f"bytes 10-20/{'9' * 5000}"}, b"x")

    def slow(self, _: int) -> None:
        self.send_range(pause=0.004)

    def damaged(self) -> bytes:
        middle = len(self.server.content) // 2
        content = bytearray(self.server.content)
        content[middle] ^= 0xFF
        return bytes(content)

    def respond(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_whole(self, content: bytes, *, announced: int | None = None, stop_after: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        self.end_headers()
        self.wfile.write(content[:stop_after])
        self.close_connection = True

    def send_range(
        self,
        content: bytes | None = None,
        *,
        stop_after: int | None = None,
        stop_after_share: float | None = None,
        stall: float = 0.0,
        pause: float = 0.0,
    ) -> None:
        content = self.server.content if content is None else content
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            start, stop = 0, len(content)
            self.send_response(200)
        else:
            start, stop = int(asked[1]), min(len(content), int(asked[2] or len(content)) + 1)
            if start >= len(content):
                self.respond(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            self.send_response(206)
            self.send_header("Content-Range", self.content_range(start, stop))
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if stop_after_share is not None:
            stop_after = 1 + int((stop - start) * stop_after_share)
        body = content[start:stop][:stop_after]
        for place in range(0, len(body), PIECE):
            self.wfile.write(body[place : place + PIECE])
            self.server.sent += PIECE
            time.sleep(pause)
        if stop_after is not None:
            self.wfile.flush()
            time.sleep(stall)
            self.close_connection = True

    def content_range(self, start: int, stop: int) -> str:
        return f"bytes {start}-{stop - 1}/{len(self.server.content)}"


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    """A server that runs until the block ends."""
    server = Server(content)
    with listening(server):
        yield server


def kill_fetch_when(progress: Callable[[], int], reached: int, *arguments: object) -> bool:
    """Run `data fetch` and kill it at this progress; return whether it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pneumoscope", "data", "fetch", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while process.poll() is None:
            if progress() >= reached:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.002)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
        return False
    finally:
        process.kill()
        process.communicate()
