"""What a load did, tier by tier, beside what the links allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pilotlight_loader.sources.host import HostSource
from pilotlight_loader.sources.local import LocalSource
from pilotlight_loader.sources.source import ByteSource


@dataclass(frozen=True, slots=True)
class TierReport:
    """One link: from the first byte that was asked of it to the last that came."""

    nbytes: int
    seconds: float
    floor_s: float | None  # nbytes at the link's own bandwidth, where that is known

    @property
    def bytes_per_s(self) -> float:
        return self.nbytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes each second."""
        return self.bytes_per_s / 1e9


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A load that has ended well."""

    nbytes: int  # that were read
    seconds: float
    first_tensor_s: float | None  # until the first in order could be used; None: all are empty
    tiers: Mapping[str, TierReport]  # those of "remote", "disk", "host" that gave bytes; "device"
    retries: int
    hedges: int
    peak_staging_bytes: int
    cache_error: str | None = None  # why the cache holds nothing of this; the load did not need it

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes each second."""
        return self.nbytes / self.seconds / 1e9 if self.seconds > 0 else 0.0


def tier_report(
    tier: str, nbytes: int, seconds: float, floors: Mapping[str, float] | None
) -> TierReport:
    """*floors*: bytes per second by tier."""
    bandwidth = (floors or {}).get(tier)
    return TierReport(nbytes, seconds, nbytes / bandwidth if bandwidth else None)


def tier_of(sources: Mapping[str, ByteSource]) -> str:
    """Where the bytes come from, by the first of *sources*."""
    first = next(iter(sources.values()), None)
    return "disk" if first is None else tier_at(first, 0, 0)


@runtime_checkable
class PartlyLocal(Protocol):
    """A source of which the disk tier has a part."""

    def is_on_disk(self, start: int, end: int) -> bool: ...


def tier_at(source: ByteSource, start: int, end: int) -> str:
    """Over which link bytes [start, end) of *source* come."""
    if isinstance(source, HostSource):
        return "host"
    if isinstance(source, LocalSource):  # under the hub's name, too: its cache is here
        return "disk"
    if isinstance(source, PartlyLocal) and source.is_on_disk(start, end):
        return "disk"
    is_remote = "://" in source.location and not source.location.startswith("file://")
    return "remote" if is_remote else "disk"
