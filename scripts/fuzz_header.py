"""Fuzz what reads safetensors headers, indices and baked manifests; needs atheris.

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris safetensors torch numpy
    /tmp/fuzz/bin/python scripts/fuzz_header.py --inputs 1000000 --record fuzz-header.json

Guided by the coverage of pilotlight_loader. The checks are tests/support/header_checks.py:
nothing but the loader's errors, and the same answer as safetensors or a stricter one, for a
reason that stands there. An input is one byte that says as what it is read, then the bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import shlex
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "loader"), str(ROOT / "tests")]

MAX_INPUT_BYTES = 8192  # a baked header is 4096 at least
INPUT_LIMIT_S = 5  # libFuzzer calls it a hang after that
MEMORY_LIMIT_BYTES = 512 * 1024 * 1024  # that inputs may add to what the imports took
# The first byte modulo 8: what the rest is read as.
HEADER, SIZED_HEADER, INDEX, MANIFEST = range(0, 5), 5, 6, 7
NAMES = ("header",) * 5 + ("sized_header", "index", "manifest")
REPORT_INPUTS = 1000
FRESH_SHARE = 0.4
COUNTS = "COUNTS "


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write what was run and found, as JSON")
    parser.add_argument("--corpus", type=Path, help="keep inputs that found new paths here")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        _fuzz(asked.inputs, asked.seed, asked.corpus)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        corpus = asked.corpus or Path(directory)
        corpus.mkdir(parents=True, exist_ok=True)
        return _supervise(asked, corpus)


def _supervise(asked: argparse.Namespace, corpus: Path) -> int:
    """Run the fuzzer in a process of its own: libFuzzer ends the one that it is in."""
    command = [sys.executable, __file__, "--child", "--inputs", str(asked.inputs)]
    command += ["--seed", str(asked.seed), "--corpus", str(corpus)]
    start_s = time.monotonic()
    lines: list[str] = []
    counts: dict[str, dict[str, int]] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith(COUNTS):
                counts = json.loads(line.removeprefix(COUNTS))
                continue
            print(line, end="", file=sys.stderr)
            if line.startswith(("#", "stat::")):
                lines.append(line)
    seconds = time.monotonic() - start_s
    record = _record(lines, child.returncode, seconds, asked) | {"counts": counts}
    print(json.dumps(record, indent=2))
    if asked.record is not None:
        asked.record.write_text(json.dumps(record, indent=2) + "\n")
    return child.returncode


def _record(
    lines: list[str], code: int, seconds: float, asked: argparse.Namespace
) -> dict[str, object]:
    text = "".join(lines)
    stats = {key: int(value) for key, value in re.findall(r"stat::(\w+):\s+(\d+)", text)}
    progress = re.findall(r"^#\d+\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)", text, re.MULTILINE)
    edges, features, corpus = map(int, progress[-1]) if progress else (0, 0, 0)
    return {
        "fuzz": "header",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "cores_used": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("atheris", "torch", "safetensors")},
        },
        "command": shlex.join(["python", "scripts/fuzz_header.py", *sys.argv[1:]]),
        "seed": asked.seed,
        "inputs": stats.get("number_of_executed_units", 0),
        "seconds": round(seconds, 1),
        "edges": edges,
        "features": features,
        "corpus": corpus,
        "slowest_input_s": stats.get("slowest_unit_time_sec"),
        "peak_rss_mb": stats.get("peak_rss_mb"),
        "crashes": int(code != 0),
        "limits": {
            "input_bytes": MAX_INPUT_BYTES,
            "input_s": INPUT_LIMIT_S,
            "memory_bytes_above_imports": MEMORY_LIMIT_BYTES,
        },
    }


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _fuzz(inputs: int, seed: int, corpus: Path) -> None:
    import atheris  # noqa: PLC0415 - has to come before what it instruments

    with atheris.instrument_imports(include=["pilotlight_loader"]):
        import pilotlight_loader.header  # noqa: F401, PLC0415
    from support import header_mutations  # noqa: PLC0415 - not to be guided by

    tried, accepted = Counter[str](), Counter[str]()

    def test_one_input(data: bytes) -> None:
        kind, raw = (data[0] % 8 if data else 0), bytes(data[1:])
        tried[NAMES[kind]] += 1
        accepted[NAMES[kind]] += judge(kind, raw)
        if tried.total() % REPORT_INPUTS == 0:
            # To the supervisor: libFuzzer ends the process without a last word of Python's.
            print(COUNTS + json.dumps({"tried": tried, "accepted": accepted}), file=sys.stderr)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        # Corpora of parsers fill up with what is refused early: begin with a valid one often.
        data = rng.choice(examples) if rng.random() < FRESH_SHARE or not data else data
        kind, raw = data[:1], bytes(data[1:])
        try:
            mutated = _mutated(kind[0] % 8, raw, rng, header_mutations)
        except (ValueError, RecursionError):  # no JSON any more: nothing to be clever about
            mutated = None
        if mutated is None or len(mutated) >= max_size:
            return atheris.Mutate(data, max_size)
        return kind + mutated

    examples = seeds()
    for number, example in enumerate(examples):
        (corpus / f"seed-{number}").write_bytes(example)
    _limit_memory()
    atheris.Setup(
        [
            sys.argv[0], str(corpus), f"-runs={inputs}", f"-seed={seed}", "-print_final_stats=1",
            f"-max_len={MAX_INPUT_BYTES}", "-len_control=0", f"-timeout={INPUT_LIMIT_S}",
            "-rss_limit_mb=2048", f"-artifact_prefix={tempfile.gettempdir()}/fuzz-header-",
        ],
        test_one_input,
        custom_mutator=mutate,
    )  # fmt: skip
    atheris.Fuzz()


def judge(kind: int, raw: bytes) -> bool:
    """Whether *raw* is accepted as what *kind* says. Raises where a check does not hold."""
    from support import header_checks  # noqa: PLC0415 - imports what has to be instrumented

    if kind in HEADER:
        found: object = header_checks.check_agreement(raw)
    elif kind == SIZED_HEADER:
        (size,) = struct.unpack("<Q", raw[:8].ljust(8, b"\0"))
        found = header_checks.check_header(raw[8:], size)
    elif kind == INDEX:
        found = header_checks.check_json(raw)
    else:
        found = header_checks.check_manifest(raw)
    return found is not None


def _mutated(kind: int, raw: bytes, rng: random.Random, mutations) -> bytes | None:
    """A mutation that knows what it changes; None for one of libFuzzer's own."""
    roll = rng.random()
    if roll < 0.2:
        return None
    if kind in HEADER and roll < 0.35:  # libFuzzer's earlier changes, with a prefix that fits
        text = raw[8:]
        cut = text.rfind(b"}") + 1 or len(text)
        return mutations.with_prefix(text[:cut]) + text[cut:]
    if kind in HEADER:
        return mutations.mutate_file(raw, rng)
    if kind == SIZED_HEADER:
        # No data: sizes that no file here could have.
        node = mutations.mutate(mutations.parse(raw[16:]), rng)
        data_bytes = mutations.repair(node)
        text = mutations.dump(node, rng).encode("utf-8", "surrogatepass")
        size = min(8 + len(text) + data_bytes, 2**64 - 1)
        return struct.pack("<Q", size) + mutations.with_prefix(text)
    node = mutations.mutate(mutations.parse(raw), rng)
    return mutations.dump(node, rng).encode("utf-8", "surrogatepass")


