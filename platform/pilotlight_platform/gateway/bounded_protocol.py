"""uvicorn's HTTP with bounds on how long a client may keep it waiting, and on what it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_PATIENCE_S = 30.0  # for headers in all; for a body, and for an answer to be taken, and besides
_SLOWEST_BYTES_PER_S = 16 << 10
_FRAMING_BYTES = 64 << 10  # headers, chunk sizes or trailers without a byte of a body between


class BoundedProtocol(HttpToolsProtocol):
    """Ends a connection whose client sends no request, no end of one, or takes no answer.

    uvicorn waits for ever for each of these, the first two before anything asks for a key.
    A request that comes before the one ahead of it is answered is dropped, and the connection
    closed after that answer: uvicorn, which would queue it, stops reading then and sees no hang-up.
    Between two requests its own keep-alive time-out holds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading: asyncio.TimerHandle | None = None  # until the request has come
        self._writing: asyncio.TimerHandle | None = None  # until all that was written is taken
        self._framing_bytes = 0
        self._body_bytes: int | None = None  # None: no request has begun its body
        self._body_from_s = 0.0
        self._dropping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # pause_writing: the kernel did not take it all
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_has_come()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._answering and self._body_bytes is None:
            self._drop_the_rest()
        if self._dropping:
            return
        if self._framing_bytes > _FRAMING_BYTES:
            self._refuse(431, "Too many bytes of headers.")
            return
        if self._reading is None and not self._answering:
            self._expect_request()
        self._framing_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":  # nobody tunnels: its answer is the last
                return self._drop_the_rest()
            self._parse_without_upgrade(data[upgrade.args[0] :])
        except HttpParserError:
            self._refuse(400, "Invalid HTTP request received.")

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Read a request that asks for another protocol as one that does not.

        There is none, and httptools leaves out its body, which Java's client sends all the same.
        """
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = HttpRequestParser(self)
        self._parse(b"".join([*head, b"\r\n", rest]))

    def on_message_begin(self) -> None:
        if self._answering:
            self._drop_the_rest()
        else:
            super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body_bytes is None and not self._dropping:  # else a trailer, which nobody reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._dropping or self._asks_to_upgrade:
            return
        self._request_has_come()
        self._framing_bytes = self._body_bytes = 0
        self._body_from_s = self.loop.time()
        self._reading = self.loop.call_later(_PATIENCE_S, self._look_at_body)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._body_bytes is not None:
            self._framing_bytes = 0
            self._body_bytes += len(body)
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._dropping or self._asks_to_upgrade:
            return
        self._request_has_come()
        self._body_bytes = None
        super().on_message_complete()
        if not self._answering:  # it was answered already
            self._expect_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(
            _patience_s(self.transport.get_write_buffer_size()), self.transport.abort
        )

    def resume_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    @property
    def _asks_to_upgrade(self) -> bool:
        asks: bool = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        return asks

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _drop_the_rest(self) -> None:
        self._dropping = True
        self.cycle.keep_alive = False

    def _expect_request(self) -> None:
        self._framing_bytes = 0
        self._reading = self.loop.call_later(_PATIENCE_S, self._no_request)

    def _request_has_come(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _no_request(self) -> None:
        if self._framing_bytes:
            self._refuse(408, "The headers did not come in time.")
        else:
            self.transport.close()

    def _look_at_body(self) -> None:
        assert self._body_bytes is not None
        left_s = self._body_from_s + _patience_s(self._body_bytes) - self.loop.time()
        if left_s > 0:
            self._reading = self.loop.call_later(left_s, self._look_at_body)
        elif self.cycle.response_complete:
            self.transport.close()
        else:
            self._refuse(408, "The body did not come in time.")

    def _refuse(self, status: int, why: str) -> None:
        """Answer outside of the app, unless that has begun to."""
        if self._answering and self.cycle.response_started:
            self.transport.abort()
            return
        body = f"{why}\n".encode()
        self.transport.write(
            STATUS_LINE[status] + b"content-type: text/plain; charset=utf-8\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()


def _patience_s(nbytes: int) -> float:
    return _PATIENCE_S + nbytes / _SLOWEST_BYTES_PER_S
