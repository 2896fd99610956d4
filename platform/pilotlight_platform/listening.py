"""The socket on which the platform listens: the supervisor holds it, each gateway borrows it.

A gateway that dies takes with it only the connections that it has accepted. The others wait on the
socket, which lives on in the supervisor, for the gateway that Serve starts next.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pilotlight_platform.errors import MachineError, PlatformError
from pilotlight_platform.settings import Settings

logger = logging.getLogger("pilotlight.supervisor")

_NAME = "listen.sock"
_BACKLOG = 2048  # connections that may wait for a gateway
_BORROW_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 1.0
_RETRY_S = 0.1


def listen(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say. Raises MachineError with what is in the way."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by what is accepted: a client whose machine has gone is noticed some day.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise MachineError(
                f"port {settings.port} is in use: choose another with --port"
            ) from error
        raise MachineError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        ) from error
    return listening


@contextmanager
def lent(listening: socket.socket, directory: Path) -> Iterator[None]:
    """Lend *listening* to whoever may write in *directory* and asks. Raises MachineError."""
    counter = socket.socket(socket.AF_UNIX)
    try:
        with _at(directory) as path:
            with suppress(FileNotFoundError):  # left by a killed supervisor
                os.unlink(path)
            counter.bind(path)
        counter.listen()
    except OSError as error:
        counter.close()
        raise MachineError(f"{directory} cannot hold a socket: {error.strerror}") from error
    lender = threading.Thread(
        target=_lend, args=(counter, listening), name="pilotlight-lend", daemon=True
    )
    lender.start()
    try:
        yield
    finally:
        counter.shutdown(socket.SHUT_RDWR)  # ends the thread's accept
        lender.join()
        counter.close()
        (directory / _NAME).unlink(missing_ok=True)


def borrow(
    directory: Path, timeout_s: float = _BORROW_TIMEOUT_S
) -> tuple[socket.socket, socket.socket]:
    """The socket that is lent in *directory*, and one that is at its end when its owner has gone.

    A borrower has to give the socket up then, or it would hold the port against the next owner.
    Raises PlatformError if nobody lends one in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return _ask(directory)
        except OSError as error:
            if time.monotonic() >= deadline:
                raise PlatformError(
                    f"no supervisor lends a socket in {directory}: {error.strerror or error}"
                ) from error
        time.sleep(_RETRY_S)


def _ask(directory: Path) -> tuple[socket.socket, socket.socket]:
    asking = socket.socket(socket.AF_UNIX)
    try:
        with _at(directory) as path:
            asking.settimeout(_ANSWER_TIMEOUT_S)
            asking.connect(path)
        _, descriptors, _, _ = socket.recv_fds(asking, 1, 1)
        if not descriptors:
            raise ConnectionResetError(errno.ECONNRESET, "the supervisor is stopping")
    except BaseException:
        asking.close()
        raise
    os.set_inheritable(descriptors[0], False)  # received ones are, and a bake must not keep it
    asking.settimeout(None)
    return socket.socket(fileno=descriptors[0]), asking


def _lend(counter: socket.socket, listening: socket.socket) -> None:
    borrowers: list[socket.socket] = []  # kept open: their end tells that the owner has gone
    try:
        while True:
            try:
                asking, _ = counter.accept()
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EBADF):  # shut down
                    return
                logger.warning("lending_failed reason=%s", error.strerror)  # no descriptors left?
                time.sleep(_RETRY_S)
                continue
            for gone in [each for each in borrowers if _has_gone(each)]:
                borrowers.remove(gone)
                gone.close()
            borrowers.append(asking)
            asking.setblocking(False)  # one byte has room in a new connection
            with suppress(OSError):  # who asked has gone
                socket.send_fds(asking, [b"s"], [listening.fileno()])
    finally:
        for each in borrowers:
            each.close()


def _has_gone(borrower: socket.socket) -> bool:
    try:
        return borrower.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextmanager
def _at(directory: Path) -> Iterator[str]:
    """The path of the socket file in a form that fits: 107 bytes are the most that may be bound."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)
