"""How a transfer is made; the defaults suit, tests and benchmarks change them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pilotlight_loader.pipeline.ring import STAGING_BYTES
from pilotlight_loader.sources.retry import RetryPolicy
from pilotlight_loader.transfer.parts import GAP_BYTES, RANGE_BYTES
from pilotlight_loader.transfer.policies import HedgePolicy, RetryDelays


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Frozen; every size in bytes."""

    readers: int | None = None  # None: as many as the sources can use
    part_bytes: int | None = None  # None: what each source asks for
    staging_bytes: int = STAGING_BYTES
    range_bytes: int = RANGE_BYTES
    gap_bytes: int = GAP_BYTES
    retry: RetryDelays | None = field(default_factory=RetryPolicy)
    hedge: HedgePolicy | None = field(default_factory=HedgePolicy)
    # For so long the end of a load brings what the disk tier was too slow for, so that the next
    # load is local; the module can be used meanwhile. 0: leave it to the next load.
    complete_cache_s: float = 600.0
