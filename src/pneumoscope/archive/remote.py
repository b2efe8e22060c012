"""Reading a remote file by range requests, with retries after broken connections.

HTTP semantics by RFC 9110: range requests (section 14), `Retry-After` (10.2.3), status codes (15). `fetch` explains
why no library is used.
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

_RETRYABLE = frozenset({408, 425, 429})  # besides all 5xx
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When a request is repeated, and when the download is given up. Times are in seconds.

    `attempts` limits failures in a row without a new byte. `first_attempts` is the limit as long as no request has
    succeeded or brought a byte of the file, so that a machine without a network gets its error soon.
    """

    timeout: float = 30.0
    attempts: int = 8
    first_attempts: int = 4
    first_wait: float = 1.0
    longest_wait: float = 60.0


DEFAULT_RETRY = RetryPolicy()


class TransferInterrupted(Exception):  # noqa: N818  # not an error yet: the request is repeated
    """A request failed for a reason that may be temporary; `wait`: how many seconds the server asks to wait, or 0."""

    def __init__(self, why: str, *, wait: float = 0.0, refused: bool = False) -> None:
        super().__init__(why)
        self.wait = wait
        self.refused = refused  # by the server, which is thus within reach


@dataclass(frozen=True, kw_only=True)
class RangeResponse:
    """A server's response: the offset of its first byte, the size of the whole file if it is known, and the bytes."""

    start: int
    total: int | None
    pieces: Iterator[bytes]


