"""The middleware around every request, in a server of this process."""

import http.client
import socket
import threading

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from pneumoscope.server.boundary import Boundary
from pneumoscope.server.protocol import Protocol
from pneumoscope.server.telemetry import Telemetry


async def fails_midway(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"20")]})
    await send({"type": "http.response.body", "body": b"0123456789", "more_body": True})
    raise RuntimeError("Jane Doe")


def test_an_error_amid_a_response_closes_the_connection_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    app = Boundary(fails_midway, telemetry=Telemetry())
    server = uvicorn.Server(uvicorn.Config(app, http=Protocol, lifespan="off", access_log=False, log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        running.start()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=20)
            connection.request("GET", "/")
            with pytest.raises(http.client.IncompleteRead) as cut:
                connection.getresponse().read()
            connection.close()
        finally:
            server.should_exit = True
            running.join()
    assert cut.value.partial == b"0123456789"
    assert "RuntimeError at fails_midway" in caplog.text
    assert "Traceback" not in caplog.text
    assert "Jane Doe" not in caplog.text
