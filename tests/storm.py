"""Ill-treat a running service: damaged films, slow, lying and vanishing clients, bodies without end.

    python tests/storm.py --bundle BUNDLE --uploads 10000

Every upload must be answered as the API says, never with a 500; the service must go on, and its memory must not
grow. What went otherwise ends this with its number. The upload's number and the seed make it again.
"""

import argparse
import http.client
import json
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from damage import rasters
from dicoms import damaged, one_of_each
from pneumoscope.phantom import encode_jpeg, film
from service import Service, form, serving

CLIENTS = 8
HEAD = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
EXPECTED = {200, 400, 422, 503}
MOST_GROWTH = 50.0  # MB
GIGABYTE = 1_000_000_000


def main() -> None:
    """Parse the arguments, run everything, print what was answered and how memory went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=11)
    given = parser.parse_args()
    with serving(given.bundle, "--quiet") as service:
        uploads(service, given.uploads // 10, seed=given.seed + 1)
        before = service.memory()
        statuses = uploads(service, given.uploads, seed=given.seed)
        growth = service.memory() - before
        print(json.dumps({"uploads": statuses, "growth_mb": round(growth, 1)}), flush=True)
        if growth > MOST_GROWTH:
            raise MemoryError(f"memory grew by {growth:.0f} MB")
        for attack in (lies, vanishing, endless):
            attack(service)
            require_health(service)
            print(f"{attack.__name__}: the service goes on, {service.memory():.0f} MB", flush=True)
        assert "Traceback" not in service.log
        assert service.stop() == 0


def uploads(service: Service, count: int, *, seed: int) -> dict[int, int]:
    """Post damaged films from several clients at once; how often each status came."""
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


def lies(service: Service) -> None:
    """Heads that say what is not so: lengths too long, too short, negative, no number, twice; chunks of nonsense."""
    body = encode_jpeg(film("virus", patient=2, size=(64, 64)))
    length = len(body)
    for said in (
        b"Content-Length: %d\r\n" % (length + 100),
        b"Content-Length: %d\r\n" % (length - 100),
        b"Content-Length: -5\r\n",
        b"Content-Length: many\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length: 5\r\nContent-Length: 7\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % length,
        b"Content-Type: multipart/form-data; boundary=\r\nContent-Length: %d\r\n" % length,
        b"X-" + b"a" * 100_000 + b": 1\r\nContent-Length: %d\r\n" % length,
        b"",
    ):
        answer = raw(service, HEAD + said + b"\r\n" + body)
        status = answer[9:12]
        assert status in (b"", b"200", b"400", b"408", b"411", b"413", b"415", b"422", b"431"), (
            said[:60],
            answer[:300],
        )


def vanishing(service: Service) -> None:
    """Fifty clients that go away: in the head, in the body, while the answer is made; politely or with a reset."""
    body = encode_jpeg(film("normal", patient=3, size=(700, 800)))
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chance = random.Random(3)

    def go(number: int) -> None:
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as asking:
            asking.sendall(whole[: len(whole) if number % 3 == 0 else chance.randrange(len(whole))])
            if number % 2:  # closing now sends a reset
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    at_once([partial(go, number) for number in range(50)])


def endless(service: Service) -> None:
    """A body of a gigabyte, announced and not: refused, and not kept."""
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
    at_once([chunked, announced])
    assert service.memory() < before + MOST_GROWTH


def require_health(service: Service) -> None:
    """It is ready, and answers a film."""
    assert service.get("/readyz").status == 200
    data = encode_jpeg(film("virus", patient=2, size=(64, 64)))
    assert service.post("/v1/predictions", data).status == 200


def raw(service: Service, content: bytes, seconds: float = 90) -> bytes:
    """What comes back on a connection of its own, until it is closed or nothing more comes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as asking:
        try:
            asking.sendall(content)
            asking.shutdown(socket.SHUT_WR)
            while part := asking.recv(65536):
                answer += part
        except ConnectionError:
            pass  # closed before it was all sent
    return answer


def at_once(deeds: list[Callable[[], None]]) -> None:
    """Do all of it at the same time; raise what any of it raised."""
    start = threading.Barrier(len(deeds))

    def begin(deed: Callable[[], None]) -> None:
        start.wait()
        deed()

    with ThreadPoolExecutor(len(deeds)) as pool:
        for done in [pool.submit(begin, deed) for deed in deeds]:
            done.result()


if __name__ == "__main__":
    main()
