"""Which CPUs are near to which memory."""

from __future__ import annotations

import os
from pathlib import Path

from pilotlight_loader.errors import ArenaError

_NODES = Path("/sys/devices/system/node")


def node_cpus(node: int) -> frozenset[int]:
    """The CPUs of *node* that this process may use: memory they touch first is that node's.

    Needs no privilege, where mbind(2) is refused in most containers. Raises ArenaError.
    """
    path = _NODES / f"node{node}" / "cpulist"
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise ArenaError(f"this machine has no NUMA node {node}: {path} is not there") from error
    cpus = parse_cpus(text) & os.sched_getaffinity(0)
    if not cpus:
        raise ArenaError(f"this process may use no CPU of NUMA node {node} ({text}): see taskset")
    return frozenset(cpus)


def parse_cpus(text: str) -> set[int]:
    """The kernel's list format, as in ``0-3,8``."""
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus
