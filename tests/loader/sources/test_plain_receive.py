from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support.waiting import until

from pilotlight_loader.sources.plain_receive import HEAD_BYTES, bound_waits, receive

LONG = bytes(range(256)) * 1024


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: who receives, who sends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname(), timeout=10)
        theirs, _ = server.accept()
    with ours, theirs:
        yield ours, theirs


class _Receiving:
    """receive() in a thread of its own."""

    def __init__(self, sock: socket.socket, buffer: bytearray, silence_s: float) -> None:
        self.count = -1
        self._thread = threading.Thread(target=self._run, args=(sock, buffer, silence_s))
        self._thread.start()

    def _run(self, sock: socket.socket, buffer: bytearray, silence_s: float) -> None:
        self.count = receive(sock, buffer, silence_s)

    def end(self) -> int:
        self._thread.join(20)
        return self.count


def test_receive_brings_a_long_body_in_one_call(ends):
    ours, theirs = ends
    bound_waits(ours, 60.0)
    buffer = bytearray(len(LONG))
    receiving = _Receiving(ours, buffer, 60.0)
    theirs.sendall(LONG[:1000])
    until(lambda: bytes(buffer[:1000]) == LONG[:1000])  # it has some, and goes on
    theirs.sendall(LONG[1000:])

    assert receiving.end() == len(LONG)
    assert buffer == LONG


def test_receive_waits_for_no_more_of_a_head_than_there_is(ends):
    ours, theirs = ends
    bound_waits(ours, 60.0)
    theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    assert receive(ours, bytearray(HEAD_BYTES), 60.0) == 19


@pytest.mark.parametrize("nbytes", [HEAD_BYTES, len(LONG)])
def test_receive_gives_up_on_silence(ends, nbytes):
    ours, _ = ends
    bound_waits(ours, 0.2)
    began_s = time.monotonic()

    with pytest.raises(TimeoutError, match=r"nothing came for 0\.2 s"):
        receive(ours, bytearray(nbytes), 0.2)
    assert time.monotonic() - began_s >= 0.2


@pytest.fixture
def ticking() -> Iterator[None]:
    """A timer's signal every 20 ms, as of a profiler."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("nbytes", [HEAD_BYTES, len(LONG)])
def test_receive_gives_up_on_silence_whatever_signals_come(ends, nbytes):
    ours, _ = ends
    bound_waits(ours, 0.5)
    late = threading.Timer(10, ours.shutdown, (socket.SHUT_RDWR,))  # the test ends all the same
    late.start()

    with pytest.raises(TimeoutError, match=r"nothing came for 0\.5 s"):
        receive(ours, bytearray(nbytes), 0.5)
    late.cancel()
    late.join()


def test_receive_lets_its_caller_look_at_a_body_that_drips(ends):
    ours, theirs = ends
    bound_waits(ours, 0.5)
    theirs.sendall(b"x")

    assert receive(ours, bytearray(len(LONG)), 0.5) == 1


def test_receive_ends_with_the_connection(ends):
    ours, theirs = ends
    bound_waits(ours, 60.0)
    theirs.sendall(LONG[:100])
    theirs.close()
    buffer = bytearray(len(LONG))

    assert receive(ours, buffer, 60.0) == 100
    assert receive(ours, buffer, 60.0) == 0


def test_receive_wakes_up_when_the_socket_is_shut_down(ends):
    ours, _ = ends
    bound_waits(ours, 60.0)
    receiving = _Receiving(ours, bytearray(len(LONG)), 60.0)
    ours.shutdown(socket.SHUT_RDWR)

    assert receiving.end() == 0
