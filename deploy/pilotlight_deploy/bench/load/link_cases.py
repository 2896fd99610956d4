"""From behind a link of a known rate to a model's first token, while the rest arrives and after."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pilotlight_deploy.bench.load.in_turn import in_turn
from pilotlight_deploy.bench.load.models import BenchModel
from pilotlight_deploy.bench.load.peak_memory import peak_memory
from pilotlight_deploy.bench.load.touched_memory import TouchedMemory
from pilotlight_deploy.bench.report import Figure, figure
from pilotlight_loader import CpuDevice, LoadReport, begin_load, load, open_checkpoint

_GOAL = 1.15
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Link:
    """A rate, and what is loaded over it."""

    name: str  # as in the figure's id
    bytes_per_s: float
    model: BenchModel
    address: str  # of the checkpoint behind it


def first_token_while_loading(
    model: BenchModel, address: str, device: CpuDevice
) -> tuple[float, LoadReport]:
    """Seconds until the token is chosen; the load is waited for afterwards."""
    began_s = time.perf_counter()
    with (
        open_checkpoint(address) as checkpoint,
        begin_load(checkpoint, model.skeleton.module, device) as loading,
    ):
        model.first_token()
        seconds = time.perf_counter() - began_s
        return seconds, loading.wait()


class LinkCases:
    """Each turn measures one link with gates, and without; every second turn in reverse."""

    def __init__(self, link: Link) -> None:
        self._link = link
        # A worker's memory was touched when it started; first touches here are 0.5 to 10 GB/s.
        self._memory: TouchedMemory | None = TouchedMemory(link.model.baked.nbytes + _SPARE_BYTES)
        self._floor_s = link.model.baked.nbytes / link.bytes_per_s
        self._turns = 0
        self._ratios: dict[str, list[float]] = {}
        self.cases: list[dict[str, Any]] = []

    def turn(self) -> None:
        sides = (("gated", self._gated), ("ungated", self._ungated))
        for kind, measure in in_turn(sides, self._turns):
            self._note(kind, measure)
        self._turns += 1

    def figures(self) -> list[Figure]:
        name = f"load.remote_ttft_vs_link_{self._link.name}"
        return [
            figure(name, self._ratios["gated"], "x", goal=_GOAL),
            figure(f"{name}_without_gates", self._ratios["ungated"], "x"),
        ]

    def _note(self, kind: str, measure: Callable[[], tuple[float, LoadReport]]) -> None:
        self._link.model.keep_resident()  # on the server's side
        with peak_memory() as peak:
            seconds, report = measure()
        self._link.model.detach()
        self._ratios.setdefault(kind, []).append(seconds / self._floor_s)
        self.cases.append(
            {
                "case": f"link_{self._link.name}_{kind}",
                "seconds": seconds,
                "floor_s": self._floor_s,
                "nbytes": self._link.model.baked.nbytes,
                "tier": "remote",
                "retries": report.retries,
                "hedges": report.hedges,
                "peak_rss_bytes": peak(),
            }
        )

    def _gated(self) -> tuple[float, LoadReport]:
        return first_token_while_loading(self._link.model, self._link.address, self._device())

    def _device(self) -> CpuDevice:
        assert self._memory is not None
        self._memory.reset()
        return CpuDevice(self._memory.allocate)

    def release(self) -> None:
        """Give the touched memory back: no more turns."""
        self._memory = None

    def _ungated(self) -> tuple[float, LoadReport]:
        model = self._link.model
        began_s = time.perf_counter()
        with open_checkpoint(self._link.address) as checkpoint:
            report = load(checkpoint, model.skeleton.module, self._device())
        model.first_token()
        return time.perf_counter() - began_s, report