class Remote:
    """A file at a URL. Redirects are followed anew for every request, as their targets may expire.

    Proxies are taken from the environment (`HTTPS_PROXY`, `NO_PROXY`, …).
    """

    def __init__(self, url: str, *, policy: RetryPolicy = DEFAULT_RETRY, say: Callable[[str], None]) -> None:
        self.url, self.policy, self.say = url, policy, say
        self._answered = False  # whether any request has succeeded or brought a byte of the file
        # Without "identity", ranges and sizes could be those of a compressed transfer.
        headers = {"Accept-Encoding": "identity", "User-Agent": "pneumoscope"}
        try:
            self.client = httpx2.Client(follow_redirects=True, timeout=policy.timeout, headers=headers)
        except (ValueError, ImportError, httpx2.InvalidURL) as failure:
            raise UsageError(f"the proxy in the environment cannot be used ({failure}).") from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    @contextmanager
    def request(self, start: int, stop: int | None = None) -> Iterator[RangeResponse]:
        """Request once the bytes from `start` up to but not including `stop`, or to the end.

        The response of a server that ignores ranges starts at 0.

        Raises:
            TransferInterrupted: the request should be repeated.
            ArchiveError, UsageError: repeating it would not help.
        """
        headers = {} if start == 0 and stop is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        try:
            with closing(self._send(headers)) as response:
                yield self._read_head(response, start)
        except httpx2.TransportError as failure:
            raise TransferInterrupted(str(failure) or type(failure).__name__) from failure

    def _send(self, headers: dict[str, str]) -> httpx2.Response:
        try:
            return self.client.send(self.client.build_request("GET", self.url, headers=headers), stream=True)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, ValueError) as failure:
            raise UsageError(
                f"{self.url!r} is not a URL that can be fetched, or redirects to one that cannot ({failure})."
            ) from failure
        except httpx2.TooManyRedirects as failure:
            raise ArchiveError(f"{self.url} redirects too often; pass --url with another URL.") from failure

    def size(self) -> int | None:
        """The file's size in bytes; None if the server does not state it."""

        def attempt() -> int | None:
            # One byte is enough: Content-Range states the size of the whole file.
            with self.request(0, 1) as response:
                return response.total

        return self.retry(attempt, progress=lambda: 0)

    def read(self, start: int, length: int) -> bytes:
        """Read exactly these bytes of the file.

        Raises:
            ArchiveError: the server does not support ranges, or the retries were exhausted.
        """
        received = bytearray()

        def attempt() -> None:
            with self.request(start + len(received), start + length) as response:
                # A server that ignores Range sends the whole file again, from its start.
                if response.start != start + len(received):
                    raise ArchiveError(f"{self.url} does not serve parts of a file; fetch the whole file with --full.")
                for piece in response.pieces:
                    received.extend(piece)
                    if len(received) >= length:
                        break
            if len(received) < length:
                raise TransferInterrupted(f"it ended {length - len(received):,} bytes early")

        self.retry(attempt, progress=lambda: len(received))
        return bytes(received[:length])

    def retry(self, attempt: Callable[[], Result], *, progress: Callable[[], int]) -> Result:
        """Call `attempt` until it succeeds, and return its result. Waits grow with every failure without progress.

        Args:
            attempt: raises TransferInterrupted if it should be called again.
            progress: how many bytes have been received so far.

        Raises:
            ArchiveError: too many failures in a row without a new byte.
        """
        failures, furthest = 0, progress()
        while True:
            try:
                result = attempt()
            except TransferInterrupted as failure:
                # A download over a bad line may break often; only failures without a new byte count.
                failures = 0 if progress() > furthest else failures + 1
                self._answered |= progress() > furthest
                furthest = max(furthest, progress())
                limit = self.policy.attempts if self._answered else self.policy.first_attempts
                if failures >= limit:
                    hint = "The server is busy or out of order." if failure.refused else "Is this machine online?"
                    if self._answered or progress():
                        hint = "Whatever is already on the disk is kept."
                    raise ArchiveError(
                        f"{self.url} cannot be fetched ({failure}; tried {failures} times). "
                        f"{hint} Run the same command again to continue, or pass --url with a mirror."
                    ) from failure
                self._wait(failure, failures)
            else:
                self._answered = True
                return result

    def _wait(self, failure: TransferInterrupted, failures: int) -> None:
        policy = self.policy
        longer = policy.first_wait * 2 ** max(0, failures - 1)
        seconds = min(max(longer, failure.wait), policy.longest_wait)
        self.say(f"the transfer was interrupted ({failure}); trying again in {seconds:.0f} s")
        time.sleep(seconds * random.uniform(0.75, 1.0))  # noqa: S311  # jitter, not a secret

    def _read_head(self, response: httpx2.Response, start: int) -> RangeResponse:
        status = response.status_code
        status_line = f"the server answers {status} {response.reason_phrase}".strip()
        if status >= 500 or status in _RETRYABLE:
            raise TransferInterrupted(status_line, wait=_seconds(response.headers.get("Retry-After", "")), refused=True)
        place = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if status == 416:  # nothing at or after `start`; the server should state the size, but need not
            total = start if place is None or place[3] == "*" else int(place[3])
            return RangeResponse(start=total, total=total, pieces=iter(()))
        if status not in (200, 206):
            raise ArchiveError(
                f"{self.url} cannot be fetched: {status_line}; check the URL, or pass --url with a mirror."
            )
        pieces = response.iter_raw()  # with a chunk size, bytes held back would be lost when the connection breaks
        if status == 200:
            length = response.headers.get("Content-Length", "")
            return RangeResponse(start=0, total=int(length) if _LENGTH.fullmatch(length) else None, pieces=pieces)
        if place is None or place[1] is None:
            raise TransferInterrupted("the server does not state which part of the file it sends")
        return RangeResponse(start=int(place[1]), total=None if place[3] == "*" else int(place[3]), pieces=pieces)


class RangeFile(io.RawIOBase):
    """A remote file as a Python file object; wrap it in `io.BufferedReader`, so that requests are few and large.

    Raises:
        ArchiveError: the server does not state the file's size.
    """

    def __init__(self, remote: Remote) -> None:
        super().__init__()
        self.remote, self.position = remote, 0
        size = remote.size()
        if size is None:
            raise ArchiveError(f"{remote.url} does not state its size; fetch the whole file with --full.")
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
    """`Retry-After` in seconds; 0 for its form as a date, which the known servers do not use."""
    return float(retry_after) if _LENGTH.fullmatch(retry_after) else 0.0
