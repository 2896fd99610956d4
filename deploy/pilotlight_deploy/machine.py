"""What this machine is and what is installed on it. Reads only; imports nothing heavy."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_NVIDIA = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Machine:
    cpu: str
    cores: int  # that this process may use
    memory_bytes: int
    kernel: str
    gpu: str | None  # the first one's model


def read_machine() -> Machine:
    return Machine(
        cpu=_field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=int(psutil.virtual_memory().total),
        kernel=platform.release(),
        gpu=_gpu(),
    )


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Installed version of Python and of each package; None for one that is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _gpu() -> str | None:
    names = (_field(path, "Model") for path in sorted(_NVIDIA.glob("*/information")))
    return next((name for name in names if name), None)


def _field(path: Path, name: str) -> str | None:
    """The first ``name : value`` of a file under /proc."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
