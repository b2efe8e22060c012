"""Bytes from an address, by range requests that outlive broken connections.

HTTP semantics after RFC 9110: range requests (section 14), `Retry-After` (10.2.3), status codes (15). Why no
library does this: see `fetch`.
"""

import io
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import httpx2
from typing_extensions import Buffer, override

from pneumoscope.errors import ArchiveError, UsageError

Result = TypeVar("Result")

_BUSY = frozenset({408, 425, 429})
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When a server is asked again, and when it is given up.

    A failure after new bytes came does not count towards `attempts`. `first_attempts` is the limit
    as long as the server has sent nothing at all: a machine without a network is told soon.
    """

    timeout: float = 30.0
    attempts: int = 8
    first_attempts: int = 4
    first_wait: float = 1.0
    longest_wait: float = 60.0


PATIENT = Patience()


class Interrupted(Exception):  # noqa: N818  # it is no error yet: the request is made again
    """A request failed in a way that may pass."""

    def __init__(self, why: str, *, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The beginning of a server's answer: where its bytes start, the whole file's size, the bytes."""

    start: int
    total: int | None
    pieces: Iterator[bytes]


class Remote:
    """A file behind an address. Redirects are followed anew for every request: they may expire.

    Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`, …).
    """

    def __init__(self, url: str, *, patience: Patience = PATIENT, say: Callable[[str], None]) -> None:
        self.url, self.patience, self.say = url, patience, say
        headers = {"Accept-Encoding": "identity", "User-Agent": "pneumoscope"}
        try:
            self.client = httpx2.Client(follow_redirects=True, timeout=patience.timeout, headers=headers)
        except (ValueError, ImportError, httpx2.InvalidURL) as failure:
            raise UsageError(f"the proxy that the environment names cannot be used ({failure}).") from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    @contextmanager
    def ask(self, start: int, stop: int | None = None) -> Iterator[Answer]:
        """Ask once for the bytes from `start` to before `stop`, or to the end.

        A server that ignores ranges answers from 0.

        Raises:
            Interrupted: worth asking again.
            ArchiveError, UsageError: not worth it.
        """
        headers = {} if start == 0 and stop is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        try:
            with closing(self._send(headers)) as response:
                yield self._read_head(response, start)
        except httpx2.TransportError as failure:
            raise Interrupted(str(failure) or type(failure).__name__) from failure

    def _send(self, headers: dict[str, str]) -> httpx2.Response:
        try:
            return self.client.send(self.client.build_request("GET", self.url, headers=headers), stream=True)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, ValueError) as failure:
            raise UsageError(
                f"{self.url!r} is not an address that can be fetched, or leads to none ({failure})."
            ) from failure
        except httpx2.TooManyRedirects as failure:
            raise ArchiveError(f"{self.url} redirects in a circle; pass --url with another address.") from failure

    def size(self) -> int | None:
        """The file's size in bytes, as far as the server tells."""

        def attempt() -> int | None:
            with self.ask(0, 1) as answer:
                return answer.total

        return self.insist(attempt, reached=lambda: 0)

    def read(self, start: int, length: int) -> bytes:
        """Exactly these bytes of the file.

        Raises:
            ArchiveError: the server serves no ranges, or was given up.
        """
        held = bytearray()

        def attempt() -> None:
            with self.ask(start + len(held), start + length) as answer:
                if answer.start != start + len(held):
                    raise ArchiveError(f"{self.url} does not serve parts of a file; fetch the whole of it with --full.")
                for piece in answer.pieces:
                    held.extend(piece)
                    if len(held) >= length:
                        break
            if len(held) < length:
                raise Interrupted(f"it ended {length - len(held):,} bytes early")

        self.insist(attempt, reached=lambda: len(held))
        return bytes(held[:length])

    def insist(self, attempt: Callable[[], Result], *, reached: Callable[[], int]) -> Result:
        """The result of `attempt`, called until it ends well; wait longer after every failure without progress.

        Args:
            attempt: raises Interrupted when it should be called again.
            reached: how many bytes have come so far.

        Raises:
            ArchiveError: too many failures in a row without a new byte.
        """
        failures, begun = 0, reached()
        furthest = begun
        while True:
            try:
                return attempt()
            except Interrupted as failure:
                failures = 0 if reached() > furthest else failures + 1
                furthest = max(furthest, reached())
                most = self.patience.attempts if furthest > begun else self.patience.first_attempts
                if failures >= most:
                    hint = "What came is kept." if reached() else "Is this machine online?"
                    raise ArchiveError(
                        f"{self.url} cannot be fetched ({failure}; asked {failures} times). "
                        f"{hint} Run the same command again to go on, or pass --url with a mirror's address."
                    ) from failure
                self._wait(failure, failures)

    def _wait(self, failure: Interrupted, failures: int) -> None:
        patience = self.patience
        longer = patience.first_wait * 2 ** max(0, failures - 1)
        seconds = min(max(longer, failure.wait), patience.longest_wait)
        self.say(f"connection lost ({failure}); trying again in {seconds:.0f} s")
        time.sleep(seconds * random.uniform(0.75, 1.0))  # noqa: S311  # jitter, no secret

    def _read_head(self, response: httpx2.Response, start: int) -> Answer:
        status = response.status_code
        said = f"it answers {status} {response.reason_phrase}".strip()
        if status >= 500 or status in _BUSY:
            raise Interrupted(said, wait=_seconds(response.headers.get("Retry-After", "")))
        place = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if status == 416:  # nothing from there on; a server should say how much there is, and need not
            total = start if place is None or place[3] == "*" else int(place[3])
            return Answer(start=total, total=total, pieces=iter(()))
        if status not in (200, 206):
            raise ArchiveError(
                f"{self.url} cannot be fetched: {said}; check the address, or pass --url with a mirror's."
            )
        pieces = response.iter_raw()  # as they come: a size would hold bytes back, and lose them in a break
        if status == 200:
            length = response.headers.get("Content-Length", "")
            return Answer(start=0, total=int(length) if _LENGTH.fullmatch(length) else None, pieces=pieces)
        if place is None or place[1] is None:
            raise Interrupted("its answer does not say which part of the file it is")
        return Answer(start=int(place[1]), total=None if place[3] == "*" else int(place[3]), pieces=pieces)


class RangeFile(io.RawIOBase):
    """A remote file as Python reads files; give it to `io.BufferedReader` for few, large requests."""

    def __init__(self, remote: Remote) -> None:
        super().__init__()
        self.remote, self.position = remote, 0
        size = remote.size()
        if size is None:
            raise ArchiveError(f"{remote.url} does not say how large it is; fetch the whole of it with --full.")
        self.size = size

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self.position = base + offset
        return self.position

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        length = max(0, min(len(view), self.size - self.position))
        if length:
            view[:length] = self.remote.read(self.position, length)
        self.position += length
        return length


def _seconds(retry_after: str) -> float:
    """`Retry-After` in seconds; its form as a date is not used by the servers we meet."""
    return float(retry_after) if _LENGTH.fullmatch(retry_after) else 0.0
