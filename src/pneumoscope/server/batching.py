"""Batches for the model: one run at a time, on all the films that were decoded during the run before."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from pneumoscope.engine import BATCH, DecodedFilm, Engine, Prediction


class Batcher:
    """Collects films for runs of up to `BATCH`, without waiting for more: a single film is run at once.

    All calls must come from one event loop.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: list[tuple[DecodedFilm, asyncio.Future[Prediction]]] = []
        self._running: asyncio.Task[None] | None = None

    async def decide(self, film: DecodedFilm) -> Prediction:
        """The decision on a film, after the runs before it. A film whose caller has left by then is not run."""
        decision: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._waiting.append((film, decision))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run_batches())
        return await decision

    def stop(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(cancel_futures=True)

    async def _run_batches(self) -> None:
        while self._waiting:
            # A future is done before its turn if its request was cancelled.
            pending = [(film, decision) for film, decision in self._waiting if not decision.done()]
            batch, self._waiting = pending[:BATCH], pending[BATCH:]
            films = [film for film, _ in batch]
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._decide, films)
            except Exception as failure:  # noqa: BLE001 (every waiting request must get the error)
                for _, decision in batch:
                    if not decision.done():
                        decision.set_exception(failure)
                continue
            for (_, decision), result in zip(batch, results, strict=True):
                if not decision.done():
                    decision.set_result(result)

    def _decide(self, films: list[DecodedFilm]) -> list[Prediction]:
        return list(self._engine.decide(films))
