"""Where the running platform of a home directory answers. Light: the CLI reads it at every call."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

_FILE = Path("run") / "platform.json"
_LOCK = Path("run") / "lock"


@dataclass(frozen=True, slots=True)
class PlatformAddress:
    """A running platform: its URL and the process that owns it."""

    url: str
    pid: int
    started_at_s: float  # Unix time
    home: str
    ray_address: str  # of the cluster it runs on


def lock_path(home: Path) -> Path:
    """The file that a running platform holds locked, from before its start to its end."""
    return home / _LOCK


def read_address(home: Path) -> PlatformAddress | None:
    """The platform running in *home*; None if there is none or its process has died.

    The lock decides, not the process id in the file: that may be another process's by now.
    """
    try:
        address = PlatformAddress(**json.loads((home / _FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return address if _is_locked(home) else None


def _is_locked(home: Path) -> bool:
    try:
        descriptor = os.open(lock_path(home), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def write_address(home: Path, address: PlatformAddress) -> None:
    """Publish *address* atomically."""
    path = home / _FILE
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(address)))
    part.replace(path)


def remove_address(home: Path) -> None:
    (home / _FILE).unlink(missing_ok=True)
