"""HTTP/1.1 by uvicorn on h11, with limits to what it waits for without end: a request's head, a reader of answers.

h11 and not httptools, which takes a request that offers an upgrade (`Upgrade: h2c`, as some clients do by default)
for the end of HTTP and loses its body; RFC 9110 section 7.8 lets a server ignore the offer.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEAD_SECONDS = 15.0
READER_SECONDS = 60.0


class Protocol(H11Protocol):
    """A connection. It ends when a whole head does not come, or an answer is not read at all, in time."""

    _head: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._idle:
            self._expect_head()
        else:
            self._stop_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = asyncio.get_running_loop().call_later(READER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head()
        self._stop_reader()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._head is None and not self.transport.is_closing():
            self._head = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._close)

    def _close(self) -> None:
        self._head = None
        if self._idle and not self.transport.is_closing():
            self.transport.close()

    @property
    def _idle(self) -> bool:
        """Whether no request is under way."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's annotation leaves the None out
        return cycle is None or cycle.response_complete

    def _stop_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
