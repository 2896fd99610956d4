"""What came over which link: each read of a transfer is noted, with its tier and its time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from pilotlight_loader.pipeline.report import tier_at
from pilotlight_loader.sources.source import ByteSource, Reader
from pilotlight_loader.sources.wrapped import WrappedSource


@dataclass(frozen=True, slots=True)
class Metered:
    """One tier so far, by time.monotonic; a part that was read twice counts twice."""

    nbytes: int
    first_start_s: float
    last_end_s: float


class Meter:
    """Of one transfer, thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tiers: dict[str, Metered] = {}

    def note(self, tier: str, nbytes: int, start_s: float, end_s: float) -> None:
        with self._lock:
            known = self._tiers.get(tier, Metered(0, start_s, end_s))
            self._tiers[tier] = Metered(
                known.nbytes + nbytes,
                min(known.first_start_s, start_s),
                max(known.last_end_s, end_s),
            )

    def tiers(self) -> dict[str, Metered]:
        """Those that gave bytes."""
        with self._lock:
            return dict(self._tiers)


class MeteredSource(WrappedSource):
    """*source*, whose reads are noted; who opened it closes it."""

    def __init__(self, source: ByteSource, meter: Meter) -> None:
        super().__init__(source)
        self._meter = meter

    def reader(self) -> Reader:
        return _MeteredReader(self._source, self._meter)


class _MeteredReader:
    def __init__(self, source: ByteSource, meter: Meter) -> None:
        self._source = source
        self._meter = meter
        self._reader = source.reader()
        self.abort = self._reader.abort
        self.close = self._reader.close

    def read_into(self, start: int, into: memoryview) -> None:
        start_s = time.monotonic()
        self._reader.read_into(start, into)
        tier = tier_at(self._source, start, start + into.nbytes)
        self._meter.note(tier, into.nbytes, start_s, time.monotonic())
