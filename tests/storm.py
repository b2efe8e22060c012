"""Stress a running service with damaged films, false heads, vanishing clients, unread responses and endless bodies.

    python tests/storm.py --bundle BUNDLE --uploads 10000

Every upload must get a response that the API documents, never a 500; the service must stay ready, and its memory must
not grow. The first violation ends the run with the upload's number, which with the seed reproduces it.
"""

import argparse
import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from damage import rasters
from dicoms import damaged, one_of_each
from pneumoscope.phantom import encode_jpeg, film
from samples import encode
from service import Service, form, serving

CLIENTS = 8
LINE = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
HEAD = LINE + b"Content-Type: image/jpeg\r\n"
FORM = LINE + b"Content-Type: multipart/form-data; "
EXPECTED = {200, 400, 422, 503}
MAX_GROWTH = 50.0  # MB
MAX_UNREAD = 512.0  # MB: twice the service's bound, for responses that are being made
GIGABYTE = 1_000_000_000


def main() -> None:
    """Parse the arguments, run everything, and print the statuses and the growth of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    with serving(arguments.bundle, "--quiet", "--read-seconds", 3) as service:
        uploads(service, arguments.uploads // 10, seed=arguments.seed + 1)
        before = service.memory()
        statuses = uploads(service, arguments.uploads, seed=arguments.seed)
        growth = service.memory() - before
        print(json.dumps({"uploads": statuses, "growth_mb": round(growth, 1)}), flush=True)
        if growth > MAX_GROWTH:
            raise MemoryError(f"memory grew by {growth:.0f} MB")
        for attack in (false_heads, vanishing_clients, unread_responses, endless_bodies):
            attack(service)
            require_health(service)
            print(f"{attack.__name__}: the service is ready, {service.memory():.0f} MB", flush=True)
        assert "Traceback" not in service.log
        assert service.stop() == 0


def uploads(service: Service, count: int, *, seed: int) -> dict[int, int]:
    """Post damaged films from several clients at once; return the number of responses per status."""
    films = list((one_of_each() | rasters()).values())
    queries = ("", "?heatmap=overlay", "?heatmap=maps&preview=true", "?level=group")

    def post(numbers: range) -> Counter[int]:
        seen: Counter[int] = Counter()
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        for number in numbers:
            chance = random.Random(f"{seed} {number}")
            data = damaged(films[number % len(films)], chance)
            kind = chance.choice(["image/jpeg", "application/dicom", "application/octet-stream"])
            if number % 7 == 0:
                data, kind = form(("film", data), ("other", films[0]))
                data = damaged(data, chance) if number % 2 else data
            connection.request("POST", f"/v1/predictions{queries[number % 4]}", data, {"Content-Type": kind})
            response = connection.getresponse()
            body = response.read()
            seen[response.status] += 1
            assert response.status in EXPECTED, f"upload {number}: {response.status} {body[:300]!r}"
            json.loads(body)
        connection.close()
        return seen

    with ThreadPoolExecutor(CLIENTS) as pool:
        parts = pool.map(post, [range(first, count, CLIENTS) for first in range(CLIENTS)])
        return dict(sum(parts, Counter()))


def false_heads(service: Service) -> None:
    """Send request heads with false or unusual headers, and check that each gets an expected status."""
    body = encode_jpeg(film("virus", patient=2, size=(64, 64)))
    length = b"Content-Length: %d\r\n" % len(body)
    part, kind = form(("+2AA-\\ud800.jpeg", body))
    boundary = kind.partition("; ")[2].encode()
    part_length = b"Content-Length: %d\r\n" % len(part)
    cases: list[tuple[bytes, bytes, set[int]]] = [
        (HEAD + b"Content-Length: %d\r\n" % (len(body) + 100), body, {408}),
        (HEAD + b"Content-Length: %d\r\n" % (len(body) - 100), body, {422}),
        (HEAD + b"Content-Length: -5\r\n", body, {400}),
        (HEAD + b"Content-Length: many\r\n", body, {400}),
        (HEAD + b"Content-Length: 999999999999999999\r\n", body, {413}),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 7\r\n", body, {400}),
        (HEAD + b"Transfer-Encoding: chunked\r\n", body, {400, 408}),
        (HEAD + b"Transfer-Encoding: gzip\r\n", body, {400, 501}),
        (HEAD + b"Content-Encoding: gzip\r\n" + length, body, {415}),
        (HEAD + b"X-Long: " + b"a" * 100_000 + b"\r\n" + length, body, {200, 400, 431}),
        (HEAD, b"", {400}),
        (
            HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + length,
            body,
            {200},
        ),
        (HEAD + b"Expect: 100-continue\r\n" + length, body, {200}),
        (FORM + b"boundary=\r\n" + length, body, {400}),
        (FORM + b"boundary=" + b"b" * 5000 + b"\r\n" + length, body, {400}),
        *(
            (FORM + boundary + b"; charset=" + charset + b"\r\n" + part_length, part, {200})
            for charset in (b"unicode_escape", b"raw_unicode_escape", b"utf-7", b"undefined", b"punycode", b"utf-16")
        ),
    ]
    for head, content, expected in cases:
        response = raw(service, head + b"\r\n" + content)
        final = response.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").removeprefix(b"HTTP/1.1 100 \r\n\r\n")
        assert int(final[9:12] or 0) in expected, (head[:120], response[:300])


def unread_responses(service: Service) -> None:
    """Request large responses and do not read them: the service must not accumulate them."""
    noise = np.random.default_rng(1).integers(0, 255, (700, 700), dtype=np.uint8)
    body, kind = form(*[("noise.jpeg", encode(Image.fromarray(noise), "JPEG", quality=60))] * 16)
    head = b"POST /v1/predictions?heatmap=overlay&preview=true HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n"
    whole = head % kind.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    before = service.memory()
    with ExitStack() as deaf:
        for _ in range(16):
            asking = deaf.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60))
            asking.sendall(whole)
        await_quiet(service)
        grown = service.memory() - before
    assert grown < MAX_UNREAD, f"{grown:.0f} MB are kept for clients that do not read"
    await_quiet(service, "pneumoscope_buffered_bytes")


def await_quiet(service: Service, gauge: str = "pneumoscope_queue_films") -> None:
    """Wait until this gauge is 0: by default, until no film is in the queue."""
    until = time.monotonic() + 60
    while f"{gauge} 0.0".encode() not in service.get("/metrics").body:
        assert time.monotonic() < until, gauge
        time.sleep(0.05)


def vanishing_clients(service: Service) -> None:
    """Fifty clients that disconnect in the head, in the body or before the response, by closing or with a reset."""
    body = encode_jpeg(film("normal", patient=3, size=(700, 800)))
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chance = random.Random(3)

    def go(number: int) -> None:
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as asking:
            asking.sendall(whole[: len(whole) if number % 3 == 0 else chance.randrange(len(whole))])
            if number % 2:  # closing now sends a reset
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    run_concurrently([partial(go, number) for number in range(50)])


def endless_bodies(service: Service) -> None:
    """Send a body of one gigabyte, with and without its length: both are refused, and not kept in memory."""
    part = bytes(1_000_000)

    def chunked() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
        parts = (part for _ in range(GIGABYTE // len(part)))
        connection.request("POST", "/v1/predictions", parts, {"Content-Type": "image/jpeg"}, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()

    def announced() -> None:
        with socket.create_connection(("127.0.0.1", service.port), timeout=120) as asking:
            asking.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % GIGABYTE)
            assert asking.recv(100)[9:12] == b"413"
            for _ in range(GIGABYTE // len(part)):
                asking.sendall(part)

    before = service.memory()
    run_concurrently([chunked, announced])
    assert service.memory() < before + MAX_GROWTH


def trickle(service: Service, starts: list[bytes], *, seconds: float) -> list[bytes]:
    """Send the starts of requests at once, then a byte to each every 0.2 s until the service closes; the responses.

    Raises:
        TimeoutError: a connection is open after `seconds`.
    """
    responses, deadline = [b""] * len(starts), time.monotonic() + seconds
    with ExitStack() as stack:
        waiting = {
            number: stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            for number in range(len(starts))
        }
        for number, asking in waiting.items():
            asking.sendall(starts[number])
            asking.settimeout(0)
        while waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(waiting)} slow connections are open after {seconds} s")
            time.sleep(0.2)
            for number, asking in list(waiting.items()):
                try:
                    received = asking.recv(4096)
                except BlockingIOError:
                    asking.send(b"a")
                    continue
                except ConnectionResetError:
                    received = b""
                responses[number] += received
                if not received:
                    del waiting[number]
    return responses


def require_health(service: Service) -> None:
    """Check that the service is ready, and that it decides on a film."""
    assert service.get("/readyz").status == 200
    data = encode_jpeg(film("virus", patient=2, size=(64, 64)))
    assert service.post("/v1/predictions", data).status == 200


def raw(service: Service, content: bytes, seconds: float = 90) -> bytes:
    """The bytes that come back on a new connection, until the service closes it."""
    response = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as asking:
        try:
            asking.sendall(content)
            while part := asking.recv(65536):
                response += part
        except ConnectionError:
            pass  # closed before everything was sent
    return response


def run_concurrently(tasks: list[Callable[[], None]]) -> None:
    """Run all tasks at the same time; raise the first exception of any of them."""
    start = threading.Barrier(len(tasks))

    def begin(task: Callable[[], None]) -> None:
        start.wait()
        task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        for done in [pool.submit(begin, task) for task in tasks]:
            done.result()


if __name__ == "__main__":
    main()
