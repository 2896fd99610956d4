"""Is there room for an arena? Asked before anything is made: afterwards it ends in SIGBUS."""

from __future__ import annotations

import os
from pathlib import Path

from pilotlight_loader.errors import ArenaError

_MEMORY = Path("/proc/meminfo")
_MOUNTS = Path("/proc/self/mountinfo")
_CONTROL_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def check_room(directory: Path, nbytes: int) -> None:
    """Raises ArenaError where *directory* is not in memory, or *nbytes* do not fit into it."""
    kind = file_system(directory)
    if kind != "tmpfs":
        raise ArenaError(
            f"{directory} is on {kind}, an arena must be in memory: choose a path in /dev/shm"
        )
    space = os.statvfs(directory)
    free = space.f_bavail * space.f_frsize
    if nbytes > free:
        raise ArenaError(
            f"{directory} has {free} bytes free, the arena wants {nbytes}: ask for fewer, or make "
            f"it larger (mount -o remount,size=… {directory}; --shm-size=… of a container)"
        )
    available = available_bytes()
    if nbytes > available:
        raise ArenaError(
            f"this machine has {available} bytes of memory available, the arena wants {nbytes}: "
            "ask for fewer (tmpfs promises more than there is)"
        )


def available_bytes() -> int:
    """What the kernel would give away without swapping, or this container's limit if smaller."""
    fields = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    for path in _CONTROL_GROUP_LIMITS:
        if path.exists() and (text := path.read_text().strip()) != "max":
            available = min(available, int(text))
    return available


def file_system(directory: Path) -> str:
    """The kind of file system *directory* is on; raises ArenaError where there is none."""
    try:
        device = directory.stat().st_dev
    except OSError as error:
        raise ArenaError(f"{directory} cannot be used: {error.strerror}") from error
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _MOUNTS.read_text().splitlines():
        mount, _, tail = line.partition(" - ")
        if mount.split()[2] == wanted:
            return tail.split()[0]
    return "an unknown file system"
