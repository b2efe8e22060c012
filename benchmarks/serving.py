"""The service compared with the engine alone and with a plain service. All tables are measured in this one run.

    python benchmarks/serving.py [--films originals-160.zip] [--bundle BUNDLE]

Clients, service and engine share this machine's cores. Without --bundle, a ResNet-50 at 224 px is trained on a few
phantoms and exported in int8: speed does not depend on what it learnt. Without --films, phantoms of the archive
films' median sizes are used. The plain way is FastAPI with Pillow to RGB, torchvision's transforms and the bundle's
network with random weights, in PyTorch eager in fp32, one request at a time.
"""

import argparse
import http.client
import multiprocessing
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from engine import drain, encoded_films, export_bundle, plain_predictor, read_films, row, seconds, title, train_resnet50
from pneumoscope.contract import load_contract
from pneumoscope.engine import Engine
from pneumoscope.imaging import load_input
from pneumoscope.parallel import available_cores

CLIENTS, CROWD = 16, 200
SECONDS = 12.0
ROUNDS = 3


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, help="ZIP of JPEG films")
    parser.add_argument("--bundle", type=Path, help="the bundle; by default a ResNet-50 in int8")
    arguments = parser.parse_args()
    films, what = read_films(arguments.films)
    print(f"{len(films)} {what}, {available_cores()} cores", flush=True)
    with tempfile.TemporaryDirectory() as name:
        bundle = arguments.bundle
        if bundle is None:
            run, data = train_resnet50(Path(name))
            bundle = Path(name) / "int8"
            export_bundle(run, data, bundle, "int8")
        start_up(bundle)
        with service(bundle) as (port, process), plain_way(bundle) as plain_port:
            compare(films, bundle, port, plain_port)
            crowd(films, port, process)
        batching(films, bundle)


