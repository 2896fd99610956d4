"""How fast quantized weights reach a GPU and answer, and whether its kernels are right.

    PYTHONPATH=loader:scripts python -m gpu_quant --out gpu-quant.json

Needs torch, transformers, safetensors, 7 GB of disk, 7 GB of /dev/shm and a GPU; a few minutes.
`--shape tiny --device simulated` tries the script itself. Beside it, on the same machine:
`python -m pytest tests/loader/quantize tests/loader/sparse tests/loader/devices`.

The codes are random, in the shape of MPT-7B, laid out for CUDA. What is timed is as in gpu_load:
from a module without weights to the first token, the bytes in a registered arena. The exit status
is 1 where a product is not that of the dequantized weights, or a kind gave no token.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_load.bench import SHAPES, note
from gpu_load.cases import arena_cases
from gpu_load.measure import measure
from gpu_load.report import figure, machine, paired, print_table, versions

from gpu_quant.checkpoint import KINDS, set_up
from gpu_quant.kernels import logits_error, products, sparse_products

PACKAGES = ("torch", "transformers", "safetensors", "triton")
TTFT_GOAL_S = {"int4": 0.25, "int8": 0.25, "fp8": None}
MOST_ERROR = 1e-2  # of a product's norm; bfloat16 alone makes 3e-3 of it
MOST_LOGITS_ERROR = 6e-2  # of the largest, as a deploy's verification allows


def main(arguments: Sequence[str]) -> int:
    """0 if every kind answered, and every product is right."""
    parser = argparse.ArgumentParser(description="quantized weights on a GPU")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--device", choices=("cuda", "cpu", "simulated"), default="cuda")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--directory", type=Path, help="where 7 GB are free")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    parser.add_argument("--runs", type=int, default=7, help="of each kind, while there is time")
    parser.add_argument("--budget-s", type=float, default=480.0, help="no run begins that exceeds")
    asked = parser.parse_args(arguments)
    start_s = time.monotonic()
    found: list[dict[str, Any]] = []
    cases: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for at, kind in enumerate(asked.kinds, 1):
        deadline_s = start_s + asked.budget_s * at / len(asked.kinds)
        with set_up(asked, kind) as bench:
            about = machine(bench)
            note(f"{kind}: measuring")
            results = measure(bench, arena_cases(bench), asked.runs, deadline_s)
            cases += [
                {"case": "weights", "kind": kind, "shape": asked.shape, "nbytes": bench.nbytes},
                *(
                    {"case": f"{kind}: {name}", "left_out": why}
                    for name, why in results.left_out.items()
                ),
            ]
            found += figures(kind, results.samples, bench.nbytes)
            if "arena" in bench.tokens:
                found.append(
                    figure(
                        f"gpu.quant.{kind}.logits_error",
                        [logits_error(bench)],
                        "x",
                        MOST_LOGITS_ERROR,
                    )
                )
            note(f"{kind}: products")
            cases += products(bench)
    cases += sparse_products(asked)
    report = {
        "bench": "gpu_quant",
        "at": datetime.now(UTC).isoformat(),
        "machine": about,
        "versions": versions(PACKAGES),
        "command": shlex.join(["python", "-m", "gpu_quant", *arguments]),
        "figures": found,
        "cases": cases,
    }
    if asked.out is not None:
        asked.out.write_text(json.dumps(report, indent=2) + "\n")
    print_table(report)
    print_products(cases)
    return 0 if is_right(report, asked.kinds) else 1


def figures(
    kind: str, samples: Mapping[str, Mapping[int, float]], nbytes: int
) -> list[dict[str, Any]]:
    """The link is measured once in each round, as the times are."""
    ratio = paired(
        samples, "gpu.arena_ttft_s", "gpu.h2d_gb_per_s", lambda s, gb: s * gb * 1e9 / nbytes
    )
    wanted = [
        ("arena_ttft_s", samples.get("gpu.arena_ttft_s", {}), "s", TTFT_GOAL_S[kind], "lower"),
        ("arena_last_byte_s", samples.get("gpu.arena_last_byte_s", {}), "s", None, "lower"),
        ("arena_ttft_vs_h2d", ratio, "x", None, "lower"),
        ("h2d_gb_per_s", samples.get("gpu.h2d_gb_per_s", {}), "GB/s", None, "higher"),
    ]
    return [
        figure(f"gpu.quant.{kind}.{name}", list(values.values()), unit, goal, better)
        for name, values, unit, goal, better in wanted
        if values
    ]


def is_right(report: Mapping[str, Any], kinds: Sequence[str]) -> bool:
    by_id = {item["id"]: item["value"] for item in report["figures"]}
    logits = [by_id.get(f"gpu.quant.{kind}.logits_error", 1.0) for kind in kinds]
    served = [case for case in report["cases"] if case.get("by") == "served"]
    return (
        all(error <= MOST_LOGITS_ERROR for error in logits)
        and all(case.get("error", 1.0) <= MOST_ERROR for case in served)
        and bool(served)
    )


def print_products(cases: Sequence[Mapping[str, Any]]) -> None:
    print(f"\n{'product':10}{'weight':>16}{'rows':>5}  {'by':20}{'µs':>10}  error")
    for case in cases:
        if case["case"] == "product":
            shape = "×".join(map(str, case["shape"]))
            line = f"{case['kind']:10}{shape:>16}{case['rows']:>5}  {case['by']:20}"
            if "refused" in case:
                print(f"{line}{'refused':>10}  {case['refused']:.60}")
            else:
                print(f"{line}{case['us']:>10.1f}  {case['error']:.2g}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
