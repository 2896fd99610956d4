"""What a load did, tier by tier, beside what the links allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pilotlight_loader.sources.host import HostSource
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


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A load that has ended well."""

    nbytes: int  # that were read
    seconds: float
    first_tensor_s: float | None  # until the first in order could be used; None: all are empty
    tiers: Mapping[str, TierReport]  # "remote", "disk" or "host", and "device"
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
    if isinstance(first, HostSource):
        return "host"
    location = "" if first is None else first.location
    return "remote" if "://" in location and not location.startswith("file://") else "disk"
