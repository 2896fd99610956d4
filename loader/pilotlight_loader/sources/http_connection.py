"""One keep-alive connection: every wait bounded, an abort from outside, bodies without a copy.

http.client writes requests and reads answers; the socket is ours. Proxies are out of scope: no
variable of the environment is read, connections go straight to the host of the URL.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pilotlight_loader.errors import ReadAbortedError
from pilotlight_loader.sources import plain_receive

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_TIMEOUT_S = 10.0  # for each address of the host, and for each answer of the TLS handshake
SILENCE_TIMEOUT_S = 10.0  # without a single byte
# A server that drips is never silent. So slow an answer is cut off as well: an attempt takes at
# most its silence and its bytes at this rate, which is below any link that loads a model.
MIN_BYTES_PER_S = 4096
MAX_IDLE_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Timeouts:
    connect_s: float = CONNECT_TIMEOUT_S
    silence_s: float = SILENCE_TIMEOUT_S

    def attempt_s(self, nbytes: int) -> float:
        """How long one answer of *nbytes* may take."""
        return self.silence_s + nbytes / MIN_BYTES_PER_S


@dataclass(frozen=True, slots=True)
class Origin:
    """What one connection can be used for."""

    is_tls: bool
    host: str
    port: int


class Connection:
    """For one thread, but for abort(). It connects at its first request."""

    def __init__(self, origin: Origin, timeouts: Timeouts, tls: ssl.SSLContext | None) -> None:
        self.origin = origin
        self.answers = 0  # complete or not: a connection that gave some may have been closed since
        self.deadline_s = 0.0
        self._timeouts = timeouts
        self._tls = tls
        self._http = http.client.HTTPConnection(origin.host, origin.port)
        self._response: http.client.HTTPResponse | None = None
        self._is_owed = False  # a request is out whose answer has not come
        self._lock = threading.Lock()  # between close() and abort(): a number may be used again
        self._socket: socket.socket | None = None
        self._aborted = False

    def ask(
        self, method: str, target: str, headers: Mapping[str, str], deadline_s: float
    ) -> http.client.HTTPResponse:
        """The head of an answer. *deadline_s*, of time.monotonic, holds for its body too.

        Raises OSError (TimeoutError among them), HTTPException, or ReadAbortedError.
        """
        self.deadline_s = deadline_s
        if self._http.sock is None:
            # http.client wants makefile, sendall and close of a socket, as its own tests do.
            self._http.sock = _Wire(self, self._connect())
        self._is_owed = True
        self._http.request(method, target, headers=dict(headers))
        self._response = self._http.getresponse()
        self._is_owed = False
        self.answers += 1
        return self._response

    @property
    def is_reusable(self) -> bool:
        """Whether the last answer was read to its end and the server keeps the connection."""
        is_read = not self._is_owed and (self._response is None or self._response.isclosed())
        return is_read and self._http.sock is not None and not self._aborted

    def receive(self, buffer: WriteableBuffer) -> int:
        """What has come, 0 at the end. Raises TimeoutError after silence, or when time is up."""
        sock = self._socket
        if self._aborted or sock is None:
            raise ReadAbortedError(self.origin.host, "the reader was aborted")
        if time.monotonic() > self.deadline_s:
            raise TimeoutError(f"slower than {MIN_BYTES_PER_S} bytes a second")
        if isinstance(sock, ssl.SSLSocket):
            return sock.recv_into(buffer)
        return plain_receive.receive(sock, buffer, self._timeouts.silence_s)

    def abort(self) -> None:
        """From any thread, at any time: whoever waits for this connection wakes up."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown: it would strip TLS under a reader that goes on.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent."""
        if self._response is not None:
            self._response.close()
        self._http.close()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _connect(self) -> socket.socket:
        addresses = socket.getaddrinfo(
            self.origin.host, self.origin.port, type=socket.SOCK_STREAM
        )  # bounded by the resolver's own time-outs
        failure: OSError = OSError("the host has no address")
        for family, kind, protocol, _, address in addresses:
            try:
                sock = self._own(socket.socket(family, kind, protocol))
                sock.settimeout(self._timeouts.connect_s)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is None:
                    plain_receive.bound_waits(sock, self._timeouts.silence_s)
                    return sock
                sock = self._secured(sock, self._tls)
                sock.settimeout(self._timeouts.silence_s)
                return sock
            except OSError as error:
                failure = error
        raise failure

    def _secured(self, sock: socket.socket, tls: ssl.SSLContext) -> socket.socket:
        # First wrapped and owned, then shaken: so that an abort reaches the handshake.
        wrapped = tls.wrap_socket(
            sock, server_hostname=self.origin.host, do_handshake_on_connect=False
        )
        self._own(wrapped)
        wrapped.do_handshake()
        return wrapped

    def _own(self, sock: socket.socket) -> socket.socket:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = sock
            if self._aborted:
                raise ReadAbortedError(self.origin.host, "the reader was aborted")
        return sock


class _Wire:
    """What http.client sees of the socket. It closes nothing: Connection does."""

    def __init__(self, connection: Connection, sock: socket.socket) -> None:
        self._connection = connection
        self.sendall = sock.sendall

    def makefile(self, _mode: str) -> io.BufferedReader:
        # It buffers 8 KiB, for the head. Of what is longer, the rest is received straight into
        # the caller's memory (CPython, Modules/_io/bufferedio.c, _buffered_readinto_generic).
        return io.BufferedReader(_Incoming(self._connection))

    def close(self) -> None:
        """Connection.close() does."""


class _Incoming(io.RawIOBase):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._connection.receive(buffer)


class ConnectionPool:
    """Idle connections of one store, newest first: a shard is opened over its sibling's."""

    def __init__(self, timeouts: Timeouts, tls: ssl.SSLContext | None = None) -> None:
        self.timeouts = timeouts
        self._tls = tls
        self._lock = threading.Lock()
        self._idle: deque[Connection] = deque()
        self._closed = False

    def take(self, origin: Origin) -> Connection:
        with self._lock:
            for connection in reversed(self._idle):
                if connection.origin == origin:
                    self._idle.remove(connection)
                    return connection
        return self.fresh(origin)

    def fresh(self, origin: Origin) -> Connection:
        return Connection(origin, self.timeouts, self._context() if origin.is_tls else None)

    def give_back(self, connection: Connection) -> None:
        """Keep it where it can be used again, else close it."""
        dropped: Connection | None = connection
        with self._lock:
            if connection.is_reusable and not self._closed:
                self._idle.append(connection)
                full = len(self._idle) > MAX_IDLE_CONNECTIONS
                dropped = self._idle.popleft() if full else None
        if dropped is not None:
            dropped.close()

    def close(self) -> None:
        """Idempotent; connections that are in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _context(self) -> ssl.SSLContext:
        with self._lock:  # once: it reads every certificate authority, some 20 ms
            if self._tls is None:
                self._tls = ssl.create_default_context()
            return self._tls
