"""`score`: its processes against one `predict_many`, memory per process, the listing of many names, and two Ray nodes.

    python benchmarks/score.py [--films N] [--rounds N] [--many N] [--names N] [--only TABLE]

--films is the number of full-size phantoms of the first table and of the last one, --rounds how often the two sides of
such a table take turns, --many the number of small films in the larger folder of the memory table, and --names the
number of empty files that are listed.

The last table, `nodes`, needs root and runs only with --only nodes. It compares two Ray nodes with one core each, in
network namespaces of their own (ray_nodes.py), with two worker processes on this machine; every worker has one thread.
Start-up is treated alike: on either side, both workers load the model before either gets films, and the clock starts
then (timed_score.py). Each round has a new cluster, which ends before the other side's turn.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import timed_score
from pneumoscope.engine import Engine, ImageFile
from pneumoscope.imaging import DEFAULT_LIMITS
from pneumoscope.models import shipped_bundle
from pneumoscope.parallel import available_cores
from pneumoscope.phantom import FINDINGS, encode_jpeg, film
from pneumoscope.progress import Listener
from pneumoscope.score.archive_scoring import Resources, list_shards, score_archives
from pneumoscope.score.destination import FolderDestination
from pneumoscope.score.listing import Folder
from pneumoscope.score.processes import ProcessCrew
from pneumoscope.score.worker import Options
from ray_nodes import two_nodes, why_not

SIZE, SMALL = (1357, 1654), (64, 72)
LISTING = "--list"  # how this script calls itself, so that the listing is measured in a process of its own


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == [LISTING]:
        list_names(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("throughput", "memory", "listing", "nodes"), help="one table only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tables = {
            "throughput": partial(throughput, Path(name), arguments.films, arguments.rounds),
            "memory": partial(memory, Path(name), arguments.many),
            "listing": partial(listing, Path(name), arguments.names),
            "nodes": partial(nodes, Path(name), arguments.films, arguments.rounds),
        }
        for table in ("throughput", "memory", "listing") if arguments.only is None else (arguments.only,):
            tables[table]()


def make_folder(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """A folder of films: links to a few drawn ones, in folders of a thousand."""
    folder.mkdir()
    drawn = [encode_jpeg(film(finding, patient=patient, size=size)) for patient in (1, 2) for finding in FINDINGS]
    for number in range(count):
        path = folder / f"{number // 1000:05d}" / f"{number:08d}.jpeg"
        if number % 1000 == 0:
            path.parent.mkdir()
        if number < len(drawn):
            path.write_bytes(drawn[number])
        else:
            path.symlink_to(folder / "00000" / f"{number % len(drawn):08d}.jpeg")
    return folder


def throughput(folder: Path, count: int, rounds: int) -> None:
    """Worker processes and `predict_many` on the same films and cores, in turns; without the start of either."""
    films, cores = make_folder(folder / "full", count, SIZE), available_cores()
    engine, ratios = Engine.load(shipped_bundle()), list[float]()
    print(f"{count} full-size phantoms, {cores} cores; films per second", flush=True)
    for number in range(rounds):
        started = time.perf_counter()
        files = [ImageFile(name=path.name, read=path.read_bytes) for path in sorted(films.rglob("*.jpeg"))]
        for _ in engine.predict_many(files):
            pass
        plain = count / (time.perf_counter() - started)
        scored = _score(films, folder / f"out-{number}", max(2, count // (8 * cores)))
        ratios.append(scored / plain)
        print(f"predict_many {plain:6.1f}   score {scored:6.1f}   ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}", flush=True)


class _FromFirstFilm(Listener):
    """Knows when the first films were done, and when the last ones were."""

    def __init__(self) -> None:
        self.films, self.first, self.last, self.before = 0, 0.0, 0.0, 0

    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        """Start anew: this is called for the listing first, and then for the scoring."""
        del task, total, unit, done
        self.films, self.first = 0, 0.0

    def advance(self, count: int) -> None:
        """Count films."""
        self.films += count
        self.last = time.perf_counter()
        if not self.first:
            self.first, self.before = self.last, self.films


def _score(films: Path, out: Path, shard_films: int) -> float:
    """Films per second of a run, from the first report of films on: by then, the workers should be loaded."""
    listener = _FromFirstFilm()
    score_archives(
        [Folder(path=films, limits=DEFAULT_LIMITS)],
        FolderDestination(folder=out),
        shipped_bundle(),
        Options(),
        ProcessCrew,
        Resources(cores=available_cores(), threads=1),
        films_per_shard=shard_films,
        listener=listener,
    )
    return (listener.films - listener.before) / (listener.last - listener.first)


def memory(folder: Path, many: int) -> None:
    """Peak resident memory of the driver and of the largest worker, for a small and a large folder of small films."""
    print("\nsmall films   driver MB   largest worker MB", flush=True)
    for count in sorted({min(1000, many), many}):
        films = make_folder(folder / f"small-{count}", count, SMALL)
        line = [sys.executable, "-m", "pneumoscope", "score", films, "--out", folder / f"out-{count}", "--quiet"]
        line += ["--threads", "1"]
        driver = subprocess.Popen([*map(str, line)], stdout=subprocess.DEVNULL)
        peaks: dict[str, float] = {}
        while driver.poll() is None:
            for process in (str(driver.pid), *_children(driver.pid)):
                peaks[process] = max(peaks.get(process, 0.0), _peak(process))
            time.sleep(0.2)
        workers = [peak for process, peak in peaks.items() if process != str(driver.pid)]
        print(f"{count:11,}   {peaks[str(driver.pid)]:9.0f}   {max(workers):17.0f}", flush=True)


def _children(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []


def _peak(process: str) -> float:
    """A process's peak resident memory in MB, 0 if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def listing(folder: Path, names: int) -> None:
    """List empty files in a process of its own; print its peak memory."""
    place = folder / "names"
    for number in range(names):
        part = f"{place}/{number // 10_000:04d}"
        if number % 10_000 == 0:
            Path(part).mkdir(parents=True)
        os.close(os.open(f"{part}/patient{number:08d}_study_{number % 7}_frontal.jpeg", os.O_CREAT))
    subprocess.run([sys.executable, __file__, LISTING, str(place)], check=True)


