"""The engine behind a bounded queue: loaded and verified once, used by all requests."""

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
#: Reserves this many more bytes for a request; raises Busy if all requests together would exceed the limit.
Reserve: TypeAlias = Callable[[int], None]
Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
_FIRST_SECONDS = 0.05  # assumed per film, until some have been measured
_WEIGHT = 0.05  # of the newest film in the running mean of seconds per film


class Service:
    """The state that the routes share. Its methods run on the event loop; threads decode and render films.

    `state` is `starting` until the golden cases are reproduced, then `ready`, or `failed`; at the end `stopping`.
    `reference` is the bundle's reference for drift, None if it has none.
    """

    def __init__(self, config: ServeConfig, *, on_failure: Callable[[PneumoscopeError], None] = lambda _: None) -> None:
        self.config = config
        self.contract = load_contract(config.bundle)
        self.telemetry = Telemetry()
        self.state: State = "starting"
        self.journal = Journal(config.keep_log) if config.keep_log else None
        self._on_failure = on_failure
        self._engine: Engine | None = None
        self.reference: Reference | None = None
        self._threads = max(1, available_cores() // config.workers)
        self._batcher: Batcher | None = None
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        # A pool of its own: responses would otherwise wait behind films that are still to be decoded.
        self._finishing = ThreadPoolExecutor(self._threads, thread_name_prefix="finish")
        self._films = 0
        self._buffered = 0
        self._seconds = _FIRST_SECONDS

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            Busy: it is not ready.
        """
        if self._engine is None or self.state != "ready":
            raise Busy(f"the service is {self.state}; try again when /readyz answers 200.", retry_after=1)
        return self._engine

    def rule(self, level: Level, coverage: float | None, operating_point: str | None) -> Rule:
        """The rule for a request; without a coverage and an operating point of its own, the service's apply.

        Raises:
            UsageError: the model has no such coverage, operating point or groups.
        """
        if coverage is None and operating_point is None:
            coverage, operating_point = self.config.coverage, self.config.operating_point
        return choose_rule(self.contract, level=level, coverage=coverage, operating_point=operating_point)

    async def start(self) -> None:
        """Load and verify the bundle, in a thread; call `on_failure` if that fails."""
        try:
            self._engine = await asyncio.get_running_loop().run_in_executor(self._pool, self._load)
        except Exception as failure:  # noqa: BLE001 (after any error at all, the state must not stay at starting)
            self.state = "failed"
            bundle = self.config.bundle
            message = (
                f"{bundle} cannot be served ({type(failure).__name__}); run `pneumoscope verify --bundle {bundle}`."
            )
            self._on_failure(failure if isinstance(failure, PneumoscopeError) else BundleError(message))
            return
        self._batcher = Batcher(self._engine)
        self.telemetry.record_model(self._engine.model, self.reference)
        self.state = "ready"
        _LOG.info("ready: %s %s", self.contract.name, self.contract.version)

    def stop(self) -> None:
        """Stop the threads and close the files."""
        self.state = "stopping"
        self._pool.shutdown(cancel_futures=True)
        if self._batcher is not None:
            self._batcher.stop()
        self._finishing.shutdown(cancel_futures=True)
        if self.journal is not None:
            self.journal.close()

    def require_queue_space(self, films: int = 1) -> None:
        """Raise Busy unless the queue has space for this many more films."""
        if self._films + films > self.config.queue:
            # How long the films in the queue will take, for Retry-After.
            wait = max(1, math.ceil(self._films * self._seconds))
            raise Busy(f"the queue is full ({self._films} films); try again in {wait} s.", retry_after=wait)

    async def predict(
        self,
        data: bytes,
        *,
        name: str,
        rule: Rule,
        finish: Callable[[Prediction], Result],
        picture_side: int | None = None,
    ) -> Result:
        """Queue the film with these bytes, decide on it, and `finish` the decision in a thread.

        With `picture_side`, the prediction includes the film as it was read, its longer side at most this many pixels.

        Raises:
            Busy: the queue is full, or the service is not ready.
        """
        self.require_queue_space()
        engine, batcher, queued_at = self.engine, self._batcher, time.perf_counter()
        assert batcher is not None
        encoded, loop = ImageFile(name=name, read=lambda: data), asyncio.get_running_loop()
        self._count_films(1)
        try:
            decode = partial(engine.decode, encoded, rule=rule, picture_side=picture_side)
            decoded = await loop.run_in_executor(self._pool, decode)
            prediction = await batcher.decide(decoded)
            worked = sum(prediction.stages.values()) / 1000
            self.telemetry.record_film(prediction, waited=max(0.0, time.perf_counter() - queued_at - worked))
            self._update_seconds(prediction)
            return await loop.run_in_executor(self._finishing, finish, prediction)
        finally:
            self._count_films(-1)

    def _count_films(self, change: int) -> None:
        self._films += change
        self.telemetry.waiting.set(self._films)

    def _update_seconds(self, prediction: Prediction) -> None:
        """Update the mean time per film. Threads decode several films at once; the model uses all threads itself."""
        stages = prediction.stages
        seconds = (stages["decode"] / self._threads + stages.get("model", 0.0)) / 1000
        self._seconds += _WEIGHT * (seconds - self._seconds)

    @contextmanager
    def memory(self) -> Iterator[Reserve]:
        """Memory for the bytes of one request and its response, released when the block ends."""
        reserved = 0

        def reserve(count: int) -> None:
            nonlocal reserved
            if self._buffered + count > self.config.buffered_bytes:
                raise Busy("requests and responses fill the memory; try again in 1 s.", retry_after=1)
            reserved += count
            self._count_bytes(count)

        try:
            yield reserve
        finally:
            self._count_bytes(-reserved)

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
        # With the engine that will serve: readiness must mean that this very session reproduces the golden cases.
        verify(config.bundle, engine=engine)
        self.reference = load_reference(config.bundle, engine.contract)
        return engine


async def while_connected(disconnect: Awaitable[object], work: Awaitable[Result]) -> Result:
    """The result of `work`; if `disconnect` completes first, the work is cancelled.

    Raises:
        ConnectionResetError: `disconnect` completed first.
    """
    leaving, working = asyncio.ensure_future(disconnect), asyncio.ensure_future(work)
    try:
        await asyncio.wait({leaving, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ConnectionResetError("the client went away")
        return working.result()
    finally:
        for task in (leaving, working):
            task.cancel()
        # Awaited, so that the cancelled work has released its place in the queue before the request ends.
        await asyncio.gather(leaving, working, return_exceptions=True)
