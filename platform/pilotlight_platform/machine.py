"""What this machine computes with: times that were measured on another one do not hold here."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine_name() -> str:
    """Its processor and how many cores it has, whichever of them this process may use."""
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()
