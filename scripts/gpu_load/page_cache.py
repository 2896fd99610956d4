"""Bring the checkpoint into the page cache or out of it, and believe only mincore."""

from __future__ import annotations

import os

from gpu_load.bench import Bench

RESIDENT_SHARE, COLD_SHARE = 0.99, 0.01
READ_BYTES = 16 * 1024 * 1024


def keep_resident(bench: Bench) -> str | None:
    if resident_share(bench) < RESIDENT_SHARE:
        with bench.path.open("rb", buffering=0) as file:
            while file.read(READ_BYTES):
                pass
    share = resident_share(bench)
    return None if share >= RESIDENT_SHARE else f"only {share:.0%} stay in the page cache"


def evict(bench: Bench) -> str | None:
    with bench.path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    share = resident_share(bench)
    return None if share <= COLD_SHARE else f"{share:.0%} stay in the page cache when told to go"


def resident_share(bench: Bench) -> float:
    with bench.baked.map() as mapped:
        return mapped.resident_bytes() / bench.baked.nbytes
