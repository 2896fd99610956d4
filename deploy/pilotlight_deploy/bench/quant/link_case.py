"""From behind a link of 1 GB/s to the first token, in fewer bits and in bf16, in turn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pilotlight_deploy.bench.load.in_turn import in_turn
from pilotlight_deploy.bench.load.link_cases import first_token_while_loading
from pilotlight_deploy.bench.load.models import BenchModel
from pilotlight_deploy.bench.load.peak_memory import peak_memory
from pilotlight_deploy.bench.load.throttled_server import throttled
from pilotlight_deploy.bench.load.touched_memory import TouchedMemory
from pilotlight_deploy.bench.report import Figure, figure
from pilotlight_loader import CpuDevice

BYTES_PER_S = 1e9
_SPARE_BYTES = 64 << 20
_GOAL = 0.45


@dataclass(slots=True)
class LinkSeconds:
    """Of every cold start, by kind."""

    ttft_s: dict[str, list[float]] = field(default_factory=dict)
    cases: list[dict[str, Any]] = field(default_factory=list)

    def figures(self) -> list[Figure]:
        ratios = [
            ours / theirs
            for ours, theirs in zip(self.ttft_s["int4"], self.ttft_s["bf16"], strict=True)
        ]
        return [figure("quant.int4.remote_ttft_ratio", ratios, "x", goal=_GOAL)]


def measure_link(
    models: Mapping[str, BenchModel],
    root: Path,
    *,
    rounds: int,
    bytes_per_s: float = BYTES_PER_S,
) -> LinkSeconds:
    """*root*: a directory with a link to each model's file. Wants a process of its own."""
    torch.set_num_threads(os.cpu_count() or 1)
    measured = LinkSeconds()
    # A worker's memory was touched when it started; one at a time loads into it.
    memory = TouchedMemory(max(model.baked.nbytes for model in models.values()) + _SPARE_BYTES)
    for kind, model in models.items():
        link = root / kind / model.path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(model.path)
    with throttled(root, bytes_per_s) as url:
        for turn in range(rounds):
            for kind, model in in_turn(list(models.items()), turn):
                model.keep_resident()  # on the server's side
                memory.reset()
                address = f"{url}/{kind}/{model.path.name}"
                with peak_memory() as peak:
                    seconds, report = first_token_while_loading(
                        model, address, CpuDevice(memory.allocate)
                    )
                model.detach()
                measured.ttft_s.setdefault(kind, []).append(seconds)
                measured.cases.append(
                    {
                        "case": f"link_{kind}",
                        "ttft_s": seconds,
                        "floor_s": model.baked.nbytes / bytes_per_s,
                        "nbytes": model.baked.nbytes,
                        "retries": report.retries,
                        "peak_rss_bytes": peak(),
                    }
                )
    return measured
