"""uvicorn's HTTP with bounds on what it reads before a request is anybody's."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_TIMEOUT_S = 30.0
_HEAD_BYTES = 64 << 10  # request line and headers; checked between reads of up to 256 KiB


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose next request does not come, or does not end its headers.

    uvicorn waits for ever for a first request, and collects headers of any length: both before
    anything asks for a key. Between two requests its own keep-alive time-out holds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_has_come()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._head_bytes > _HEAD_BYTES:
            self.transport.close()
            return
        super().data_received(data)
        if self._in_head:  # still: what came with the headers' end may be a body
            self._head_bytes += len(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_has_come()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._deadline = self.loop.call_later(_HEAD_TIMEOUT_S, self.transport.close)

    def _head_has_come(self) -> None:
        self._in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
