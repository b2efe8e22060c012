"""The engine behind a bounded queue: loaded and verified once, asked by many."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Literal, TypeAlias, TypeVar

from pneumoscope.contract import load_contract
from pneumoscope.engine import Engine, ImageFile, Level, Prediction, Rule, choose_rule, verify
from pneumoscope.engine.reference import Reference, load_reference
from pneumoscope.errors import BundleError, PneumoscopeError
from pneumoscope.imaging import Limits
from pneumoscope.parallel import available_cores
from pneumoscope.server.batching import Batcher
from pneumoscope.server.journal import Journal
from pneumoscope.server.problems import Busy
from pneumoscope.server.telemetry import Telemetry
from pneumoscope.settings.serve import ServeConfig

State: TypeAlias = Literal["starting", "ready", "failed", "stopping"]
Room: TypeAlias = Callable[[int], None]  # takes so many more bytes; raises Busy if all requests would hold too many
Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
_USUAL_SECONDS = 0.05  # of a film, until some have been seen
_WEIGHT = 0.05  # of the newest film in the running mean


class Service:
    """What the routes share. Its methods run on the event loop; films are worked on in threads.

    `state` is `starting` until the golden cases came out right, then `ready`; or `failed`.
    """

    def __init__(self, config: ServeConfig, *, on_failure: Callable[[PneumoscopeError], None] = lambda _: None) -> None:
        self.config = config
        self.contract = load_contract(config.bundle)
        self.telemetry = Telemetry()
        self.state: State = "starting"
        self.journal = Journal(config.keep_log) if config.keep_log else None
        self._on_failure = on_failure
        self._engine: Engine | None = None
        self._reference: Reference | None = None
        self._threads = max(1, available_cores() // config.workers)
        self._batcher: Batcher | None = None
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._finishing = ThreadPoolExecutor(self._threads, thread_name_prefix="finish")
        self._films = 0
        self._buffered = 0
        self._seconds = _USUAL_SECONDS

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            Busy: it is not ready.
        """
        if self._engine is None or self.state != "ready":
            raise Busy(f"the service is {self.state}; ask /readyz, and try again.", after=1)
        return self._engine

    def rule(self, level: Level, coverage: float | None, operating_point: str | None) -> Rule:
        """The rule of a request; if it names neither a coverage nor an operating point, the service's own hold.

        Raises:
            UsageError: the model has no such coverage, operating point or groups.
        """
        if coverage is None and operating_point is None:
            coverage, operating_point = self.config.coverage, self.config.operating_point
        return choose_rule(self.contract, level=level, coverage=coverage, operating_point=operating_point)

    async def start(self) -> None:
        """Load and verify the bundle, in a thread; tell `on_failure` if that fails."""
        try:
            self._engine = await asyncio.get_running_loop().run_in_executor(self._pool, self._load)
        except Exception as failure:  # noqa: BLE001 (whatever it is, the service must not go on as if it were starting)
            self.state = "failed"
            bundle = self.config.bundle
            words = f"{bundle} cannot be served ({type(failure).__name__}); run `pneumoscope verify --bundle {bundle}`."
            self._on_failure(failure if isinstance(failure, PneumoscopeError) else BundleError(words))
            return
        self._batcher = Batcher(self._engine)
        self.telemetry.loaded(self._engine.model, self._reference)
        self.state = "ready"
        _LOG.info("ready: %s %s", self.contract.name, self.contract.version)

    def stop(self) -> None:
        """Let go of threads and files."""
        self.state = "stopping"
        self._pool.shutdown(cancel_futures=True)
        if self._batcher is not None:
            self._batcher.stop()
        self._finishing.shutdown(cancel_futures=True)
        if self.journal is not None:
            self.journal.close()

    def require_room(self, films: int = 1) -> None:
        """Raise Busy if this many more films would not fit into the queue."""
        if self._films + films > self.config.queue:
            after = max(1, math.ceil(self._films * self._seconds))
            raise Busy(f"{self._films} films are waiting, the most that may; try again in {after} s.", after=after)

    async def predict(
        self,
        data: bytes,
        *,
        name: str,
        rule: Rule,
        finish: Callable[[Prediction], Result],
        picture_side: int | None = None,
    ) -> Result:
        """Decide on a film of these bytes, when its turn has come, and `finish` the decision in a thread.

        With `picture_side` the decision brings the film as it was read, at most so many pixels long, to draw on.

        Raises:
            Busy: the queue is full.
        """
        self.require_room()
        engine, batcher, asked = self.engine, self._batcher, time.perf_counter()
        assert batcher is not None
        encoded, loop = ImageFile(name=name, read=lambda: data), asyncio.get_running_loop()
        self._count_films(1)
        try:
            decode = partial(engine.decode, encoded, rule=rule, picture_side=picture_side)
            decoded = await loop.run_in_executor(self._pool, decode)
            prediction = await batcher.decide(decoded)
            worked = sum(prediction.stages.values()) / 1000
            self.telemetry.film(prediction, waited=max(0.0, time.perf_counter() - asked - worked))
            self._learn(prediction)
            return await loop.run_in_executor(self._finishing, finish, prediction)
        finally:
            self._count_films(-1)

    def _count_films(self, change: int) -> None:
        self._films += change
        self.telemetry.waiting.set(self._films)

    def _learn(self, prediction: Prediction) -> None:
        """How long a film takes: decoding is shared by the threads, the model has all of them."""
        stages = prediction.stages
        seconds = (stages["decode"] / self._threads + stages.get("model", 0.0)) / 1000
        self._seconds += _WEIGHT * (seconds - self._seconds)

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Memory for the bytes of one request, which is given back when the block ends."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self._buffered + count > self.config.buffered_bytes:
                raise Busy("too many bytes of requests and answers are in memory; try again in 1 s.", after=1)
            taken += count
            self._count_bytes(count)

        try:
            yield take
        finally:
            self._count_bytes(-taken)

    def _count_bytes(self, change: int) -> None:
        self._buffered += change
        self.telemetry.buffered.set(self._buffered)

    def _load(self) -> Engine:
        config = self.config
        limits = Limits(max_bytes=config.max_bytes, max_pixels=config.max_pixels)
        engine = Engine.load(
            config.bundle,
            limits=limits,
            threads=self._threads,
            provider=config.provider,
            fix_orientation=config.fix_orientation,
        )
        verify(config.bundle, engine=engine)
        self._reference = load_reference(config.bundle, engine.contract)
        return engine


async def while_connected(gone: Awaitable[object], work: Awaitable[Result]) -> Result:
    """The result of `work`, unless `gone` comes first: then the work is dropped.

    Raises:
        ConnectionResetError: `gone` came first.
    """
    leaving, working = asyncio.ensure_future(gone), asyncio.ensure_future(work)
    try:
        await asyncio.wait({leaving, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ConnectionResetError("the client went away")
        return working.result()
    finally:
        for task in (leaving, working):
            task.cancel()
        await asyncio.gather(leaving, working, return_exceptions=True)
