"""boto3 clients, made once for those who want the same: one costs 20 ms, a load's first byte waits.

A client refreshes what expires by itself. What it cannot see, other keys in the environment or in
a file, is part of what it is kept under; and one whose keys have expired is kept no longer.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight_loader.errors import LocationError

MAX_CLIENTS = 8  # of one process: accounts and endpoints at once
LIST_TIMEOUT_S = 10
REFUSED_EVERY_S = 60.0  # a role's keys live for 15 minutes at least
_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What is None is found as boto3 finds it: environment, profile, role of the machine."""

    profile: str | None
    endpoint_url: str | None
    region: str | None
    addressing_style: str
    anonymous: bool


class S3Clients:
    """At most MAX_CLIENTS, the most recently used. Thread-safe; clients are, too."""

    def __init__(
        self,
        make: Callable[[ClientSettings, str], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._clock = clock
        self._refused_s = float("-inf")  # when refused() last forgot one
        self._lock = threading.Lock()
        self._kept: dict[object, Any] = {}  # the most recently used stands last

    def get(self, settings: ClientSettings, location: str) -> Any:
        """*location* is for messages. Raises LocationError."""
        key = (settings, os.getpid(), _surroundings())
        with self._lock:
            client = self._kept.pop(key, None)
        if client is None:
            client = self._make(settings, location)
        with self._lock:
            self._kept[key] = client
            while len(self._kept) > MAX_CLIENTS:
                del self._kept[next(iter(self._kept))]  # whoever uses it still can
        return client

    def forget(self, client: Any) -> None:
        """Whoever comes next has another one made."""
        with self._lock:
            for key in [key for key, kept in self._kept.items() if kept is client]:
                del self._kept[key]

    def refused(self, client: Any) -> None:
        """Its keys may have expired: forget it, unless one was forgotten for that just now.

        Keys that are no good at all would else have a client made for every load.
        """
        with self._lock:
            now_s = self._clock()
            if now_s - self._refused_s < REFUSED_EVERY_S:
                return
            self._refused_s = now_s
        self.forget(client)


def _surroundings() -> object:
    """What else boto3 asks when it makes a client: settings and files; 0.1 ms."""
    names = {"HOME", "BOTO_CONFIG", *(name for name in os.environ if name.startswith("AWS_"))}
    settings = frozenset((name, os.environ.get(name)) for name in names)
    # Not Path.expanduser, which raises where there is no home at all.
    files = [Path(os.path.expanduser(os.environ.get(name, default))) for name, default in _FILES]
    return settings, tuple(map(_state, files))


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def make_client(settings: ClientSettings, location: str) -> Any:
    """Raises LocationError (no boto3, no such profile)."""
    try:
        # Where nothing is read from S3, boto3 need not be installed, and costs 0.2 s to import.
        import boto3  # noqa: PLC0415
        import botocore.session  # noqa: PLC0415
        from botocore import UNSIGNED  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
    except ImportError as error:
        raise LocationError(location, "s3:// needs boto3: pip install boto3") from error
    config = Config(
        signature_version=UNSIGNED if settings.anonymous else "s3v4",
        s3={"addressing_style": settings.addressing_style},
        connect_timeout=LIST_TIMEOUT_S,
        read_timeout=LIST_TIMEOUT_S,
        retries={"total_max_attempts": 3},
    )
    try:
        core = botocore.session.get_session()
        core.register_component("data_loader", _service_models())
        session = boto3.Session(
            botocore_session=core, profile_name=settings.profile, region_name=settings.region
        )
        return session.client("s3", endpoint_url=settings.endpoint_url, config=config)
    except Exception as error:  # botocore: no such profile, no region, not a URL, …
        raise LocationError(location, f"{type(error).__name__}: {error}") from error


@functools.cache
def _service_models() -> Any:
    """What botocore reads of S3's interface: 60 ms for the first client, 9 for the others."""
    from botocore.loaders import create_loader  # noqa: PLC0415 - as in make_client

    return create_loader()


CLIENTS = S3Clients(make_client)
