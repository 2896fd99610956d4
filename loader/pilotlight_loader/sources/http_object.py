"""One HTTP(S) object by ranged GETs, straight into memory, of one pinned version."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from pilotlight_loader.errors import (
    RangeAnswerError,
    ReadAbortedError,
    TransientReadError,
)
from pilotlight_loader.sources.http_answer import (
    Pin,
    check_part,
    error_of,
    pin_of,
    pin_of_head,
    sent_bytes,
    tells_no_total,
)
from pilotlight_loader.sources.http_connection import (
    CONNECT_TIMEOUT_S,
    SILENCE_TIMEOUT_S,
    ConnectionPool,
    Timeouts,
)
from pilotlight_loader.sources.http_exchange import NETWORK_ERRORS, Exchange, network_error
from pilotlight_loader.sources.http_route import Route
from pilotlight_loader.sources.source import ObjectVersion, Reader

# S3 gives 85-90 MB/s a connection (AWS, "Horizontal Scaling and Request Parallelization"):
# 16 fill 10 Gbit/s. Its guide has 8-16 MB ranges: at 8 MiB the request's round trip of some
# 20 ms is a fifth of a part's time, and 16 parts in flight are 128 MiB of staging. On loopback
# (nginx, two busy cores, 4 and 8 connections) this reads into memory at 0.99-1.04 of the rate of
# bare sockets whose bytes are thrown away: 1.23 and 1.24 GB/s, 1.46 and 1.46.
PARALLEL = 16
PART_BYTES = 8 * 1024 * 1024
_SUCCESS = (200, 206)


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How HTTP(S) is spoken, also to object stores and the hub."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # Authorization, …
    allow_unpinned: bool = False  # read objects of which nobody could say whether they changed
    pin_by_head: bool = True  # False: for a server whose HEAD names another ETag than its GET
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    silence_timeout_s: float = SILENCE_TIMEOUT_S
    parallel: int = PARALLEL
    part_bytes: int = PART_BYTES
    tls: ssl.SSLContext | None = field(default=None, repr=False)  # None: the system's authorities

    def pool(self) -> ConnectionPool:
        return ConnectionPool(Timeouts(self.connect_timeout_s, self.silence_timeout_s), self.tls)


def open_object(
    location: str, route: Route, pool: ConnectionPool, options: HttpOptions
) -> HttpSource:
    """Pin the present version of the object that *route* leads to.

    By a HEAD, which costs no byte of the object; where its answer is not one that a GET must
    have as well (pin_of_head), by a GET of byte 0. Every range that follows is checked against
    the pin: a HEAD that lies ends in ObjectChangedError, not in mixed bytes.
    """
    exchange = Exchange(location, route, pool)
    try:
        pinned = _pin_by_head(exchange, route, pool) if options.pin_by_head else None
    except NETWORK_ERRORS as error:
        raise network_error(error, location) from error
    finally:
        exchange.release()
    if pinned is not None:
        return HttpSource(location, route, pool, pinned, options)
    return open_with_beginning(location, route, pool, options, 1)[0]


def open_with_beginning(
    location: str, route: Route, pool: ConnectionPool, options: HttpOptions, nbytes: int
) -> tuple[HttpSource, bytearray]:
    """Pin the present version by a GET of its first *nbytes*, and give them: one round trip.

    Fewer where it has fewer, none where the server knows no ranges.
    """
    exchange = Exchange(location, route, pool)
    try:
        deadline_s = time.monotonic() + pool.timeouts.attempt_s(nbytes)
        answer, response = exchange.ask({"Range": f"bytes=0-{nbytes - 1}"}, deadline_s)
        if answer.status not in (*_SUCCESS, 416):
            raise error_of(answer, location)
        if tells_no_total(answer, location):
            pin = _pin_by_whole(location, route, pool, options)
            check_part(answer, pin, 0, min(nbytes, sent_bytes(answer, location)), location)
        else:
            pin = pin_of(answer, location, allow_unpinned=options.allow_unpinned, asked=nbytes)
        beginning = bytearray(sent_bytes(answer, location))
        receive_body(response, memoryview(beginning), location)
    except NETWORK_ERRORS as error:
        raise network_error(error, location) from error
    finally:
        exchange.release()
    return HttpSource(location, route, pool, pin, options), beginning


def _pin_by_whole(location: str, route: Route, pool: ConnectionPool, options: HttpOptions) -> Pin:
    """Of `Content-Range: bytes 0-9/*` (RFC 9110, 14.4) no length is known: ask for all of it.

    Not by a HEAD, which is neither redirected nor answered everywhere. The connection is closed
    behind the answer's head; what was on its way by then, some 100 kB, is lost.
    """
    exchange = Exchange(location, route, pool)
    try:
        answer, _ = exchange.ask({}, time.monotonic() + pool.timeouts.attempt_s(1))
        if answer.status != HTTPStatus.OK:
            raise error_of(answer, location)
        return pin_of(answer, location, allow_unpinned=options.allow_unpinned)
    finally:
        exchange.release()


def _pin_by_head(exchange: Exchange, route: Route, pool: ConnectionPool) -> Pin | None:
    request = route.head()
    if request is None:
        return None
    try:
        return pin_of_head(exchange.head(request, time.monotonic() + pool.timeouts.attempt_s(1)))
    except TimeoutError:
        raise  # a GET would wait as long again
    except NETWORK_ERRORS:
        exchange.release()
        return None  # as from a server that hangs up on what it does not know; a GET will tell


class HttpSource:
    """One object. Its connections are the store's."""

    def __init__(
        self, location: str, route: Route, pool: ConnectionPool, pin: Pin, options: HttpOptions
    ) -> None:
        self.location = location
        self.pin = pin
        self.version: ObjectVersion = pin.version
        self.parallel = options.parallel
        self.part_bytes = options.part_bytes
        self._route = route
        self._pool = pool

    def reader(self) -> Reader:
        return HttpReader(self.location, self.pin, self._route, self._pool)

    def close(self) -> None:
        """Nothing: the store closes its connections."""


