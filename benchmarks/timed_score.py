"""Two workers of `score`, processes or actors of a Ray cluster, and their speed from the moment when both are ready.

    python benchmarks/timed_score.py FILMS OUT [--ray ADDRESS] [--bundle BUNDLE] [--shard-films N]

`score.py` and a test call it. Neither worker gets a shard before both have loaded the model, because a Ray node may
start its worker some seconds after the other one. It prints a line as soon as each worker has ended a shard, and at
the end a line of JSON: the films per second, and how often shards were scored again.
"""

import argparse
import json
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
ALL_WORK = "each worker has ended a shard"


class TimedCrew:
    """A crew that holds its workers back until all have loaded the model, and notes what they do from then on."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._ready: list[Event] = []  # held back
        self._shards: dict[int, Shard] = {}  # by worker, the last one
        self._at_work: set[int] = set()
        self._begun: float | None = None
        self._films, self._last = 0, 0.0

    def wait(self, seconds: float) -> list[Event]:
        """See `Crew`; no worker is ready before all are."""
        events = self._crew.wait(seconds)
        if self._begun is None:
            self._ready += events
            if sum(event.kind == "ready" for event in self._ready) < WORKERS:
                return []
            events, self._begun = self._ready, time.perf_counter()
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
        assert self._begun is not None
        return self._films / (self._last - self._begun)

    def _note(self, worker: int) -> None:
        self._films, self._last = self._films + self._shards[worker].films, time.perf_counter()
        if worker not in self._at_work:
            self._at_work.add(worker)
            if len(self._at_work) == WORKERS:
                print(ALL_WORK, flush=True)


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
        assert size == WORKERS, f"there are shards for {size} workers only"
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
    again = summary.shards.again_after_loss + summary.shards.again_as_slow
    print(json.dumps({"films_per_second": crews[0].films_per_second(), "again": again}))


if __name__ == "__main__":
    main()
