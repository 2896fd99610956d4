"""What must hold before a platform starts; each failure is one line that says what to do."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from pilotlight_platform.address import lock_path, read_address, remove_address
from pilotlight_platform.errors import MachineError
from pilotlight_platform.listening import listen
from pilotlight_platform.settings import Settings

_MIN_FREE_BYTES = 1 << 30
_POLL_S = 0.1
_LOCK_TRIES = 10
_LOCK_STEP_S = 0.02


def check_machine(
    settings: Settings,
    patience_s: float = 0.0,
    on_progress: Callable[[str], None] = lambda message: None,
) -> None:
    """Raises MachineError if the port is taken, Ray runs already, or the disk is full.

    A killed platform's Ray takes seconds to go, and its port with it: where any of Ray's
    processes was alive, a failed check is repeated for up to *patience_s*.
    """
    deadline = time.monotonic() + patience_s
    told = False
    while True:
        going = _ray_is_alive()  # asked first: by the end of the check it may have gone
        try:
            return _check(settings)
        except MachineError as error:
            if time.monotonic() >= deadline or not going:
                raise
            if not told:
                told = True
                reason = error.message.partition(":")[0]
                on_progress(f"waiting for a Ray that may be stopping ({reason})")
        time.sleep(_POLL_S)


def _check(settings: Settings) -> None:
    _check_disk(settings)
    listen(settings).close()
    if settings.ray_address is None:
        _check_ray()


@contextmanager
def home_lock(settings: Settings) -> Iterator[None]:
    """Hold the home: one platform at a time. The kernel frees it when its owner dies."""
    try:
        settings.create_directories()
        lock = os.open(lock_path(settings.home), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MachineError(
            f"{settings.home} cannot be written ({error.strerror}): choose another with --home"
        ) from error
    try:
        if not _take(lock):
            address = read_address(settings.home)
            where = f" at {address.url} (pid {address.pid})" if address else ""
            raise MachineError(
                f"a platform of {settings.home} is running{where}: stop it with "
                "`pilotlight down`, or choose another --home"
            )
        remove_address(settings.home)  # left by a killed platform
        yield
    finally:
        os.close(lock)


def _take(lock: int) -> bool:
    # Repeated: read_address holds the lock for a moment to see whether anybody else does.
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_STEP_S)
        else:
            return True
    return False


def _check_disk(settings: Settings) -> None:
    free = shutil.disk_usage(settings.home).free
    if free < _MIN_FREE_BYTES:
        raise MachineError(
            f"{settings.home} has {free / 1e9:.1f} GB free, at least "
            f"{_MIN_FREE_BYTES / 1e9:.1f} GB are needed: free some, or choose another --home"
        )


def _check_ray() -> None:
    for name, pid in _live_processes():
        if name == "gcs_server":
            raise MachineError(
                f"Ray is running on this machine already (pid {pid}): join it "
                "with `--ray-address auto`, or stop it with `ray stop`"
            )


def _ray_is_alive() -> bool:
    return any(
        name in {"gcs_server", "raylet"} or name.startswith("ray::")
        for name, _ in _live_processes()
    )


def _live_processes() -> Iterator[tuple[str, int]]:
    for process in psutil.process_iter(["name", "pid", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE:
            yield process.info["name"] or "", process.info["pid"]