class HttpReader:
    """One connection at a time, kept between reads."""

    def __init__(self, location: str, pin: Pin, route: Route, pool: ConnectionPool) -> None:
        self._location = location
        self._pin = pin
        self._attempt_s = pool.timeouts.attempt_s
        self._exchange = Exchange(location, route, pool)

    def read_into(self, start: int, into: memoryview) -> None:
        view = into.cast("B")
        if start < 0 or start + len(view) > self._pin.nbytes:
            raise RangeAnswerError(
                self._location,
                f"bytes {start} to {start + len(view)} were asked for, it has {self._pin.nbytes}",
            )
        if self._exchange.is_aborted:
            raise ReadAbortedError(self._location, "the reader was aborted")
        if not view:
            return
        try:
            self._read(start, view)
        except BaseException as error:
            self._exchange.release()  # whatever is left of the answer would be taken for the next
            if self._exchange.is_aborted and isinstance(error, Exception):
                raise ReadAbortedError(self._location, "the reader was aborted") from error
            if isinstance(error, NETWORK_ERRORS):
                raise network_error(error, self._location) from error
            raise

    def abort(self) -> None:
        self._exchange.abort()

    def close(self) -> None:
        self._exchange.release()

    def _read(self, start: int, view: memoryview) -> None:
        headers = {"Range": f"bytes={start}-{start + len(view) - 1}", **self._pin.conditions()}
        deadline_s = time.monotonic() + self._attempt_s(len(view))
        answer, response = self._exchange.ask(headers, deadline_s)
        if answer.status not in (*_SUCCESS, 416):
            raise error_of(answer, self._location)
        check_part(answer, self._pin, start, len(view), self._location)
        receive_body(response, view, self._location)


def receive_body(response: http.client.HTTPResponse, view: memoryview, location: str) -> None:
    """Fill *view* with all of an answer's body. Raises TransientReadError, RangeAnswerError."""
    done = 0
    while done < len(view):
        count = response.readinto(view[done:])
        if count == 0:
            raise TransientReadError(
                location, f"the connection ended after {done} of {len(view)} bytes"
            )
        done += count
    if view and not response.isclosed() and response.read(1):  # a chunked body has an end to read
        raise RangeAnswerError(location, f"more than the {len(view)} bytes asked for")
