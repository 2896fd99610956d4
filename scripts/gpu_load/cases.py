"""What is measured: this loader from each tier, and the others from the page cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu_load.bench import KEY, Bench, answer
from gpu_load.page_cache import evict, keep_resident
from gpu_load.peers import installed, time_peer
from pilotlight_loader import begin_load, load, open_checkpoint
from pilotlight_loader.arena.leased import LeasedCheckpoint

TIERS = ("arena", "tmpfs", "page_cache", "disk")


@dataclass(frozen=True, slots=True)
class Case:
    """One method. *prepare* says why it cannot be measured, *run* gives seconds by figure."""

    name: str
    prepare: Callable[[], str | None]
    run: Callable[[], Mapping[str, float]]


def cases(bench: Bench) -> list[Case]:
    """All that can be measured here, in the order of each round."""
    in_memory = bench.memory / bench.path.name
    resident = partial(keep_resident, bench)
    on_disk = partial(open_checkpoint, bench.path)
    return [
        *arena_cases(bench),
        *_tier_cases(bench, "tmpfs", _nothing, partial(open_checkpoint, in_memory)),
        *_tier_cases(bench, "page_cache", resident, on_disk),
        *(
            Case(name, resident, partial(time_peer, bench, name, peer))
            for name, peer in installed().items()
        ),
        # Last: it leaves nothing in the page cache.
        *_tier_cases(bench, "disk", partial(evict, bench), on_disk),
    ]


def arena_cases(bench: Bench) -> list[Case]:
    return _tier_cases(bench, "arena", _nothing, partial(leased, bench))


def _nothing() -> None:
    """It is where it should be."""


def leased(bench: Bench) -> LeasedCheckpoint:
    lease = bench.arena.lease(KEY)
    assert lease is not None  # nobody else uses this arena
    with lease:
        return LeasedCheckpoint(lease, bench.baked)


def _tier_cases(
    bench: Bench, tier: str, prepare: Callable[[], str | None], opened: Callable[[], Any]
) -> list[Case]:
    """The last byte without, and the first token with a forward pass that runs meanwhile."""

    def last_byte() -> dict[str, float]:
        module = bench.module()
        start_s = time.perf_counter()
        with opened() as checkpoint:
            load(checkpoint, module, bench.device)
        return {f"gpu.{tier}_last_byte_s": time.perf_counter() - start_s}

    def first_token() -> dict[str, float]:
        module = bench.module()
        start_s = time.perf_counter()
        with opened() as checkpoint, begin_load(checkpoint, module, bench.device):
            bench.tokens[tier] = answer(bench, module)
            seconds = time.perf_counter() - start_s
        return {f"gpu.{tier}_ttft_s": seconds}

    return [
        Case(f"{tier} to the last byte", prepare, last_byte),
        Case(f"{tier} to the first token", prepare, first_token),
    ]
