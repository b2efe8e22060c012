"""How long work tells what it is doing, without deciding where that is shown."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


class Listener:
    """Hears about long work. This one keeps silent; the command line shows it."""

    @contextmanager
    def progress(self, task: str, total: int | None, unit: str, *, done: int = 0) -> Iterator[None]:
        """A task for as long as the block runs; see `begin`."""
        self.begin(task, total, unit, done=done)
        try:
            yield
        finally:
            self.end()

    def track(self, task: str, results: Iterable[Result], total: int, unit: str = "images") -> Iterator[Result]:
        """A task that ends with `results`: each of them, as it is taken and done with, is a unit of `total`."""
        with self.progress(task, total, unit):
            for result in results:
                yield result
                self.advance(1)

    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        """A task of `total` units (None: not known) has begun; `done` of them were done before.

        The unit `B` is bytes.
        """

    def advance(self, count: int) -> None:
        """`count` more units of the current task are done; fewer, if it had to start over."""

    def end(self) -> None:
        """The current task is over, finished or not."""

    def say(self, line: str) -> None:
        """One line worth keeping, such as an epoch's figures."""


SILENT = Listener()