def seeds() -> list[bytes]:
    """Valid headers of all kinds, an index, and a manifest."""
    import torch  # noqa: PLC0415 - not for the supervising process
    from safetensors.torch import save  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from pilotlight_loader import bake  # noqa: PLC0415
    from pilotlight_loader.dtypes import DTYPE_BITS  # noqa: PLC0415

    module = nn.Module()
    module.register_buffer("a", torch.zeros(2, 3))
    module.register_buffer("b", torch.ones(0, 4, dtype=torch.bool))
    module.c = module.b
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "baked.safetensors"
        bake(module, path, order=[], metadata={"note": "é"})
        baked = path.read_bytes()
    all_dtypes: dict[str, object] = {}
    position = 0
    for name, bits in DTYPE_BITS.items():
        offsets = [position, position + bits]
        all_dtypes[name] = {"dtype": name, "shape": [2, 1, 4], "data_offsets": offsets}
        position += bits
    text = json.dumps(all_dtypes, separators=(",", ":")).encode()
    every = struct.pack("<Q", len(text)) + text + bytes(position)
    small = save({"w": torch.ones(2, dtype=torch.float16)}, {"k": "v"})
    (length,) = struct.unpack_from("<Q", baked)
    manifest = json.dumps(json.loads(baked[8 : 8 + length])["__metadata__"])
    index = {"metadata": {"total_size": 4.5}, "weight_map": {"w": "a.safetensors", "v": "b"}}
    # Sizes at the edge of 64 bits.
    huge = {"w": {"dtype": "U8", "shape": [2**59, 1], "data_offsets": [0, 2**59]}}
    sized = json.dumps(huge).encode()
    sized = struct.pack("<QQ", 8 + len(sized) + 2**59, len(sized)) + sized
    return [
        b"\0" + baked,
        b"\1" + every,
        b"\2" + small,
        b"\3" + struct.pack("<Q", 2) + b"{}",
        b"\5" + sized,
        b"\6" + json.dumps(index).encode(),
        b"\7" + manifest.encode(),
    ]


def _limit_memory() -> None:
    """An allocation beyond the limit is a MemoryError, which no check expects."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
