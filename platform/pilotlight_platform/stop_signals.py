"""SIGINT and SIGTERM: the first stops a platform cleanly, the second ends the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals(stop: threading.Event) -> Iterator[None]:
    """Set *stop* at the first one; who handled them before does so again afterwards."""
    previous = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    handle_stop_signals(stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def handle_stop_signals(stop: threading.Event) -> None:
    """The first signal sets *stop*; one after that ends the process."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in _STOP_SIGNALS:
        signal.signal(number, handle)
