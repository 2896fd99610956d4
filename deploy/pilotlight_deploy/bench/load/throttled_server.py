"""A link of a known rate: an HTTP server whose connections share one token bucket.

`python -m pilotlight_deploy.bench.load.throttled_server ROOT BYTES_PER_S` prints its port and
serves ROOT's files, whole or by range, until its stdin ends; `/-/sent` tells the bytes of bodies
so far. A process of its own, so that the side that is measured keeps its interpreter to itself.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SENT_PATH = "/-/sent"
_PIECE_BYTES = 256 * 1024  # at 1 GB/s some 4000 calls a second, a few percent of a core
_BURST_S = 0.005  # of credit that an idle link gathers
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 10.0


class TokenBucket:
    """Hands out bytes at a rate, to any number of threads."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at_s = time.monotonic()

    def take(self, nbytes: int) -> None:
        """Return when *nbytes* may be sent."""
        with self._lock:
            now_s = time.monotonic()
            begin_s = max(self._free_at_s, now_s - _BURST_S)
            self._free_at_s = begin_s + nbytes / self._bytes_per_s
            wait_s = begin_s - now_s
        if wait_s > 0:
            time.sleep(wait_s)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    bucket: TokenBucket
    sent = 0  # bytes of bodies, of all connections
    lock = threading.Lock()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.path == SENT_PATH:
            self._send_text(str(_Handler.sent))
            return
        path = self.root / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            etag = f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
            if self.headers.get("If-Match", etag) != etag:
                self.send_error(412)
                return
            start, end = 0, status.st_size
            match = _RANGE.fullmatch(self.headers.get("Range", ""))
            if match is not None:
                start, end = int(match[1]), min(int(match[2]) + 1, status.st_size)
            self.send_response(200 if match is None else 206)
            if match is not None:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", etag)
            self.end_headers()
            if body:
                self._send(file.fileno(), start, end)

    def _send_text(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _send(self, descriptor: int, start: int, end: int) -> None:
        with self.lock:
            _Handler.sent += end - start
        while start < end:
            count = min(_PIECE_BYTES, end - start)
            self.bucket.take(count)
            while count:
                sent = os.sendfile(self.connection.fileno(), descriptor, start, count)
                if sent == 0:
                    raise ConnectionError("the file has become shorter")
                start += sent
                count -= sent

    def log_message(self, *_arguments: object) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # the process ends with its last line
    # A load opens more connections at once than the default of 5 lets wait: the kernel would drop
    # some, and their clients try again after a second.
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away in the middle of a range are part of the measurement."""


@contextmanager
def throttled(root: Path, bytes_per_s: float) -> Iterator[str]:
    """The URL of *root* behind a link of *bytes_per_s*."""
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, str(root), str(bytes_per_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.stdin.close()
        server.stdout.close()
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def main(root: Path, bytes_per_s: float) -> None:
    _Handler.root, _Handler.bucket = root, TokenBucket(bytes_per_s)
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        sys.stdin.read()  # until whoever started this closes it, or dies
        server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
