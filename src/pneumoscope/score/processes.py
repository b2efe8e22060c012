"""Workers as processes of this machine, each with its own loaded bundle; a process that ends is replaced."""

import multiprocessing
import signal
import threading
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from pneumoscope.errors import PneumoscopeError, ScoringError
from pneumoscope.parallel import describe_exit, end_with_parent
from pneumoscope.score.dispatch import Event
from pneumoscope.score.shards import Shard
from pneumoscope.score.worker import Scorer, ScoringJob

_STARTS = 3  # the run ends after this many processes in a row that ended before they were ready
_BEAT_SECONDS = 1.0  # between heartbeats, by which the driver knows that a worker is alive


@dataclass(kw_only=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False


@dataclass
class ProcessCrew:
    """A crew of worker processes; they are spawned, so that none inherits threads or an open archive."""

    bundle: Path
    job: ScoringJob
    size: int
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _started: int = 0
    _failed_starts: int = 0

    def __post_init__(self) -> None:
        """Start the processes."""
        for _ in range(self.size):
            self._start()

    def wait(self, seconds: float) -> list[Event]:
        """See `Crew`. A worker that ended is reported once what it sent before has been read.

        Raises:
            ScoringError: processes end again and again before they are ready.
            PneumoscopeError: a worker cannot load the bundle.
        """
        readable = {*wait([worker.pipe for worker in self._workers.values()], seconds)}
        numbers = [number for number, worker in self._workers.items() if worker.pipe in readable]
        return [event for number in numbers for event in self._receive(number)]

    def give(self, worker: int, shard: Shard) -> None:
        """See `Crew`."""
        try:
            self._workers[worker].pipe.send(shard)
        except OSError:  # it has just ended, which `wait` reports
            return

    def dismiss(self, worker: int) -> None:
        """See `Crew`."""
        _stop(self._workers.pop(worker))
        self._start()

    def close(self) -> None:
        """See `Crew`. A worker that is interrupted leaves at most a temporary file."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            _stop(worker)
        self._workers.clear()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.bundle, self.job), daemon=True)
        process.start()
        theirs.close()  # otherwise the end of the process would not end the pipe
        self._started += 1
        self._workers[self._started] = _Worker(process=process, pipe=ours)

    def _receive(self, number: int) -> list[Event]:
        worker = self._workers[number]
        try:
            kind, films, error = worker.pipe.recv()
        except (EOFError, OSError):
            return self._replace(number)
        if kind == "failed" and not worker.ready:
            assert error is not None
            raise error
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
        return [Event(worker=number, kind=kind, films=films, error=error)]

    def _replace(self, number: int) -> list[Event]:
        worker = self._workers.pop(number)
        _stop(worker)
        why = f"a worker process ended ({describe_exit(worker.process.exitcode)})"
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise ScoringError(f"{why} before it was ready, {_STARTS} times; is there enough memory?")
        self._start()
        return [Event(worker=number, kind="lost", why=why)]


def _stop(worker: _Worker) -> None:
    worker.process.kill()  # also ends a stopped process
    worker.process.join()
    worker.pipe.close()


def _work(pipe: Connection, bundle: Path, job: ScoringJob) -> None:
    """The worker process: load the bundle, then score shard after shard until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver ends its workers
    end_with_parent()
    messenger = _Messenger(pipe)
    try:
        scorer = Scorer(bundle, job)
    except Exception as failure:  # noqa: BLE001 (the driver raises it)
        messenger.send("failed", error=failure)
        return
    messenger.send("ready")
    threading.Thread(target=messenger.beat, daemon=True).start()
    while True:
        shard: Shard = pipe.recv()
        try:
            scorer.score(shard, messenger.report)
        except Exception as failure:  # noqa: BLE001 (the driver raises it, or gives the shard again)
            if not isinstance(failure, PneumoscopeError | OSError):
                failure.add_note(traceback.format_exc())
            messenger.send("failed", error=failure)
        else:
            messenger.send("done")


class _Messenger:
    """Sends a worker's messages to its driver; a thread of its own sends the heartbeats."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock, self._films = pipe, threading.Lock(), 0

    def report(self, films: int) -> None:
        """Films of the shard that are done; the next beat sends them."""
        self._films = films

    def send(self, kind: str, *, error: Exception | None = None) -> None:
        """Send a message about the worker or its shard, which has ended."""
        with self._lock:  # a beat must not count the films of this shard for the next one
            self._films = 0
            self._pipe.send((kind, 0, error))

    def beat(self) -> None:
        """Send a heartbeat, with the number of films that are done, every second."""
        while True:
            time.sleep(_BEAT_SECONDS)
            with self._lock:
                self._pipe.send(("films", self._films, None))
