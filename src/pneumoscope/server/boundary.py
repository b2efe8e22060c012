"""Middleware around every request: an id, safe headers, a count, one line of log, and never a traceback."""

import asyncio
import logging
import re
import time
import traceback
import uuid
from contextlib import suppress
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumoscope.server.problems import respond
from pneumoscope.server.telemetry import Telemetry

_LOG = logging.getLogger(__name__)
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_PART = 65536  # bytes of a response that are sent at once
_LINGER_SECONDS = 10.0
_CLIENT_CLOSED_REQUEST = 499  # not in any standard; nginx's status for a client that went away

#: Nothing from other hosts, nothing inline. The page makes pictures from responses (blob:, data:).
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Boundary:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, started=time.perf_counter())
        scope = {**scope, "state": {"request_id": exchange.request_id}}
        if scope["method"] == "HEAD":
            scope["method"] = "GET"  # answered like GET; the server leaves out the body (RFC 9110 section 9.3.2)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except (ClientDisconnect, ConnectionResetError):
            exchange.status = exchange.status or _CLIENT_CLOSED_REQUEST
        except Exception as failure:  # noqa: BLE001 (nothing after this could answer the client)
            await exchange.fail(failure)
        finally:
            self._count(scope, exchange)

    def _count(self, scope: Scope, exchange: "_Exchange") -> None:
        route = _route(scope)
        method = exchange.method if exchange.method in _METHODS else "other"
        seconds = time.perf_counter() - exchange.started
        self._telemetry.requests.labels(method, route, str(exchange.status)).inc()
        self._telemetry.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in _PROBES and exchange.status == HTTPStatus.OK else logging.INFO
        _LOG.log(level, "%s %s %d %.1f ms %s", method, route, exchange.status, seconds * 1000, exchange.request_id)


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_FILES = ("/docs/assets", "/openapi.json", "/static")
_PROBES = {"/healthz", "/readyz", "/ping", "/metrics"}  # requested every few seconds: logged only when they fail


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, started: float) -> None:
        self.started = started
        self.request_id = _request_id(scope)
        self.method = scope["method"]
        self.status = 0
        self._scope = scope
        self._receive = receive
        self._send = send
        self._all_read = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._all_read = self._all_read or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            headers.setdefault("Cache-Control", "no-store")
            headers.setdefault("Content-Security-Policy", PAGE_POLICY)
            await self._send(message)
            return
        body = message.get("body", b"")
        last = max(0, len(body) - 1) // _PART * _PART
        for start in range(0, last, _PART):  # a slow reader blocks here, before megabytes fill the transport's buffer
            await self._send({"type": "http.response.body", "body": body[start : start + _PART], "more_body": True})
        body = body[last:]
        # A POST's rest is read after 200, too: a batch transform job gets 200 for a film too large to be read whole.
        reads_rest = self.status >= HTTPStatus.BAD_REQUEST or self.method == "POST"
        if reads_rest and not message.get("more_body", False) and not self._all_read:
            await self._send({**message, "body": body, "more_body": True})
            await self._linger()
            body = b""
        await self._send({**message, "body": body})

    async def _linger(self) -> None:
        """Read and discard the rest of a request, for a while, before the connection is closed.

        Most clients send the whole request before they read the response. If the connection closed at once, they
        would see a broken connection in place of the response (RFC 9112 section 9.6). A client that expects
        `100 Continue` does not send the rest.
        """
        if self.status == HTTPStatus.REQUEST_TIMEOUT or "expect" in Headers(scope=self._scope):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._all_read:
                    await self.receive()

    async def fail(self, failure: Exception) -> None:
        """Respond with 500. The exception's message stays out of log and response, because it may quote the film."""
        places = " < ".join(
            f"{each.name}:{each.lineno}" for each in reversed(traceback.extract_tb(failure.__traceback__))
        )
        _LOG.error("%s at %s, request %s", type(failure).__name__, places, self.request_id)
        if self.status:
            return  # the response has begun; the server sees that it is not complete, and closes the connection
        detail = f"the service has failed; report the request id {self.request_id} to the operator."
        response = respond(HTTPStatus.INTERNAL_SERVER_ERROR, detail, self.request_id)
        await response(self._scope, self.receive, self.send)


def _route(scope: Scope) -> str:
    """The route's own path, never the requested one: clients can put anything into that, a patient's name too."""
    if "route" in scope:
        return str(getattr(scope["route"], "path", "none"))
    return next((place for place in _FILES if scope["path"].startswith(place)), "none")


def _request_id(scope: Scope) -> str:
    """The client's X-Request-Id if it is a UUID, else a new one: any other text could identify a patient."""
    given = Headers(scope=scope).get("x-request-id", "").lower()
    return given if _UUID.fullmatch(given) else str(uuid.uuid4())
