"""The service under faulty requests and load: every accepted request is answered, and the service keeps running."""

import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import dicoms
import storm
from pneumoscope.phantom import encode_jpeg, film
from service import Service, form, serving

LARGE = encode_jpeg(film("bacteria", patient=5, size=(1200, 1400)))


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Service]:
    with serving(tiny_bundle, "--read-seconds", 3) as running:
        yield running
        storm.require_health(running)
        assert "Traceback" not in running.log
        assert " 500 " not in running.log
        assert running.stop() == 0


def test_damaged_uploads_are_answered(service: Service) -> None:
    statuses = storm.uploads(service, 400, seed=1)
    assert sum(statuses.values()) == 400
    assert set(statuses) >= {200, 422}


def test_heads_that_lie(service: Service) -> None:
    storm.false_heads(service)


def test_clients_that_vanish(service: Service) -> None:
    storm.vanishing_clients(service)


def test_responses_that_nobody_reads(service: Service) -> None:
    storm.unread_responses(service)


def test_bodies_without_end(service: Service) -> None:
    storm.endless_bodies(service)


def test_slow_connections_are_closed_and_delay_no_others(service: Service) -> None:
    """Headers and bodies that arrive byte by byte: closed in time, while other requests are answered."""
    starts = [b"POST /v1/pre", storm.HEAD + b"Content-Length: 9000\r\n\r\nabc"] * 20
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(lambda: [service.post("/v1/predictions", LARGE).status for _ in range(10)])
        responses = storm.trickle(service, starts, seconds=40)
        assert others.result() == [200] * 10
    assert {response[:13] for response in responses} == {b"", b"HTTP/1.1 408 "}


def test_a_full_queue_is_a_clean_503(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--queue", 32) as service:
        body, kind = form(*[("a.jpeg", LARGE)] * 4)

        def ask(_: int) -> tuple[int, str]:
            reply = service.post("/v1/predictions?heatmap=overlay", body, kind)
            return reply.status, reply.headers.get("retry-after", "")

        with ThreadPoolExecutor(60) as pool:
            responses = list(pool.map(ask, range(120)))
        assert {status for status, _ in responses} == {200, 503}
        assert all(int(after) >= 1 for status, after in responses if status == 503)
        storm.require_health(service)


def test_a_stopping_service_answers_accepted_requests(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as service:
        body, kind = form(*[("a.jpeg", LARGE)] * 3)
        asked = []
        for _ in range(16):
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
            connection.request("POST", "/v1/predictions?heatmap=overlay", body, {"Content-Type": kind})
            asked.append(connection)
        until = time.monotonic() + 30
        while b"pneumoscope_queue_films 0.0" in service.get("/metrics").body:
            assert time.monotonic() < until
        service.process.send_signal(signal.SIGTERM)
        for connection in asked:
            response = connection.getresponse()
            assert response.status == 200
            assert len(json.loads(response.read())["predictions"]) == 3
            connection.close()
        assert service.process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            service.get("/healthz")


def test_an_endless_request_does_not_prevent_stopping(tiny_bundle: Path) -> None:
    with (
        serving(tiny_bundle, "--drain-seconds", 1) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=30) as asking,
    ):
        asking.sendall(storm.HEAD + b"Content-Length: 9000\r\n\r\nabc")
        time.sleep(0.3)
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 15


def test_no_name_pixel_or_identifier_is_stored_or_logged(tiny_bundle: Path, tmp_path: Path) -> None:
    """Markers are placed in every part of a request; then the log, the metrics and the decisions are searched."""
    marks = (
        "Wintergreen",
        "PID-4711",
        "20180311",
        "markedfile",
        "markedquery",
        "markedhead",
        "markedpath",
        "markedpix",
    )
    kept = tmp_path / "kept.jsonl"
    with serving(tiny_bundle, "--keep-log", kept) as service:
        pixels = dicoms.dicom(marked_pixels())
        for body, kind in (
            form(("markedfile.dcm", pixels), ("markedfile.jpeg", LARGE), ("markedfile.txt", b"markedpix")),
            (pixels, "application/dicom"),
            (b"markedpix" * 9, "image/markedhead"),
            (pixels[:900], "application/dicom"),
            (dicoms.dicom(marked_pixels(), ViewPosition="LL"), "application/dicom"),
            (b"", "text/markedhead"),
        ):
            for path in ("/v1/predictions?x=markedquery", "/invocations?x=markedquery", "/markedpath"):
                service.post(path, body, kind, **{"X-Request-Id": "markedhead", "User-Agent": "markedhead"})
        service.request("MARKEDHEAD", "/markedpath")
        storm.raw(service, b"GET /markedpath HTTP/1.1\r\nmarkedhead\x00: x\r\n\r\n")
        metrics = service.get("/metrics").body.decode()
        service.stop()
        told = service.log + metrics + kept.read_text()
    assert "POST /v1/predictions 200" in told
    for mark in marks:
        assert mark.lower() not in told.lower()
    assert list(tmp_path.iterdir()) == [kept]


def marked_pixels() -> NDArray[np.uint16]:
    """Stored values that spell a marker."""
    values = np.zeros((40, 36), np.uint16)
    values.ravel()[::2] = 900
    values[20].view(np.uint8)[:9] = list(b"markedpix")
    return values
