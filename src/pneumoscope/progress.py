"""How long-running work reports its progress, without deciding where that is shown."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


class Listener:
    """Receives progress and messages of long-running work. This class ignores them; the command line shows them."""

    @contextmanager
    def progress(self, task: str, total: int | None, unit: str, *, done: int = 0) -> Iterator[None]:
        """Report a task for as long as the block runs; see `begin`."""
        self.begin(task, total, unit, done=done)
        try:
            yield
        finally:
            self.end()

    def track(self, task: str, results: Iterable[Result], total: int, unit: str = "images") -> Iterator[Result]:
        """Yield `results` and report a task of `total` units: a result counts as done when the next is requested."""
        with self.progress(task, total, unit):
            for result in results:
                yield result
                self.advance(1)

    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        """A task of `total` units (None: not known) has begun; `done` of them were done in an earlier run.

        The unit `B` stands for bytes.
        """

    def advance(self, count: int) -> None:
        """`count` more units of the current task are done; `count` is negative if work had to start over."""

    def end(self) -> None:
        """The current task has ended, finished or not."""

    def say(self, line: str) -> None:
        """One line worth keeping, such as an epoch's figures."""


SILENT = Listener()
