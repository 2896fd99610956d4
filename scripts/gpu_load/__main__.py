"""How fast weights reach a GPU from each tier, beside the link's own speed and other loaders.

    PYTHONPATH=loader:scripts python -m gpu_load --out gpu-load.json

Needs torch, transformers and safetensors, 14 GB of disk, 45 GB of memory (27 of them in /dev/shm)
and a GPU; less than ten minutes. fastsafetensors, instanttensor and runai_model_streamer are
measured where they are installed. `--shape tiny --device simulated` tries the script itself.

The weights are random, in the shape of MPT-7B. The methods take turns, round by round; the first
round warms up and does not count. The first token is that of a prompt of 16, greedily. What a
worker does once, before it is asked, is done before the clock starts: the CUDA context, the arena
filled and registered, its header read, the module's skeleton. Allocating device memory counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gpu_load.bench import SHAPES, set_up
from gpu_load.cases import TIERS, cases
from gpu_load.measure import measure
from gpu_load.report import make_report, print_table


def main(arguments: Sequence[str]) -> int:
    """0 if every tier was measured, and all of them answered alike."""
    parser = argparse.ArgumentParser(description="weights to a GPU, from every tier")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--device", choices=("cuda", "cpu", "simulated"), default="cuda")
    parser.add_argument("--directory", type=Path, help="on the disk that is measured")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    parser.add_argument("--runs", type=int, default=7, help="of each case, while there is time")
    parser.add_argument("--budget-s", type=float, default=540.0, help="no run begins that exceeds")
    asked = parser.parse_args(arguments)
    deadline_s = time.monotonic() + asked.budget_s
    with set_up(asked) as bench:
        results = measure(bench, cases(bench), asked.runs, deadline_s)
        answers = {bench.tokens.get(tier) for tier in TIERS}
        report = make_report(bench, results, asked, arguments)
    if asked.out is not None:
        asked.out.write_text(json.dumps(report, indent=2) + "\n")
    print_table(report)
    return 0 if len(answers) == 1 and None not in answers else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
