"""In the frame of `pilotlight bench`; without pilotlight_deploy, which needs far more."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gpu_load.bench import Bench
from gpu_load.measure import Results
from gpu_load.peers import BUILT_IN, OPTIONAL

ARENA_VS_H2D, ARENA_GOAL = "gpu.arena_ttft_vs_h2d", 1.15
PEER_PREFIX, PEER_GOAL = "gpu.vs_", 1.0
PACKAGES = ("torch", "transformers", "safetensors", "accelerate", *OPTIONAL)


def make_report(
    bench: Bench,
    results: Results,
    asked: argparse.Namespace,
    arguments: Sequence[str],
) -> dict[str, Any]:
    """*arguments* are those of the script."""
    return {
        "bench": "gpu_load",
        "at": datetime.now(UTC).isoformat(),
        "machine": machine(bench),
        "versions": versions(PACKAGES),
        "command": shlex.join(["python", "-m", "gpu_load", *arguments]),
        "figures": figures(bench, results),
        "cases": [
            {"case": "weights", "shape": asked.shape, "nbytes": bench.nbytes},
            {"case": "device", "device": asked.device},
            *({"case": name, "first_token": token} for name, token in bench.tokens.items()),
            *({"case": name, "left_out": why} for name, why in results.left_out.items()),
        ],
    }


def figures(bench: Bench, results: Results) -> list[dict[str, Any]]:
    samples = dict(results.samples)
    samples[ARENA_VS_H2D] = paired(
        samples, "gpu.arena_ttft_s", "gpu.h2d_gb_per_s", lambda s, gb: s * gb * 1e9 / bench.nbytes
    )
    for peer in BUILT_IN | OPTIONAL:
        samples[PEER_PREFIX + peer] = paired(
            samples, f"gpu.{peer}_ttft_s", "gpu.page_cache_ttft_s", lambda peer_s, s: peer_s / s
        )
    return [_figure(name, list(found.values())) for name, found in samples.items() if found]


def paired(
    samples: Mapping[str, Mapping[int, float]],
    first: str,
    second: str,
    combine: Callable[[float, float], float],
) -> dict[int, float]:
    """Of rounds that have both."""
    one, other = samples.get(first, {}), samples.get(second, {})
    return {turn: combine(value, other[turn]) for turn, value in one.items() if turn in other}


def _figure(name: str, values: Sequence[float]) -> dict[str, Any]:
    is_peer, is_speed = name.startswith(PEER_PREFIX), name.endswith("gb_per_s")
    is_ratio = is_peer or name == ARENA_VS_H2D
    unit = "GB/s" if is_speed else "x" if is_ratio else "s"
    goal = PEER_GOAL if is_peer else ARENA_GOAL if is_ratio else None
    return figure(name, values, unit, goal, "higher" if is_speed or is_peer else "lower")


def figure(
    name: str, values: Sequence[float], unit: str, goal: float | None, better: str = "lower"
) -> dict[str, Any]:
    """As `pilotlight bench` has them."""
    return {
        "id": name,
        "value": statistics.median(values),
        "unit": unit,
        "goal": goal,
        "better": better,
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def machine(bench: Bench) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    has_gpu = bench.torch_device.type == "cuda"
    return {
        "cpu": next(models, platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "gpu": torch.cuda.get_device_name(bench.torch_device) if has_gpu else None,
    }


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def print_table(report: Mapping[str, Any]) -> None:
    print(f"{'figure':38}{'median':>12} {'min … max':>24} {'n':>3}  goal")
    for item in report["figures"]:
        spread = f"{item['min']:.4g} … {item['max']:.4g}"
        sign = "≤" if item["better"] == "lower" else "≥"
        goal = "" if item["goal"] is None else f"{sign} {item['goal']:g}"
        median = f"{item['value']:.4g} {item['unit']}"
        print(f"{item['id']:38}{median:>12} {spread:>24} {item['n']:>3}  {goal}")
    for case in report["cases"]:
        if "left_out" in case:
            print(f"left out: {case['case']}: {case['left_out']}")
