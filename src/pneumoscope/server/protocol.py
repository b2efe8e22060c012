"""HTTP/1.1 by uvicorn, with a limit to how long a request's head may take: uvicorn itself waits for ever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_SECONDS = 15.0


class Protocol(HttpToolsProtocol):
    """A connection. It is closed when no whole head has come within `HEAD_SECONDS` of its opening or its first byte."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._idle:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._forget()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._due is None and not self.transport.is_closing():
            self._due = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._close)

    def _close(self) -> None:
        self._due = None
        if self._idle and not self.transport.is_closing():
            self.transport.close()

    @property
    def _idle(self) -> bool:
        """Whether no request is under way."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's annotation leaves the None out
        return cycle is None or cycle.response_complete

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
