"""A real HTTP server for objects, on loopback, that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STALL_LIMIT_S = 30.0  # a test that fails still ends


@dataclass
class StoredObject:
    data: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Seen:
    """One request that came in."""

    path: str
    headers: Mapping[str, str]  # names in lower case
    connection: int  # number of the connection it came over
    method: str


class Handler(BaseHTTPRequestHandler):
    """Ranges and If-Match as RFC 9110 has them, unless a behaviour takes over."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner.requests.append(Seen(self.path, headers, id(self.connection), self.command))
        with owner.lock:
            script = owner.scripts.get(self.path.partition("?")[0])
            behaviour = script.popleft() if script else owner.always
        (behaviour or Handler.send_object)(self)

    def do_HEAD(self) -> None:
        """What the next GET will get, without its body, unless *heads* has an answer."""
        owner = self.server.owner
        path = self.path.partition("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner.requests.append(Seen(self.path, headers, id(self.connection), self.command))
        with owner.lock:
            script = owner.scripts.get(path)
            behaviour = owner.heads.get(path) or (script[0] if script else owner.always)
        (behaviour or Handler.send_object)(self)

    def stored(self) -> StoredObject | None:
        return self.server.owner.objects.get(self.path.partition("?")[0])

    def asked_range(self, nbytes: int) -> tuple[int, int]:
        """[start, end)"""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (0, nbytes) if found is None else (int(found[1]), min(int(found[2]) + 1, nbytes))

    def send_object(self) -> None:
        stored = self.stored()
        if stored is None:
            return self.send_status(404)
        if self.headers.get("If-Match", stored.headers.get("ETag")) != stored.headers.get("ETag"):
            return self.send_status(412)
        return self.send_part(stored)

    def send_part(self, stored: StoredObject) -> None:
        size = len(stored.data)
        if "Range" not in self.headers:
            return self.send_answer(200, stored.headers, stored.data)
        start, end = self.asked_range(size)
        if start >= size:
            return self.send_answer(416, {"Content-Range": f"bytes */{size}"}, b"")
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{size}", **stored.headers}
        return self.send_answer(206, headers, stored.data[start:end])

    def send_answer(
        self, status: int, headers: Mapping[str, str], body: bytes, announced: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in headers:
            self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        if self.command != "HEAD":
            with self.server.owner.lock:
                self.server.owner.sent_bytes += len(body)
            self.wfile.write(body)

    def send_status(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"error"
    ) -> None:
        self.send_answer(status, headers or {}, body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Silent."""


Behaviour = Callable[[Handler], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined by server_close
    request_queue_size = 128
    owner: ObjectServer

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.owner.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what the tests are about."""


@dataclass
class ObjectServer:
    """`with ObjectServer() as server:`; objects and behaviours can change at any time."""

    objects: dict[str, StoredObject] = field(default_factory=dict)
    scripts: dict[str, deque[Behaviour]] = field(default_factory=dict)
    heads: dict[str, Behaviour] = field(default_factory=dict)  # what each HEAD of a path gets
    always: Behaviour | None = None  # what every request gets that no script is for
    tls: ssl.SSLContext | None = None
    requests: list[Seen] = field(default_factory=list)
    sent_bytes: int = 0  # of bodies
    connections: list[socket.socket] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> ObjectServer:
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.owner = self
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self.hang_up()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def put(self, path: str, data: bytes, etag: str | None = '"one"', **headers: str) -> None:
        tag = {} if etag is None else {"ETag": etag}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.objects[path] = StoredObject(data, {**tag, **named})

    @property
    def gets(self) -> list[Seen]:
        return [seen for seen in self.requests if seen.method == "GET"]

    def script(self, path: str, *behaviours: Behaviour) -> None:
        """The next requests for *path* get these, one each."""
        self.scripts[path] = deque(behaviours)

    def hang_up(self) -> None:
        """Close every connection, as servers do with idle ones."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def ignore_range(handler: Handler) -> None:
    stored = handler.stored()
    assert stored is not None
    handler.send_answer(200, stored.headers, stored.data)


def ignore_if_match(handler: Handler) -> None:
    stored = handler.stored()
    assert stored is not None
    handler.send_part(stored)


def content_range(text: str) -> Behaviour:
    """The right bytes under another Content-Range."""

    def behave(handler: Handler) -> None:
        stored = handler.stored()
        assert stored is not None
        start, end = handler.asked_range(len(stored.data))
        headers = {"Content-Range": text, **stored.headers}
        handler.send_answer(206, headers, stored.data[start:end])

    return behave


def extra_headers(**headers: str) -> Behaviour:
    """The right bytes with more headers."""

    def behave(handler: Handler) -> None:
        stored = handler.stored()
        assert stored is not None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.send_part(StoredObject(stored.data, {**stored.headers, **named}))

    return behave


def close_early(handler: Handler) -> None:
    """Half of what was announced, then the end of the connection."""
    _send_half(handler)
    handler.close_connection = True


def close_connection(handler: Handler) -> None:
    """No answer at all."""
    handler.close_connection = True


def stall(handler: Handler) -> None:
    """Half of what was announced, then silence."""
    _send_half(handler)
    handler.server.owner.stopping.wait(STALL_LIMIT_S)
    handler.close_connection = True


def never_answer(handler: Handler) -> None:
    handler.server.owner.stopping.wait(STALL_LIMIT_S)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """A byte now and then: never silent, never done."""
    _send_half(handler)
    with contextlib.suppress(OSError):
        while not handler.server.owner.stopping.wait(0.02):
            handler.wfile.write(b"x")
    handler.close_connection = True


def chunked(extra: bytes = b"") -> Behaviour:
    """The right range without a length, and *extra* after it."""

    def behave(handler: Handler) -> None:
        stored = handler.stored()
        assert stored is not None
        start, end = handler.asked_range(len(stored.data))
        headers = {
            "Content-Range": f"bytes {start}-{end - 1}/{len(stored.data)}",
            "Transfer-Encoding": "chunked",
            **stored.headers,
        }
        handler.send_answer(206, headers, b"")
        for piece in (stored.data[start : end - 1], stored.data[end - 1 : end], extra):
            if piece:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    return behave


def answer(status: int, body: bytes = b"error", **headers: str) -> Behaviour:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.send_status(status, named, body)


def redirect(to: str, status: int = 302) -> Behaviour:
    return answer(status, Location=to)


def _send_half(handler: Handler) -> None:
    stored = handler.stored()
    assert stored is not None
    start, end = handler.asked_range(len(stored.data))
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(stored.data)}", **stored.headers}
    body = stored.data[start : start + (end - start) // 2]
    handler.send_answer(206, headers, body, announced=end - start)
