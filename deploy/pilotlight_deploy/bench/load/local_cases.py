"""From this machine's page cache: mapped, into the arena, and attached from it."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pilotlight_deploy.bench.load.in_turn import in_turn
from pilotlight_deploy.bench.load.memcpy import memcpy_seconds
from pilotlight_deploy.bench.load.models import BenchModel
from pilotlight_deploy.bench.load.peak_memory import peak_memory
from pilotlight_deploy.bench.report import Figure, figure
from pilotlight_loader import Arena, BakedCheckpoint, fill_from_file, map_lease, pages
from pilotlight_loader.devices.host_memory import HostMemory, anonymous

_THREADS = min(2, os.cpu_count() or 1)
_SPARE_BYTES = 64 << 20


class LocalCases:
    """Each turn measures every side once, one after the other; every second turn backwards."""

    def __init__(self, large: BenchModel, small: BenchModel, arena: Arena) -> None:
        self._large = large
        self._small = small
        self._arena = arena
        self._turns = 0
        self._seconds: dict[str, list[float]] = {}
        self.cases: list[dict[str, Any]] = []
        nbytes = large.path.stat().st_size
        # Written, so that every page is there: the copy must not pay for first touches.
        # In huge pages where the machine has them, as fast as a copy can be.
        self._huge: torch.Tensor | None = HostMemory(anonymous(nbytes), nbytes).view(0, nbytes)
        self._target: torch.Tensor | None = HostMemory(anonymous(nbytes), nbytes).view(0, nbytes)
        self._huge.fill_(1)
        self._target.fill_(0)
        self._mapped: torch.Tensor | None = _mapped(large.path)
        # Once without a clock: what a virtual machine has not used for long, its host brings back
        # page by page (2 GB: 1.2 s), and the side that came first would pay that for all.
        large.keep_resident()
        self._fill()
        self._copy_mapped()

    def turn(self) -> None:
        self._large.keep_resident()
        sides = (
            ("mapped", self._map, self._large),
            ("safetensors", self._load_file, self._large),
            ("arena", self._fill, self._large),
            ("memcpy", self._copy_mapped, self._large),
            ("memcpy_huge", self._copy_huge, self._large),
            ("attach", self._attach, self._small),
        )
        for case, measure, model in in_turn(sides, self._turns):
            self._note(case, measure, model)
        self._turns += 1

    def figures(self) -> list[Figure]:
        s = self._seconds
        mapped = [ours / theirs for ours, theirs in zip(s["mapped"], s["safetensors"], strict=True)]
        arena = [theirs / ours for ours, theirs in zip(s["arena"], s["memcpy"], strict=True)]
        huge = [theirs / ours for ours, theirs in zip(s["arena"], s["memcpy_huge"], strict=True)]
        attach = [seconds * 1e3 for seconds in s["attach"]]
        return [
            figure("load.mapped_vs_safetensors", mapped, "x", goal=1.1),
            figure("load.arena_vs_memcpy", arena, "x", better="higher", goal=0.9),
            figure("load.arena_vs_huge_memcpy", huge, "x", better="higher"),
            figure("load.attach_ms", attach, "ms", goal=10.0),
        ]

    def _note(self, case: str, measure: Any, model: BenchModel) -> None:
        with peak_memory() as peak:
            seconds = measure()
        self._seconds.setdefault(case, []).append(seconds)
        nbytes = model.path.stat().st_size
        self.cases.append(
            {
                "case": case,
                "seconds": seconds,
                "nbytes": nbytes,
                "gb_per_s": nbytes / seconds / 1e9,
                "tier": "host",
                "peak_rss_bytes": peak(),
            }
        )

    def _map(self) -> float:
        began_s = time.perf_counter()
        with BakedCheckpoint.open(self._large.path).map() as mapped:
            tensors = mapped.tensors()
            seconds = time.perf_counter() - began_s
            del tensors
        return seconds

    def _load_file(self) -> float:
        began_s = time.perf_counter()
        tensors = load_file(self._large.path)
        seconds = time.perf_counter() - began_s
        del tensors
        return seconds

    def _fill(self) -> float:
        self._arena.remove("large")
        began_s = time.perf_counter()
        with fill_from_file(self._arena, "large", self._large.path, threads=_THREADS):
            return time.perf_counter() - began_s

    def release(self) -> None:
        """Give the copy's memory back: no more turns."""
        self._huge = self._target = self._mapped = None

    def _copy_mapped(self) -> float:
        """The same bytes where they are: the page cache, its pages mapped before the clock."""
        assert self._mapped is not None
        pages.populate(self._mapped.data_ptr(), len(self._mapped))
        return self._copy(self._mapped)

    def _copy_huge(self) -> float:
        """As many bytes between huge pages: as fast as a copy can be here."""
        assert self._huge is not None
        return self._copy(self._huge)

    def _copy(self, source: torch.Tensor) -> float:
        assert self._target is not None
        return memcpy_seconds(source, self._target, _THREADS)

    def _attach(self) -> float:
        """From the host tier into a prebuilt skeleton: the file that its worker would take."""
        baked = self._small.skeleton.baked
        fill_from_file(self._arena, "small", baked.path, threads=_THREADS).close()
        began_s = time.perf_counter()
        lease = self._arena.lease("small")
        assert lease is not None
        mapped = map_lease(lease, baked)
        self._small.skeleton.plan.attach(mapped)
        seconds = time.perf_counter() - began_s
        self._small.first_token()  # what was attached works
        self._small.detach()
        mapped.close()
        lease.close()
        return seconds


def _mapped(path: Path) -> torch.Tensor:
    with path.open("rb") as file:
        private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(private, dtype=torch.uint8)


@contextmanager
def bench_arena(large: BenchModel, small: BenchModel) -> Iterator[Arena]:
    """An arena with room for both, touched and mapped as a worker's is; removed at the end."""
    path = Path("/dev/shm") / f"pilotlight-bench-{os.getpid()}"
    sizes = large.path.stat().st_size, small.skeleton.baked.nbytes
    arena = Arena.create(path, sum(sizes) + _SPARE_BYTES)
    try:
        arena.map_pages()
        yield arena
    finally:
        arena.close()
        Arena.destroy(path)
