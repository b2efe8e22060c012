"""Measure the speed of `score` with two workers, processes or actors of a Ray cluster, once both are ready.

    python benchmarks/timed_score.py FILMS OUT [--ray ADDRESS] [--bundle BUNDLE] [--shard-films N]

`score.py` and a test call it. Neither worker gets a shard before both have loaded the model, because a Ray node may
start its worker some seconds after the other one; the time is measured from that moment on. The script prints one line
when both workers have finished a shard, and at the end a line of JSON: the films per second, and how often shards were
scored again.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from pneumoscope.imaging import DEFAULT_LIMITS
from pneumoscope.models import shipped_bundle
from pneumoscope.score.archive_scoring import Resources, score_archives
from pneumoscope.score.destination import FolderDestination
from pneumoscope.score.dispatch import Crew, Event
from pneumoscope.score.listing import Folder
from pneumoscope.score.processes import ProcessCrew
from pneumoscope.score.shards import Shard
from pneumoscope.score.worker import Options, ScoringJob

WORKERS = 2
EACH_FINISHED_ONE = "each worker has finished a shard"


class TimedCrew:
    """A crew that holds its workers back until all have loaded the model, and notes what they do from then on."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._held_back: list[Event] = []
        self._shards: dict[int, Shard] = {}  # by worker, the last one
        self._have_finished_one: set[int] = set()
        self._started_at: float | None = None
        self._films, self._finished_at = 0, 0.0

    def wait(self, seconds: float) -> list[Event]:
        """See `Crew`; no worker is ready before all are."""
        events = self._crew.wait(seconds)
        if self._started_at is None:
            self._held_back += events
            if sum(event.kind == "ready" for event in self._held_back) < WORKERS:
                return []
            events, self._started_at = self._held_back, time.perf_counter()
        for event in events:
            if event.kind == "done":
                self._note(event.worker)
        return events

    def give(self, worker: int, shard: Shard) -> None:
        """See `Crew`."""
        self._shards[worker] = shard
        self._crew.give(worker, shard)

    def dismiss(self, worker: int) -> None:
        """See `Crew`."""
        self._crew.dismiss(worker)

    def close(self) -> None:
        """See `Crew`."""
        self._crew.close()

    def films_per_second(self) -> float:
        """From the moment when all workers were ready until the end of the last shard."""
        assert self._started_at is not None
        return self._films / (self._finished_at - self._started_at)

    def _note(self, worker: int) -> None:
        self._films, self._finished_at = self._films + self._shards[worker].films, time.perf_counter()
        if worker not in self._have_finished_one:
            self._have_finished_one.add(worker)
            if len(self._have_finished_one) == WORKERS:
                print(EACH_FINISHED_ONE, flush=True)


def main() -> None:
    """Score, and print the two lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ray", help="address of a cluster; by default processes on this machine")
    parser.add_argument("--bundle", type=Path, default=shipped_bundle())
    parser.add_argument("--shard-films", type=int, default=25)
    arguments = parser.parse_args()
    crews: list[TimedCrew] = []

    def make_crew(bundle: Path, job: ScoringJob, size: int) -> Crew:
        if size < WORKERS:
            sys.exit("too few films for two workers; give more films, or a smaller --shard-films.")
        if arguments.ray is None:
            crew: Crew = ProcessCrew(bundle, job, size)
        else:
            from pneumoscope.score.on_ray import RayCrew

            crew = RayCrew(bundle, job, size)
        crews.append(TimedCrew(crew))
        return crews[0]

    if arguments.ray is not None:
        from pneumoscope.score.on_ray import join

        join(arguments.ray, cores=WORKERS, threads=1)
    summary = score_archives(
        [Folder(path=arguments.films, limits=DEFAULT_LIMITS)],
        FolderDestination(folder=arguments.out),
        arguments.bundle,
        Options(),
        make_crew,
        Resources(cores=WORKERS, threads=1),
        films_per_shard=arguments.shard_films,
    )
    rescored = summary.shards.again_after_loss + summary.shards.again_as_slow
    print(json.dumps({"films_per_second": crews[0].films_per_second(), "rescored_shards": rescored}))


if __name__ == "__main__":
    main()
