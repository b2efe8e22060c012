"""Listeners for tests."""

from pneumoscope.progress import Listener


class Recorder(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tasks: list[tuple[str, int]] = []

    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        assert total is not None
        self.tasks.append((f"{task} {unit}", total - done))

    def say(self, line: str) -> None:
        self.lines.append(line)
