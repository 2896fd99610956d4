"""Ray Serve's autoscaling policy of the worker pool: it returns what the scheduler has decided.

Runs in Serve's controller, about ten times a second: it must not block, and an exception would
stop the scaling of every application. A thread listens; a call reads what it has heard.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any

from redis import Redis

logger = logging.getLogger("pilotlight.pool")

CHANNEL = "pilotlight:1:pool"  # published, not stored: {"workers": n, "at_least": bool}
STALE_S = 5.0  # the scheduler repeats itself every second
_LISTEN_S = 1.0
_RECONNECT_S = 0.5
_TIMEOUT_S = 5.0
_MAX_WORKERS = 10_000


@dataclass(frozen=True, slots=True)
class Target:
    """What the scheduler said last."""

    workers: int
    at_least: bool  # it has just started, and does not know all workers yet: only ever up
    heard_s: float  # monotonic

    @classmethod
    def parse(cls, message: bytes, heard_s: float) -> Target | None:
        """None for what is no target."""
        try:
            values = json.loads(message)
            workers, at_least = values["workers"], values["at_least"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        if type(workers) is not int or not 0 <= workers <= _MAX_WORKERS:
            return None
        return cls(workers, bool(at_least), heard_s)


class SnapshotPolicy:
    """Holds Serve's own target while the scheduler is silent for more than five seconds."""

    def __init__(self, url: str) -> None:
        self.target: Target | None = None
        # A weak reference: Serve drops the policy with its deployment, and the thread must end.
        threading.Thread(
            target=_listen, args=(weakref.ref(self), url), name="pilotlight-pool", daemon=True
        ).start()

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        target = self.target
        current: int = ctx.target_num_replicas
        if target is None or time.monotonic() - target.heard_s > STALE_S:
            return current, {}
        return max(current, target.workers) if target.at_least else target.workers, {}


def _listen(policy: weakref.ref[SnapshotPolicy], url: str) -> None:
    while policy() is not None:
        try:
            with Redis.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
            ) as redis:
                channel = redis.pubsub(ignore_subscribe_messages=True)
                channel.subscribe(CHANNEL)
                while (listener := policy()) is not None:
                    del listener
                    message = channel.get_message(timeout=_LISTEN_S)
                    listener = policy()
                    if message is not None and listener is not None:
                        heard = Target.parse(message["data"], time.monotonic())
                        listener.target = heard or listener.target
        except Exception as error:  # Redis' many; what was heard goes stale meanwhile
            logger.warning("pool_unheard reason=%s", error)
            time.sleep(_RECONNECT_S)
