"""Folders of films to score in tests, and checks of the Parquet parts that scoring writes."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from pneumoscope.contract import load_contract
from pneumoscope.imaging import DEFAULT_LIMITS
from pneumoscope.phantom import FINDINGS, encode_jpeg, film
from pneumoscope.progress import Listener
from pneumoscope.score.archive_scoring import list_shards
from pneumoscope.score.destination import Destination
from pneumoscope.score.listing import Entry, Folder, Source
from pneumoscope.score.parts import SUFFIX, contract_sha256, read_part
from pneumoscope.score.shards import Shard
from pneumoscope.score.tally import Row
from pneumoscope.score.worker import Options, Scorer, ScoringJob

SHARD_FILMS = 10
DAMAGED_EVERY = 100  # one film in a hundred is damaged
FATAL = "fatal.jpeg"


def drawn_films() -> list[bytes]:
    return [
        encode_jpeg(film(finding, patient=patient, size=(64, 72))) for patient in range(1, 4) for finding in FINDINGS
    ]


def make_films(folder: Path, count: int) -> Path:
    """Small drawn films in folders of a hundred; one in a hundred is cut off, empty, or not an image."""
    contents = drawn_films()
    damaged = [contents[0][:300], b"", b"not an image"]
    for number in range(count):
        path = folder / f"{number // 100:03d}" / f"{number:06d}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        is_damaged = number % DAMAGED_EVERY == DAMAGED_EVERY // 2
        path.write_bytes(damaged[number % 3] if is_damaged else contents[number % len(contents)])
    return folder


def source_of(folder: Path) -> Folder:
    return Folder(path=folder, limits=DEFAULT_LIMITS)


def scorer_of(source: Source, destination: Destination, bundle: Path, options: Options | None = None) -> Scorer:
    return Scorer(
        bundle, ScoringJob(sources=(source,), destination=destination, options=options or Options(), threads=1)
    )


def shards_of(source: Source, bundle: Path, options: Options | None = None, films: int = SHARD_FILMS) -> list[Shard]:
    decision_key = (options or Options()).decision_key(contract_sha256(load_contract(bundle)))
    return list_shards([source], decision_key, films, Listener())


def read_rows(folder: Path) -> list[Row]:
    return [row for path in sorted(folder.glob(f"*{SUFFIX}")) for row in read_part(path.read_bytes())]


def check_each_once(rows: list[Row], count: int) -> None:
    """Every film of `make_films` has one row, and exactly the damaged ones are unread, with a reason."""
    assert Counter(row.document.image for row in rows) == {
        f"{number // 100:03d}/{number:06d}.jpeg": 1 for number in range(count)
    }
    unread = {row.document.image for row in rows if row.unread}
    damaged = range(DAMAGED_EVERY // 2, count, DAMAGED_EVERY)
    assert unread == {f"{number // 100:03d}/{number:06d}.jpeg" for number in damaged}
    assert all(row.document.reasons for row in rows if row.unread)


class Interrupting(Listener):
    """A listener that calls a function once, after this many films; it records the lines that it gets."""

    def __init__(self, after: int, interrupt: Callable[[], None]) -> None:
        self.films, self.after, self.interrupt = 0, after, interrupt
        self.lines: list[str] = []
        self.interrupted = False
        self.task = ""

    @override
    def begin(self, task: str, total: int | None, unit: str, *, done: int = 0) -> None:
        self.task, self.films = task, done

    @override
    def advance(self, count: int) -> None:
        self.films += count
        if self.task == "scoring" and self.films >= self.after and not self.interrupted:
            self.interrupted = True
            self.interrupt()

    @override
    def say(self, line: str) -> None:
        self.lines.append(line)


@dataclass(frozen=True, kw_only=True)
class FatalSource:
    """A source with a film that kills the process that reads it."""

    address: str = "fatal"
    stamp: str = ""
    readers: int = 1

    def is_visible(self) -> bool:
        return True

    def entries(self) -> Iterator[Entry]:
        yield Entry(FATAL, 0, "")

    def reading(self) -> AbstractContextManager[Callable[[Entry], bytes]]:
        return nullcontext(die)


def die(_: Entry) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""
