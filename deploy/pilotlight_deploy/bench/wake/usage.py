"""What a platform's processes took meanwhile: processor time and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares are of all cores' time; memory is resident, shared pages included."""

    machine_busy: float
    platform_busy: float
    client_busy: float  # this process
    rss_bytes: dict[int, tuple[int, int, int]]  # by process: at first, at most, at last


@dataclass(slots=True)
class UsageWatch:
    """From its making on; ``sample`` now and then, ``usage`` at the end."""

    platform_pid: int
    pids: Sequence[int]  # whose memory is watched
    _began_s: float = field(default_factory=time.monotonic)
    _rss: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    _machine_s: float = 0.0
    _platform_s: dict[int, float] = field(default_factory=dict)
    _client_s: float = 0.0

    def __post_init__(self) -> None:
        self._machine_s, self._client_s = _machine_s(), _cpu_s(os.getpid())
        self._platform_s = _family_s(self.platform_pid)
        self.sample()

    def sample(self) -> None:
        """Note the memory of now; a process that has gone is left out."""
        for pid in self.pids:
            try:
                rss = psutil.Process(pid).memory_info().rss
            except psutil.NoSuchProcess:
                continue
            first, most, _ = self._rss.get(pid, (rss, rss, rss))
            self._rss[pid] = first, max(most, rss), rss

    def usage(self) -> Usage:
        self.sample()
        cores_s = (time.monotonic() - self._began_s) * (psutil.cpu_count() or 1)
        now_s = _family_s(self.platform_pid)
        platform_s = sum(spent - self._platform_s.get(pid, 0.0) for pid, spent in now_s.items())
        return Usage(
            machine_busy=(_machine_s() - self._machine_s) / cores_s,
            platform_busy=platform_s / cores_s,
            client_busy=(_cpu_s(os.getpid()) - self._client_s) / cores_s,
            rss_bytes=dict(self._rss),
        )


def _machine_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _cpu_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _family_s(pid: int) -> dict[int, float]:
    """Processor seconds of a process and all its children."""
    parent = psutil.Process(pid)
    return {each.pid: _cpu_s(each.pid) for each in (parent, *parent.children(recursive=True))}
