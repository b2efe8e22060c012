"""The model's turn: one run at a time, on all the films that were decoded while the last one ran."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from pneumoscope.engine import BATCH, DecodedFilm, Engine, Prediction


class Batcher:
    """Collects films for runs of up to `BATCH`, without waiting for any: alone, a film is run alone.

    To be used on one event loop.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: list[tuple[DecodedFilm, asyncio.Future[Prediction]]] = []
        self._run: asyncio.Task[None] | None = None

    async def decide(self, film: DecodedFilm) -> Prediction:
        """The decision on a film, when its turn has come. A film whose caller is gone by then is left out."""
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._waiting.append((film, answer))
        if self._run is None or self._run.done():
            self._run = asyncio.create_task(self._work())
        return await answer

    def stop(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(cancel_futures=True)

    async def _work(self) -> None:
        while self._waiting:
            wanted = [(film, answer) for film, answer in self._waiting if not answer.done()]
            batch, self._waiting = wanted[:BATCH], wanted[BATCH:]
            films = [film for film, _ in batch]
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._decide, films)
            except Exception as failure:  # noqa: BLE001 (each of those who wait must hear of it)
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(failure)
                continue
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)

    def _decide(self, films: list[DecodedFilm]) -> list[Prediction]:
        return list(self._engine.decide(films))
