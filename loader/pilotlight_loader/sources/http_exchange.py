"""Ask for one object until its server has answered: redirected, signed again, reconnected."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping

from pilotlight_loader.errors import (
    AccessDeniedError,
    LocationError,
    RangeAnswerError,
    ReadAbortedError,
    SourceReadError,
    TransientReadError,
)
from pilotlight_loader.sources.http_answer import Answer
from pilotlight_loader.sources.http_connection import Connection, ConnectionPool
from pilotlight_loader.sources.http_route import HttpRequest, Route

MAX_REDIRECTS = 5  # the hub needs one, or two for a repository that was renamed
MAX_ERROR_BODY_BYTES = 64 * 1024
NETWORK_ERRORS = (OSError, http.client.HTTPException)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Exchange:
    """Owns at most one connection. For one thread, but for abort()."""

    def __init__(self, location: str, route: Route, pool: ConnectionPool) -> None:
        self._location = location
        self._route = route
        self._pool = pool
        self._lock = threading.Lock()  # between abort() and a change of the connection
        self._connection: Connection | None = None
        self._aborted = False

    def ask(
        self, headers: Mapping[str, str], deadline_s: float
    ) -> tuple[Answer, http.client.HTTPResponse]:
        """An answer that is no redirect; of one that is no success the body has been read.

        Raises NETWORK_ERRORS, ReadAbortedError, RangeAnswerError.
        """
        was_renewed = False
        for _ in range(MAX_REDIRECTS + 2):
            request = self._route.current()
            response = self._send(request, headers, deadline_s)
            answer = self._answer(response)
            to = answer.headers.get("location")
            if answer.status in _REDIRECTS and to is not None:
                self._route.follow(request, to, self._location)
            elif was_renewed or answer.status < 400:
                return answer, response
            elif self._route.renew(request, answer.status, answer.error_code):
                was_renewed = True
            else:
                return answer, response
        self._route.restart()
        raise RangeAnswerError(self._location, f"more than {MAX_REDIRECTS} redirects")

    def head(self, request: HttpRequest, deadline_s: float) -> Answer:
        """The answer to a HEAD, whatever it is: not redirected, not signed again.

        Raises NETWORK_ERRORS, ReadAbortedError.
        """
        response = self._send(request, {}, deadline_s, method="HEAD")
        response.read()  # there is no body; http.client wants to be told so
        return Answer(response.status, _by_lower_name(response))

    def abort(self) -> None:
        """From any thread."""
        with self._lock:
            self._aborted = True
            if self._connection is not None:
                self._connection.abort()

    @property
    def is_aborted(self) -> bool:
        return self._aborted

    def release(self) -> None:
        """Give the connection back; one with an answer that was not read to its end is closed."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)

    def _send(
        self,
        request: HttpRequest,
        headers: Mapping[str, str],
        deadline_s: float,
        method: str = "GET",
    ) -> http.client.HTTPResponse:
        connection = self._connection_to(request, is_fresh=False)
        # Of an encoded body no range could be checked.
        sent = {"Host": request.host, "Accept-Encoding": "identity", **request.headers, **headers}
        try:
            return connection.ask(method, request.target, sent, deadline_s)
        except (ConnectionError, http.client.BadStatusLine):
            # The server may close an idle connection at any time: no failure, and no attempt.
            if connection.answers == 0 or self._aborted:
                raise
        connection = self._connection_to(request, is_fresh=True)
        return connection.ask(method, request.target, sent, deadline_s)

    def _connection_to(self, request: HttpRequest, *, is_fresh: bool) -> Connection:
        held = self._connection
        if held is not None:
            if not is_fresh and held.origin == request.origin and held.is_reusable:
                return held
            self.release()
        take = self._pool.fresh if is_fresh else self._pool.take
        connection = take(request.origin)
        with self._lock:
            self._connection = connection
            if self._aborted:
                raise ReadAbortedError(self._location, "the reader was aborted")
        return connection

    def _answer(self, response: http.client.HTTPResponse) -> Answer:
        headers = _by_lower_name(response)
        if response.status < 300:
            return Answer(response.status, headers)
        # Read to its end, so that the connection can be used again, unless it is long.
        return Answer(response.status, headers, response.read(MAX_ERROR_BODY_BYTES))


def _by_lower_name(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def network_error(error: Exception, location: str) -> SourceReadError:
    """The loader's name for what a socket or http.client raised."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return AccessDeniedError(location, f"the server's certificate: {error.verify_message}")
    if isinstance(error, http.client.InvalidURL):  # its message repeats the URL, signature and all
        return LocationError(location, "not a valid URL")
    if isinstance(error, TimeoutError):
        return TransientReadError(location, f"timed out: {error}")
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
        return LocationError(location, "there is no such host")
    return TransientReadError(location, f"{type(error).__name__}: {error}")
