"""Workers as actors of a Ray cluster: the bundle is shipped once per node, and each process has one engine.

Only Ray Core is used. The parts record what is done, so no state in Ray needs to survive if the driver is killed.
"""

import os
import socket
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private import services  # the one place that knows which cluster `auto` means
from ray.exceptions import RayActorError, RayError, RaySystemError, RayTaskError

from pneumoscope import __version__
from pneumoscope.errors import PneumoscopeError, ScoringError, UsageError
from pneumoscope.progress import SILENT, Listener
from pneumoscope.score.dispatch import Event
from pneumoscope.score.shards import Shard
from pneumoscope.score.worker import Scorer, ScoringJob

_RAY: Any = ray  # it is typed in part only: strict checking refuses calls of its untyped functions
CLIENT = "ray://"
_CLIENT_PORT = 10_001
# Calls that every version has; only the status of the answer is looked at.
_HEAD_METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_CLIENT_METHOD = "/ray.rpc.RayletDriver/ClusterInfo"
_REACH_SECONDS = 3.0
_NOTE_SECONDS, _JOIN_SECONDS = 8.0, 60.0
_POLL_SECONDS = 1.0
_STARTS = 3  # times the number of workers: as many actors that end one after another, none ready, end the run


class Actor:
    """A scorer in a process of the cluster. One thread scores; another answers that the process lives."""

    def __init__(self) -> None:
        self._films = 0
        self._scorer: Scorer | None = None

    def load(self, bundle: dict[str, bytes], job: ScoringJob) -> str:
        """Load the bundle from its files' bytes; return this node's version of Pneumoscope.

        Raises:
            PneumoscopeError: the bundle does not load, or this node does not see a source or the destination.
        """
        with tempfile.TemporaryDirectory() as name:
            for path, content in bundle.items():
                file = Path(name, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            self._scorer = Scorer(Path(name), job)
        return __version__

    def score(self, shard: Shard) -> None:
        """Score a shard; see `Scorer.score`."""
        assert self._scorer is not None
        self._films = 0
        try:
            self._scorer.score(shard, self._report)
        finally:
            self._films = 0

    def films(self) -> int:
        """How many films of the shard are done."""
        return self._films

    def _report(self, films: int) -> None:
        self._films = films


@dataclass(kw_only=True)
class _Remote:
    """An actor, and the results awaited from it: of loading, of its shard, and of a question about progress."""

    actor: Any
    loading: Any
    scoring: Any = None
    progress: Any = None
    ask_at: float = 0.0

    def awaited(self) -> list[Any]:
        return [each for each in (self.loading, self.scoring, self.progress) if each is not None]


@dataclass
class RayCrew:
    """A crew of actors; see `Crew`. `join` must have been called."""

    bundle: Path
    job: ScoringJob
    size: int
    _workers: dict[int, _Remote] = field(default_factory=dict)
    _started: int = 0
    _failed_starts: int = 0

    def __post_init__(self) -> None:
        """Ship the bundle and start the actors."""
        files = [path for path in sorted(self.bundle.rglob("*")) if path.is_file()]
        # A copy in the driver's object store, from which each node fetches it once.
        self._files = _RAY.put({path.relative_to(self.bundle).as_posix(): path.read_bytes() for path in files})
        self._kind = _RAY.remote(num_cpus=self.job.threads, max_concurrency=2, max_restarts=0)(Actor)
        for _ in range(self.size):
            self._start()

    def wait(self, seconds: float) -> list[Event]:
        """See `Crew`.

        Raises:
            ScoringError: actors end again and again before they are ready, or nodes have another version.
            PneumoscopeError: an actor cannot load the bundle.
        """
        self._ask()
        awaited = [each for worker in self._workers.values() for each in worker.awaited()]
        _RAY.wait(awaited, num_returns=1, timeout=seconds)
        arrived, _ = _RAY.wait(awaited, num_returns=len(awaited), timeout=0)
        return [event for number in list(self._workers) for event in self._events(number, {*arrived})]

    def give(self, worker: int, shard: Shard) -> None:
        """See `Crew`."""
        remote = self._workers[worker]
        remote.scoring = remote.actor.score.remote(shard)

    def dismiss(self, worker: int) -> None:
        """See `Crew`."""
        _RAY.kill(self._workers.pop(worker).actor)
        self._start()

    def close(self) -> None:
        """See `Crew`; also leave the cluster."""
        for worker in self._workers.values():
            _RAY.kill(worker.actor)
        self._workers.clear()
        _RAY.shutdown()

    def _start(self) -> None:
        self._started += 1
        actor = self._kind.remote()
        self._workers[self._started] = _Remote(actor=actor, loading=actor.load.remote(self._files, self.job))

    def _ask(self) -> None:
        """Ask each loaded actor, every second, how many films are done: that it answers shows that it lives."""
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.loading is None and worker.progress is None and now >= worker.ask_at:
                worker.progress, worker.ask_at = worker.actor.films.remote(), now + _POLL_SECONDS

    def _events(self, number: int, arrived: set[Any]) -> list[Event]:
        worker, events = self._workers[number], list[Event]()
        try:
            if worker.loading in arrived:
                self._check_version(_RAY.get(worker.loading))
                worker.loading, self._failed_starts = None, 0
                events.append(Event(worker=number, kind="ready"))
            if worker.progress in arrived:
                films = _RAY.get(worker.progress)
                worker.progress = None
                events.append(Event(worker=number, kind="films", films=films))
            if worker.scoring in arrived:
                result, worker.scoring = worker.scoring, None
                _RAY.get(result)
                events.append(Event(worker=number, kind="done"))
        except RayTaskError as failure:
            events.append(self._failed(number, failure))
        except (RayActorError, RaySystemError) as failure:
            events.append(self._lost(number, failure))
        return events

    def _failed(self, number: int, failure: RayTaskError) -> Event:
        """The event of an exception in an actor.

        Raises:
            PneumoscopeError, OSError, RayTaskError: the exception came while the actor loaded the bundle.
        """
        cause = failure.cause if isinstance(failure.cause, PneumoscopeError | OSError) else failure
        if self._workers[number].loading is not None:
            raise cause
        return Event(worker=number, kind="failed", error=cause)

    def _lost(self, number: int, failure: RayError) -> Event:
        """Replace an actor whose process or node ended.

        Raises:
            ScoringError: it never was ready, like several before it, or its node lacks a package.
        """
        if "No module named" in str(failure):
            raise ScoringError(
                "a node of the Ray cluster lacks Pneumoscope or a package that it needs; install "
                f"'pneumoscope[score]' {__version__} on every node."
            ) from failure
        if self._workers.pop(number).loading is not None:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS * self.size:
                raise ScoringError(
                    f"workers of the Ray cluster end before they are ready ({_in_short(failure)}); is there enough "
                    "memory?"
                ) from failure
        self._start()
        return Event(worker=number, kind="lost", why="a worker of the Ray cluster was lost")

    def _check_version(self, version: str) -> None:
        if version != __version__:
            raise ScoringError(
                f"a node of the Ray cluster has Pneumoscope {version}, and this machine has {__version__}; install the "
                "same version on every node."
            )


def join(address: str, *, cores: int | None, threads: int | None, listener: Listener = SILENT) -> int:
    """Join a Ray cluster; return the cores to use.

    Args:
        address: `auto`, `HOST:PORT` or `ray://HOST:PORT`.
        cores: to use; by default all.
        threads: of one worker; some node must have as many cores.
        listener: receives a note if the cluster takes long to answer.

    Raises:
        UsageError: `address` is not of these forms, or the cluster has too few cores.
        ScoringError: no cluster answers, it refuses the token, or it has fewer free cores than a worker needs.
    """
    _reach(address)
    _connect(address, listener)
    try:
        return _cores(address, cores, threads or 1)
    except BaseException:
        _RAY.shutdown()
        raise


def _reach(address: str) -> None:
    """Ask the server at an address whether it is Ray's and accepts the token; `ray.init` would try for minutes."""
    server, method = _server(address), _CLIENT_METHOD if address.startswith(CLIENT) else _HEAD_METHOD
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as failure:
        raise ScoringError(
            f"no Ray cluster answers at {server} ({failure.strerror or failure}); start one with "
            "`ray start --head`, or check the address and the network."
        ) from failure
    token = _token()
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    # Without an HTTP proxy: the check above has reached the server directly.
    with grpc.insecure_channel(server, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=_REACH_SECONDS, metadata=metadata)
        except grpc.RpcError as failure:
            if failure.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise ScoringError(
                    f"the Ray cluster at {server} refuses the token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to "
                    "the cluster's token, or RAY_AUTH_TOKEN_PATH to a file that holds it."
                ) from failure
            if failure.code() == grpc.StatusCode.UNAVAILABLE:
                raise ScoringError(
                    f"what listens at {server} does not answer as a Ray cluster does; check the address and the port."
                ) from failure
            # Any other answer comes from Ray; `ray.init` reports what is wrong.


def _server(address: str) -> str:
    """`HOST:PORT` of an address.

    Raises:
        UsageError: it is not an address.
        ScoringError: it is `auto`, and this machine belongs to no cluster.
    """
    if address == "auto":
        try:
            found: str = services.canonicalize_bootstrap_address_or_die("auto")
        except (ConnectionError, ValueError) as failure:
            raise ScoringError(
                "this machine does not belong to a Ray cluster; start one with `ray start --head`, or give --ray "
                "HOST:PORT."
            ) from failure
        return found
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if address.startswith(CLIENT) and not host:
        host, port = port, str(_CLIENT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(
            f"--ray {address} is not an address of a Ray cluster; write auto, HOST:PORT or ray://HOST:PORT."
        )
    return f"{host}:{port}"


def _token() -> str | None:
    """The token that Ray would send, or None; Ray's documentation, "Token authentication", lists where it looks."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _connect(address: str, listener: Listener) -> None:
    """`ray.init` with a time limit: in a thread, because it would wait for minutes for a server that is not Ray's."""
    failures = list[BaseException]()

    def init() -> None:
        try:
            _RAY.init(address=address, logging_level="ERROR", log_to_driver=False)
        except BaseException as failure:  # noqa: BLE001 (raised in the other thread)
            failures.append(failure)

    thread = threading.Thread(target=init, daemon=True)
    thread.start()
    thread.join(_NOTE_SECONDS)
    if thread.is_alive():
        listener.say(f"the Ray cluster at {address} does not answer yet; waiting {_JOIN_SECONDS:.0f} s at most")
        thread.join(_JOIN_SECONDS - _NOTE_SECONDS)
    if thread.is_alive():
        raise ScoringError(f"what listens at {address} does not answer as a Ray cluster does; check the address.")
    if failures:
        raise ScoringError(f"the Ray cluster at {address} cannot be joined: {_in_short(failures[0])}") from failures[0]


def _cores(address: str, wanted: int | None, threads: int) -> int:
    total = _count(_RAY.cluster_resources())
    largest = max((_count(node["Resources"]) for node in _RAY.nodes() if node["Alive"]), default=0)
    if total < (wanted or 1):
        raise UsageError(
            f"--cores {wanted or 1}: the Ray cluster at {address} has {total} cores; give fewer, or add nodes."
        )
    if largest < threads:
        raise UsageError(
            f"--threads {threads}: the largest node of the Ray cluster at {address} has {largest} cores; give fewer."
        )
    if (free := _count(_RAY.available_resources())) < threads:
        raise ScoringError(
            f"{free} of the {total} cores of the Ray cluster at {address} are free, and a worker needs {threads}; wait "
            "for its other jobs, or add nodes."
        )
    return wanted or total


def _count(resources: dict[str, float]) -> int:
    return int(resources.get("CPU", 0))


def _in_short(failure: BaseException) -> str:
    """The message of an exception of Ray's on one line, cut: the cause often stands below a heading."""
    return " ".join(str(failure).split())[:300] or type(failure).__name__
