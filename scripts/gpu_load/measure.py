"""Round by round, each case once, until the time is over."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from gpu_load.bench import Bench, note
from gpu_load.cases import Case
from pilotlight_loader.devices.cuda import measure_h2d_bytes_per_s

MEMORY_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Results:
    """Samples by figure and round, and what is missing."""

    samples: dict[str, dict[int, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, figure: str, turn: int, value: float) -> None:
        self.samples.setdefault(figure, {})[turn] = value


def measure(bench: Bench, found: Sequence[Case], runs: int, deadline_s: float) -> Results:
    """Rounds of all cases; round 0 warms up, without the disk, which nothing warms."""
    results = Results()
    longest_s: dict[str, float] = {}
    gc.freeze()  # what was imported stays: looking through it would take 0.2 s before each run
    for turn in range(runs + 1):
        note(f"round {turn} of {runs}" if turn else "warming up")
        if turn and time.monotonic() < deadline_s:
            results.add("gpu.h2d_gb_per_s", turn, h2d_bytes_per_s(bench) / 1e9)
        for case in found:
            begin_s = time.monotonic()
            if (
                begin_s + longest_s.get(case.name, 0.0) > deadline_s
                or case.name in results.left_out
            ):
                continue
            if turn or not case.name.startswith("disk"):
                measure_once(bench, case, turn, results)
            longest_s[case.name] = max(longest_s.get(case.name, 0.0), time.monotonic() - begin_s)
    gc.unfreeze()
    return results


def measure_once(bench: Bench, case: Case, turn: int, results: Results) -> None:
    """A case that fails, or cannot be what its name says, is left out from then on."""
    gc.collect()
    if bench.torch_device.type == "cuda":
        torch.cuda.empty_cache()  # every method allocates anew, as in a process that begins
    try:
        reason = case.prepare()
        if reason is None:
            for figure, seconds in case.run().items():
                if turn:
                    results.add(figure, turn, seconds)
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    if reason is not None:
        results.left_out[case.name] = reason


def h2d_bytes_per_s(bench: Bench) -> float:
    """Of the link; where there is none, of memory."""
    if bench.torch_device.type == "cuda":
        return measure_h2d_bytes_per_s(bench.torch_device.index)
    source = torch.ones(MEMORY_BYTES, dtype=torch.uint8)
    target = torch.ones_like(source)
    start_s = time.perf_counter()
    target.copy_(source)
    return source.numel() / (time.perf_counter() - start_s)
