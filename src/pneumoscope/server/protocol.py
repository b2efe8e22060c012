"""HTTP/1.1 by uvicorn on h11, with time limits for a request's head and for a client to read the response.

h11 and not httptools: httptools treats a request that offers an upgrade (`Upgrade: h2c`, as some clients send by
default) as the end of HTTP and loses its body. RFC 9110 section 7.8 lets a server ignore the offer.

This is a subclass because uvicorn 0.54 has a setting for neither limit (`timeout_keep_alive` begins after a response).
Hypercorn 0.18 and granian 2.8 limit heads but not readers; Linux's TCP_USER_TIMEOUT does not stop a reader that takes
a byte now and then.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEAD_SECONDS = 15.0
READER_SECONDS = 60.0


class Protocol(H11Protocol):
    """A connection that is closed when no whole head arrives in time, or when the client stops reading the response."""

    _head: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = self.loop.call_later(READER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._reader)

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head)
        _cancel(self._reader)
        super().connection_lost(exc)

    def _await_head(self) -> None:
        """Start the head's timer if no request is under way; cancel it if one is."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's annotation omits the None
        if cycle is not None and not cycle.response_complete:
            _cancel(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
