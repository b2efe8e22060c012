"""The service as a batch transform job runs it: speed, memory, and what a million films would cost.

    python benchmarks/batch.py [--films originals-160.zip] [--bundle BUNDLE] [--seconds 30]

A client on this machine stands in for SageMaker, sends one film per request, and takes its share of the same cores.
Costs are therefore calculated from the service's own processor time, and from list prices of us-east-1, which change.
Run it on a quiet machine: on one that was also doing other work, a film took 26 ms of processor time instead of 16.
By default, --bundle is the one that ships with the package.
"""

import argparse
import http.client
import json
import os
import statistics
import threading
import time
from collections import Counter
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine import drain, encoded_films, read_films, row, seconds, title
from pneumoscope.engine import Engine
from pneumoscope.models import shipped_bundle
from pneumoscope.parallel import available_cores
from pneumoscope.settings.serve import BATCH_VARIABLE, MAX_BYTES_VARIABLE, MAX_PIXELS_VARIABLE
from serving import memory, service

if TYPE_CHECKING:
    import subprocess

AT_ONCE = 8  # the default of `aws score --films-at-once`
SIDE = 9900  # pixels
MILLION = 1_000_000
#: US dollars. ml.c6i: 0.204 per hour of ml.c6i.xlarge, which has four processors. S3: per request.
PROCESSOR_HOUR = 0.204 / 4
PUT, GET = 5.0 / MILLION, 0.4 / MILLION


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, help="ZIP of JPEG films; by default phantoms")
    parser.add_argument("--bundle", type=Path, default=shipped_bundle(), help="the bundle; by default the shipped one")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of three rounds")
    arguments = parser.parse_args()
    films, what = read_films(arguments.films)
    print(f"{len(films)} {what}, {available_cores()} cores", flush=True)
    os.environ |= {BATCH_VARIABLE: "decisions", MAX_BYTES_VARIABLE: "100000000", MAX_PIXELS_VARIABLE: "100000000"}
    engine, alone, rates, used = Engine.load(arguments.bundle), list[float](), list[float](), list[float]()
    with service(arguments.bundle) as (port, process):
        before = memory(process)
        limits = json.loads(_get(port, "/execution-parameters"))
        for _ in range(3):
            alone.append(len(films) / seconds(lambda: drain(engine.predict_many(encoded_films(films)))))
            rate, processor = send(port, process, films, arguments.seconds)
            rates.append(rate)
            used.append(processor)
        peak = memory(process, peak=True)
        largest = large_image(port, process)
    best, rate, processor = (statistics.median(each) for each in (alone, rates, used))
    title(f"{AT_ONCE} films at a time", "films/s", "ratio")
    row("Engine.predict_many, no service", f"{best:.1f}", "1.00")
    row("POST /invocations with --batch", f"{rate:.1f}", f"{rate / best:.2f}")
    print(f"processor time per film: {processor * 1e3:.1f} ms; memory: {before:.0f} MB ready, {peak:.0f} MB at most")
    print(f"memory for one image of {SIDE**2 / 1e6:.0f} million pixels at 16 bits: {largest:.0f} MB at most")
    print(f"limits offered: {limits}")
    costs(processor)


def send(port: int, process: "subprocess.Popen[bytes]", films: list[bytes], duration: float) -> tuple[float, float]:
    """Send films for a while; return films per second, and the service's processor seconds per film."""
    statuses, numbers = Counter[int](), count()
    started, before, until = time.perf_counter(), _processor(process), time.perf_counter() + duration

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() < until:
            data = films[next(numbers) % len(films)]
            connection.request("POST", "/invocations", data, {"Content-Type": "application/x-image"})
            with connection.getresponse() as reply:
                reply.read()
                statuses[reply.status] += 1
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}, statuses
    films_sent = statuses[200]
    return films_sent / (time.perf_counter() - started), (_processor(process) - before) / films_sent


def large_image(port: int, process: "subprocess.Popen[bytes]") -> float:
    """Send an image of nearly the largest size that `aws score` accepts; return the service's peak in MB."""
    shades = np.tile(np.linspace(0, 65_000, SIDE).astype(np.uint16), (SIDE, 1))
    stream = BytesIO()
    Image.fromarray(shades).save(stream, "PNG", compress_level=1)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=900)
    connection.request("POST", "/invocations", stream.getvalue(), {"Content-Type": "application/x-image"})
    with connection.getresponse() as reply:
        assert reply.status == 200
    return memory(process, peak=True)


def costs(processor: float) -> None:
    """Calculate what a million films cost, and how long one instance of four processors takes."""
    hours = processor * MILLION / 3600
    title("a million films, calculated", "US dollars")
    row(f"processors: {hours:.1f} hours at {PROCESSOR_HOUR:.3f}", f"{hours * PROCESSOR_HOUR:.2f}")
    row("S3: the job reads each film and writes each response", f"{MILLION * (GET + PUT):.2f}")
    row("S3: gathering reads each response", f"{MILLION * GET:.2f}")
    row("together", f"{hours * PROCESSOR_HOUR + MILLION * (2 * GET + PUT):.2f}")
    print(f"one ml.c6i.xlarge with all four processors busy: {hours / 4:.1f} hours")


def _processor(process: "subprocess.Popen[bytes]") -> float:
    """Processor seconds that the process has used: fields 14 and 15 of /proc/PID/stat (proc(5))."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    with connection.getresponse() as reply:
        return reply.read()


if __name__ == "__main__":
    main()
