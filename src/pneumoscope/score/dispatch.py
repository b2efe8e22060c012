"""Decides which worker scores which shard, without I/O; a shard whose worker is lost or slow is given out again."""

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, Protocol

from pneumoscope.errors import BusyError, ScoringError
from pneumoscope.progress import Listener
from pneumoscope.score.shards import Shard

TRIES = 3  # of a shard, before it is given up
SILENT_SECONDS = 30.0  # without a word from a worker, after which it is replaced
PATIENCE_SECONDS = 300.0  # without any worker, after which the run ends
_SLOW = 2.0  # times the median of the shards so far
_SLOW_SECONDS = 10.0  # a shorter shard is not worth a second try
_NOTE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Event:
    """What a worker reports.

    `ready`: it can score a shard. `films`: it lives, and has done this many films of its shard. `done`: its part is
    there. `failed`: its shard raised `error`. `lost`: it ended; the crew starts another one in its place.
    """

    worker: int
    kind: Literal["ready", "films", "done", "failed", "lost"]
    films: int = 0
    why: str = ""
    error: Exception | None = None


class Crew(Protocol):
    """Workers, on this machine or elsewhere. A number names a worker; its replacement has another number."""

    def wait(self, seconds: float) -> list[Event]:
        """Events since the last call; wait for the first one, for at most this many seconds."""

    def give(self, worker: int, shard: Shard) -> None:
        """Let a worker that is ready score a shard."""

    def dismiss(self, worker: int) -> None:
        """Stop a worker, and start another one in its place."""

    def close(self) -> None:
        """Stop all workers immediately."""


@dataclass(kw_only=True)
class _Activity:
    """What a worker is doing: its shard, None if it is idle; since when; how many films of it are done.

    `since` and `last_heard`, when the worker last reported, are times of the monotonic clock.
    """

    shard: Shard | None = None
    since: float
    last_heard: float
    films: int = 0


@dataclass(kw_only=True)
class Outcome:
    """How a run went: shards given again because a worker was lost or failed, or was slow."""

    lost: int = 0
    slow: int = 0


@dataclass
class Dispatcher:
    """Gives the shards to a crew's workers until every part is written."""

    crew: Crew
    shards: Iterable[Shard]
    listener: Listener
    silent_seconds: float = SILENT_SECONDS
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        """Queue all shards."""
        self._queue = deque(self.shards)
        self._left = {shard.name for shard in self._queue}
        self._workers: dict[int, _Activity] = {}
        self._tries = Counter[str]()
        self._seconds: list[float] = []
        self._reported = 0  # films that the listener knows of
        self._done = 0  # films of finished shards
        self._without_worker = time.monotonic()
        self._noted = False

    def run(self) -> Outcome:
        """Return when every part is written.

        Raises:
            ScoringError: a shard was lost again and again, or there was no worker for a long time.
            PneumoscopeError, OSError: raised by a worker, and not worth another try.
        """
        while self._left:
            for event in self.crew.wait(1.0):
                self._handle(event)
            self._replace_silent()
            for worker, activity in self._workers.items():
                if activity.shard is None and (shard := self._next()) is not None:
                    self._start(worker, shard)
            self._check_workers()
            self._show()
        return self.outcome

    def _handle(self, event: Event) -> None:
        now = time.monotonic()
        if event.kind == "ready":
            self._workers[event.worker] = _Activity(since=now, last_heard=now)
            return
        activity = self._workers.get(event.worker)
        if activity is None:  # an event on its way when the worker was dismissed
            return
        activity.last_heard = now
        match event.kind:
            case "films":
                activity.films = max(activity.films, event.films)
            case "done":
                self._finish(activity, now)
            case "lost":
                del self._workers[event.worker]
                self._give_back(activity.shard, event.why)
            case "failed":
                shard, activity.shard = activity.shard, None
                if not isinstance(event.error, BusyError):
                    assert event.error is not None
                    raise event.error
                self._give_back(shard, str(event.error))

    def _finish(self, activity: _Activity, now: float) -> None:
        shard, activity.shard = activity.shard, None
        assert shard is not None
        self._seconds.append(now - activity.since)
        if shard.name in self._left:  # not if another worker was faster
            self._left.remove(shard.name)
            self._done += shard.films

    def _give_back(self, shard: Shard | None, why: str) -> None:
        """Queue a shard again, before the others, unless another worker has it."""
        if shard is None or shard.name not in self._left or self._holders(shard):
            return
        self._tries[shard.name] += 1
        if self._tries[shard.name] >= TRIES:
            raise ScoringError(
                f"a shard of {shard.films:,} films, from {shard.entries()[0].name!r} on, was given up after {TRIES} "
                f"tries: {why.rstrip('.')}. The other parts stay; run the same command again to go on."
            )
        self.outcome.lost += 1
        self.listener.say(f"{why.rstrip('.')}; its shard of {shard.films:,} films is given out again")
        self._queue.appendleft(shard)

    def _next(self) -> Shard | None:
        """The next shard of the queue, else one that is slow at its only worker."""
        if self._queue:
            return self._queue.popleft()
        if not self._seconds:
            return None
        limit, now = max(_SLOW_SECONDS, _SLOW * median(self._seconds)), time.monotonic()
        slow = [
            activity
            for activity in self._workers.values()
            if activity.shard is not None and now - activity.since > limit and self._holders(activity.shard) == 1
        ]
        if not slow:
            return None
        self.outcome.slow += 1
        return min(slow, key=lambda activity: activity.since).shard

    def _holders(self, shard: Shard) -> int:
        return sum(each.shard is not None and each.shard.name == shard.name for each in self._workers.values())

    def _start(self, worker: int, shard: Shard) -> None:
        now = time.monotonic()
        self._workers[worker] = _Activity(shard=shard, since=now, last_heard=now)
        self.crew.give(worker, shard)

    def _replace_silent(self) -> None:
        """Dismiss workers not heard from for a long time: a stopped process, or a machine that does not answer."""
        now = time.monotonic()
        for worker, activity in list(self._workers.items()):
            if now - activity.last_heard > self.silent_seconds:
                del self._workers[worker]
                self.crew.dismiss(worker)
                self._give_back(activity.shard, f"a worker did not answer for {self.silent_seconds:.0f} s")

    def _check_workers(self) -> None:
        now = time.monotonic()
        if self._workers:
            self._without_worker, self._noted = now, False
            return
        waited = now - self._without_worker
        if waited > PATIENCE_SECONDS:
            raise ScoringError(
                f"no worker could start for {waited:.0f} s: the cores are in use, or the machine does not answer. "
                "The parts that are written stay; run the same command again to go on."
            )
        if waited > _NOTE_SECONDS and not self._noted:
            self._noted = True
            self.listener.say("no worker is ready; waiting for one to start")

    def _show(self) -> None:
        """Report the films that are done, each once: of a shard at two workers, the faster one's."""
        running: dict[str, int] = {}
        for activity in self._workers.values():
            if activity.shard is not None and activity.shard.name in self._left:
                running[activity.shard.name] = max(running.get(activity.shard.name, 0), activity.films)
        films = self._done + sum(running.values())
        if films != self._reported:
            self.listener.advance(films - self._reported)
            self._reported = films
