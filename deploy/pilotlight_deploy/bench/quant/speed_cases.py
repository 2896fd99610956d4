"""Decode and prefill through the engine, one request at a time: each kind in turn, one process."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotlight_deploy.bench.load.in_turn import in_turn
from pilotlight_deploy.bench.load.peak_memory import peak_memory
from pilotlight_deploy.bench.report import Figure, figure
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.openmp import compute_alone
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.schemas.generation import (
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
)

PROMPT_TOKENS = 128
DECODED = 32
_TIMEOUT_S = 120.0
_DECODE_GOALS = {"int8": 1.3, "int4": 1.5}
_PREFILL_GOAL = 1.3


@dataclass(slots=True)
class SpeedCases:
    """Seconds of every run, by kind."""

    prefill_s: dict[str, list[float]] = field(default_factory=dict)
    decode_s: dict[str, list[float]] = field(default_factory=dict)  # of one token
    peak_rss_bytes: int = 0

    def figures(self) -> list[Figure]:
        made = [
            figure(
                f"quant.{kind}.decode_speedup",
                _ratios(self.decode_s["bf16"], self.decode_s[kind]),
                "x",
                better="higher",
                goal=goal,
            )
            for kind, goal in _DECODE_GOALS.items()
        ]
        ratios = _ratios(self.prefill_s["int4"], self.prefill_s["bf16"])
        return [*made, figure("quant.int4.prefill_ratio", ratios, "x", goal=_PREFILL_GOAL)]

    def cases(self) -> list[dict[str, Any]]:
        return [
            {
                "case": f"speed_{kind}",
                "prompt_tokens": PROMPT_TOKENS,
                "prefill_s": self.prefill_s[kind],
                "decode_s": self.decode_s[kind],
                "peak_rss_bytes": self.peak_rss_bytes,  # of the process with all kinds attached
            }
            for kind in self.prefill_s
        ]


def measure_speed(directories: Mapping[str, Path], *, rounds: int, threads: int) -> SpeedCases:
    """*directories*: the baked model by kind, `bf16` among them. Wants a process of its own.

    One OpenMP pool, that of the engine's thread: see engine/openmp.py.
    """
    compute_alone()
    measured = SpeedCases()
    with ExitStack() as stack, peak_memory() as peak:
        engine = stack.enter_context(Engine(threads))
        replicas: dict[str, Replica] = {}
        for kind, directory in directories.items():
            replicas[kind] = Replica.attach(Skeleton.load(directory))
            stack.callback(replicas[kind].detach)
            _answer_s(engine, replicas[kind], 2)  # its kernels, and its pages
        for turn in range(rounds):
            for kind, replica in in_turn(list(replicas.items()), turn):
                prefill_s = _answer_s(engine, replica, 1)
                decode_s = (_answer_s(engine, replica, 1 + DECODED) - prefill_s) / DECODED
                measured.prefill_s.setdefault(kind, []).append(prefill_s)
                measured.decode_s.setdefault(kind, []).append(decode_s)
        measured.peak_rss_bytes = peak()
    return measured


def _answer_s(engine: Engine, replica: Replica, tokens: int) -> float:
    """Seconds from a prompt to the last of so many tokens."""
    answers: queue.SimpleQueue[GenerationChunk | PlatformError] = queue.SimpleQueue()
    request = GenerationRequest(
        "bench",
        "bench",
        SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True),
        prompt_tokens=prompt(PROMPT_TOKENS, replica.skeleton.vocab_size),
    )
    began_s = time.perf_counter()
    engine.submit(replica, request, answers.put)
    while True:
        answer = answers.get(timeout=_TIMEOUT_S)
        if isinstance(answer, PlatformError):
            raise answer
        if answer.finish_reason is not None:
            return time.perf_counter() - began_s


def prompt(tokens: int, vocabulary: int) -> tuple[int, ...]:
    """Different tokens, none of the first few, which may be special."""
    return tuple(11 + 7 * position % (vocabulary - 11) for position in range(tokens))


def _ratios(over: list[float], under: list[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]
