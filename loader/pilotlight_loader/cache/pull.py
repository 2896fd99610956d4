"""Fetch one object into the cache without a device: resumable, and once per node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.checking import Progress
from pilotlight_loader.cache.fetching import fetch
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.lease import Lease
from pilotlight_loader.errors import ObjectChangedError, SourceReadError
from pilotlight_loader.sources.source import ByteSource

FOLLOW_TIMEOUT_S = 6 * 3600.0  # 140 GB at 50 Mbit/s


class Retries(Protocol):
    """When another attempt is worth it, and after how long."""

    def delay_s(
        self, attempt: int, error: SourceReadError, random: Callable[[], float]
    ) -> float | None:
        """None: no more. The first *attempt* is 1; *random* gives numbers in [0, 1)."""


PullPhase = Literal["check", "follow", "fetch"]
# What is counted, bytes done, bytes in all. "check": what an earlier attempt left is read again;
# "follow": another process fetches it.
PullProgress = Callable[[PullPhase, int, int], None]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did."""

    digest: str
    nbytes: int
    fetched_bytes: int  # read from the source here; 0 where it was cached, or another fetched it
    seconds: float


def pull(
    source: ByteSource,
    cache: Cache,
    *,
    retries: Retries,
    progress: PullProgress | None = None,
    cancel: threading.Event | None = None,
    follow_timeout_s: float = FOLLOW_TIMEOUT_S,
) -> Pulled:
    """Bring *source*'s pinned version into *cache*; the caller closes the source.

    What was fetched stays for the next attempt, unless the object has changed. Where another
    process fetches it already, wait for that one, and take over if it dies. Raises
    SourceReadError, CacheError, DiskFullError, LoadCancelledError.
    """
    began_s = time.monotonic()
    cancel = cancel or threading.Event()
    found = cache.claim(
        ObjectIdentity.of(source),
        follow_timeout_s,
        cancel,
        on_check=_phase("check", progress),
        on_follow=_phase("follow", progress),
    )
    if isinstance(found, Lease):
        with found:
            return Pulled(found.digest, found.nbytes, 0, time.monotonic() - began_s)
    with found as filling:
        missing_bytes = sum(gap.nbytes for gap in filling.missing())
        try:
            told = _phase("fetch", progress)
            fetch(source, filling, retries.delay_s, progress=told, cancel=cancel)
        except ObjectChangedError:
            filling.abandon(keep=False)  # the rest of this version will never come
            raise
        with filling.publish() as lease:
            seconds = time.monotonic() - began_s
            return Pulled(lease.digest, lease.nbytes, missing_bytes, seconds)


def _phase(phase: PullPhase, progress: PullProgress | None) -> Progress | None:
    return None if progress is None else partial(progress, phase)
