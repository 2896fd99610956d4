"""The floor of a link: ranged GETs on plain sockets, every byte thrown away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

_TIMEOUT_S = 30.0


def raw_seconds(url: str, nbytes: int, connections: int, part_bytes: int) -> float:
    """Seconds to receive *nbytes* of *url* over so many connections at once.

    Raises OSError if a connection breaks or an answer is not the range that was asked for.
    """
    parts = iter([(at, min(at + part_bytes, nbytes)) for at in range(0, nbytes, part_bytes)])
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _drain(url, parts, lock)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent_s = time.perf_counter() - began_s
    if failures:
        raise OSError(f"the raw read failed: {failures[0]}") from failures[0]
    return spent_s


def _drain(url: str, parts: Iterator[tuple[int, int]], lock: threading.Lock) -> None:
    address = urlsplit(url)
    assert address.hostname is not None
    scratch = memoryview(bytearray(1 << 20))  # one piece of memory that stays in the cache
    with socket.create_connection((address.hostname, address.port or 80), _TIMEOUT_S) as link:
        while True:
            with lock:
                part = next(parts, None)
            if part is None:
                return
            start, end = part
            request = (
                f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
                f"Range: bytes={start}-{end - 1}\r\n\r\n"
            )
            link.sendall(request.encode())
            left = end - start - _skip_head(link, scratch)
            while left:
                received = link.recv_into(scratch, min(left, len(scratch)))
                if not received:
                    raise OSError("the connection was closed")
                left -= received


def _skip_head(link: socket.socket, scratch: memoryview) -> int:
    """Read the head of an answer; how many bytes of its body came along."""
    head = b""
    while b"\r\n\r\n" not in head:
        received = link.recv_into(scratch, 4096)
        if not received:
            raise OSError("the connection was closed")
        head += bytes(scratch[:received])
    if not head.startswith(b"HTTP/1.1 206"):
        raise OSError(head.partition(b"\r\n")[0].decode())
    return len(head) - head.index(b"\r\n\r\n") - 4