def list_names(place: Path) -> None:
    """Cut a folder into shards, and print how long that took and how much memory."""
    started = time.perf_counter()
    shards = list_shards([Folder(path=place, limits=DEFAULT_LIMITS)], "benchmark", 2000, Listener())
    seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    names = sum(shard.films for shard in shards)
    kept = sum(len(shard.packed) for shard in shards) / 1e6
    print(f"\nlisting of {names:,} names: {len(shards):,} shards ({kept:.0f} MB), {seconds:.0f} s, peak {peak:.0f} MB")


def nodes(folder: Path, count: int, rounds: int) -> None:
    """Two Ray nodes and two worker processes on the same films, in turns."""
    if (why := why_not()) is not None:
        sys.exit(f"--only nodes: {why}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `timeout`, too, leaves no namespace behind
    films, sides, ratios = make_folder(folder / "full", count, SIZE), (_locally, _on_nodes), list[float]()
    print(f"\n{count} full-size phantoms, two workers of one thread; films per second", flush=True)
    for number in range(rounds):
        rates = {side: side(films, folder / f"{side.__name__}-{number}") for side in sides[:: (-1) ** number]}
        ratios.append(rates[_on_nodes] / rates[_locally])
        both = f"two processes {rates[_locally]:6.1f}   two nodes {rates[_on_nodes]:6.1f}"
        print(f"{both}   ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}", flush=True)


def _locally(films: Path, out: Path) -> float:
    """Films per second of two worker processes."""
    return _rate(subprocess.Popen(_timed(films, out), stdout=subprocess.PIPE, text=True))


def _on_nodes(films: Path, out: Path) -> float:
    """Films per second of two new Ray nodes with one core each."""
    with two_nodes() as both:
        return _rate(both.start(*_timed(films, out), "--ray", both.address))


def _timed(films: Path, out: Path) -> list[str]:
    shard = max(2, sum(1 for _ in films.rglob("*.jpeg")) // 40)
    return [sys.executable, timed_score.__file__, str(films), str(out), "--shard-films", str(shard)]


def _rate(driver: "subprocess.Popen[str]") -> float:
    with driver:
        try:
            printed, _ = driver.communicate()
        finally:
            driver.kill()
    if driver.returncode:
        sys.exit(f"timed_score.py ended with exit code {driver.returncode}.")
    found = json.loads(printed.splitlines()[-1])
    if found["rescored_shards"]:
        sys.exit(
            "a shard was scored again, which spoils the comparison; run it again on a machine with nothing else to do."
        )
    return float(found["films_per_second"])


if __name__ == "__main__":
    main()
