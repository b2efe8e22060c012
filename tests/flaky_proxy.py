"""An HTTP proxy before moto's server: it throttles, loses responses to requests that took effect, and cuts bodies."""

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import override

from local_server import listening

BUSY_EVERY, LOST_EVERY, CUT_EVERY = 5, 7, 9  # every so many requests of the same method
_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_OURS = ("content-length", "transfer-encoding", "connection")


class FlakyProxy(ThreadingHTTPServer):
    """A proxy; `done` counts what it did: `busy`, `cut`, and `lost` with the method, such as `lost PUT`."""

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target.removeprefix("http://")
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.done = Counter[str]()
        self._seen, self._lock = Counter[str](), threading.Lock()

    def number(self, method: str) -> int:
        """Count a request; return its number among those of the same method."""
        with self._lock:
            self._seen[method] += 1
            return self._seen[method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyProxy

    @override
    def log_message(self, *_: Any) -> None:
        pass

    def forward(self) -> None:
        """Pass a request on, or not."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        number = self.server.number(self.command)
        if number % BUSY_EVERY == 0:
            self.server.done["busy"] += 1
            self.reply(503, {"Content-Type": "application/xml"}, _BUSY)
            return
        status, headers, content = self.ask(body)
        is_film = self.command == "GET" and len(content) > 100 and "list-type" not in self.path
        if number % LOST_EVERY == 0:
            self.server.done[f"lost {self.command}"] += 1
            self.close_connection = True
        elif number % CUT_EVERY == 0 and is_film:
            self.server.done["cut"] += 1
            self.reply(status, headers, content, sent=len(content) // 2)
            self.close_connection = True
        else:
            self.reply(status, headers, content)

    def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The target's response."""
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()
        finally:
            connection.close()

    def reply(self, status: int, headers: dict[str, str], content: bytes, sent: int | None = None) -> None:
        """Answer; with `sent`, only the first bytes of the body, whose whole length is announced."""
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _OURS:
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[:sent])


for _method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.forward)


@contextmanager
def flaky(target: str) -> Iterator[FlakyProxy]:
    """Run a proxy before the server at `target`."""
    proxy = FlakyProxy(target)
    with listening(proxy):
        yield proxy