@dataclass
class Load:
    """The outcome of a load test, as its clients saw it."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    taken: list[float] = field(default_factory=list)
    unclean: list[str] = field(default_factory=list)

    @property
    def pace(self) -> float:
        """Films decided per second."""
        return self.statuses[200] / self.seconds


def start_up(bundle: Path) -> None:
    """Time from the command to a ready `/readyz`, golden cases included."""
    title("start", "median s")
    row("pneumoscope serve, until ready", f"{statistics.median(seconds(lambda: once(bundle)) for _ in range(5)):.2f}")


def once(bundle: Path) -> None:
    """Start the service and wait until it is ready. It is killed, as a graceful stop would be timed too."""
    with service(bundle, kill=True):
        pass


def compare(films: list[bytes], bundle: Path, port: int, plain_port: int) -> None:
    """Measure the engine alone, the service and the plain way, in turn."""
    engine = Engine.load(bundle)
    alone, loads = list[float](), list[Load]()
    plain = list[Load]()
    drain(engine.predict_many(encoded_films(films[:16])))
    load(port, films, clients=CLIENTS, duration=2)
    for _ in range(ROUNDS):
        alone.append(len(films) / seconds(lambda: drain(engine.predict_many(encoded_films(films)))))
        loads.append(load(port, films, clients=CLIENTS, duration=SECONDS))
        plain.append(load(plain_port, films, clients=CLIENTS, duration=SECONDS))
    best, served, slow = (statistics.median(paces) for paces in (alone, film_rates(loads), film_rates(plain)))
    title(f"{CLIENTS} clients, full-size films", "films/s", "ratio")
    row("Engine.predict_many, no service", f"{best:.1f}", "1.00")
    row("pneumoscope serve", f"{served:.1f}", f"{served / best:.2f}")
    row("plain way: FastAPI, PyTorch eager", f"{slow:.1f}", f"{slow / best:.2f}")
    bound = 3 * CLIENTS / best  # three times the mean latency that the engine's own speed allows
    print(f"the service is {served / slow:.1f} times as fast as the plain way", flush=True)
    title("latency", "p50 ms", "p99 ms", "bound of p99 ms")
    for name, some in (("pneumoscope serve", loads), ("plain way", plain)):
        taken = np.array([each for one in some for each in one.taken]) * 1e3
        row(name, f"{np.quantile(taken, 0.5):.0f}", f"{np.quantile(taken, 0.99):.0f}", f"{bound * 1e3:.0f}")
    statuses = sum((one.statuses for one in loads), Counter[int]())
    print(f"statuses: {dict(statuses)}", flush=True)


def film_rates(loads: list[Load]) -> list[float]:
    """Films per second of each load."""
    return [one.pace for one in loads]


def crowd(films: list[bytes], port: int, process: "subprocess.Popen[bytes]") -> None:
    """Put far more clients on the service than it has room for: each gets a decision or a 503, and it then recovers."""
    before = memory(process)
    seen = load(port, films, clients=CROWD, duration=SECONDS)
    title(f"{CROWD} clients", "200", "503", "other")
    others = sum(seen.statuses.values()) - seen.statuses[200] - seen.statuses[503]
    row(f"during {SECONDS:.0f} s", *(f"{number}" for number in (seen.statuses[200], seen.statuses[503], others)))
    if seen.unclean:
        print(f"unclean: {seen.unclean[:3]}")
    row("memory before, peak, MB", f"{before:.0f}", f"{memory(process, peak=True):.0f}", "")
    again = load(port, films, clients=CLIENTS, duration=4)
    row(f"afterwards, {CLIENTS} clients: films/s, statuses", f"{again.pace:.1f}", f"{dict(again.statuses)}", "")


def batching(films: list[bytes], bundle: Path) -> None:
    """Measure the gain from batching films: the model alone. Even a run in one thread is spread over all cores."""
    engine, cores = Engine.load(bundle), available_cores()
    images = [load_input(data, engine.contract.input)[np.newaxis] for data in films[:64]]
    batches = [np.concatenate(images[start : start + 8]) for start in range(0, len(images), 8)]
    ways: dict[str, Callable[[], object]] = {
        f"one film each in {cores} threads": lambda: in_threads(engine, images, cores),
        "batches of 8 in one thread, as served under load": lambda: [engine.run(batch) for batch in batches],
    }
    paces: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 2):
        for name, way in ways.items():
            paces[name].append(len(images) / seconds(way))
    title("micro-batching: the model alone", "films/s", "ratio")
    first = statistics.median(next(iter(paces.values())))
    for name, some in paces.items():
        row(name, f"{statistics.median(some):.1f}", f"{statistics.median(some) / first:.2f}")


def in_threads(engine: Engine, images: list[np.ndarray], cores: int) -> None:
    """Run the model on each image alone, in several threads."""
    with ThreadPoolExecutor(cores) as pool:
        drain(pool.map(engine.run, images))


def load(port: int, films: list[bytes], *, clients: int, duration: float) -> Load:
    """Let clients post films, one after another, each on its own connection."""
    seen, lock, numbers = Load(), threading.Lock(), count()
    start, until = time.perf_counter(), time.perf_counter() + duration

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() < until:
            data = films[next(numbers) % len(films)]
            began = time.perf_counter()
            try:
                connection.request("POST", "/v1/predictions", data, {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                response.read()
            except OSError as failure:
                connection.close()
                with lock:
                    seen.statuses[0] += 1
                    seen.unclean.append(repr(failure))
                continue
            after = response.headers.get("Retry-After")
            with lock:
                seen.statuses[response.status] += 1
                seen.taken.append(time.perf_counter() - began)
                if response.status == 503 and not after:
                    seen.unclean.append("503 without Retry-After")
            if after:
                time.sleep(min(0.2, int(after)))
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.seconds = time.perf_counter() - start
    return seen


@contextmanager
def service(bundle: Path, *, kill: bool = False) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """A ready `pneumoscope serve`: its port and its process."""
    command = [sys.executable, "-m", "pneumoscope", "serve", "--bundle", str(bundle), "--port", "0", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            found = re.search(rb":(\d+)/; Ctrl-C", process.stderr.readline())
            assert found
            await_ready(int(found[1]), "/readyz")
            yield int(found[1]), process
        finally:
            process.kill() if kill else process.terminate()


@contextmanager
def plain_way(bundle: Path) -> Iterator[int]:
    """The plain service with a bundle's network, in its own process; its port."""
    contract = load_contract(bundle)
    network = (contract.provenance.arch, contract.input.size)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    process = multiprocessing.get_context("spawn").Process(target=serve_plainly, args=(network, port), daemon=True)
    process.start()
    try:
        await_ready(port, "/")
        yield port
    finally:
        process.terminate()


def serve_plainly(network: tuple[str, int], port: int) -> None:
    """Serve the network the plain way."""
    import uvicorn
    from fastapi import FastAPI, Request

    plain = plain_predictor(*network)
    app = FastAPI()

    @app.get("/")
    async def ready() -> str:
        return "ready"

    @app.post("/v1/predictions")
    async def predict(request: Request) -> list[float]:
        return plain(await request.body())

    uvicorn.run(app, port=port, log_level="error")


def await_ready(port: int, path: str) -> None:
    """Wait until a path answers 200."""
    for _ in range(6000):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.01)
    raise TimeoutError(f"nothing is ready on port {port}")


def memory(process: "subprocess.Popen[bytes]", *, peak: bool = False) -> float:
    """Resident memory of the process in MB: its present size or its peak."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(rf"Vm{'HWM' if peak else 'RSS'}:\s+(\d+)", text)[0]) / 1024


if __name__ == "__main__":
    main()
