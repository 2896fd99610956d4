"""A free port on the loopback address."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port that was free a moment ago; the platform's own check names it if it is taken."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
