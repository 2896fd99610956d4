"""`pilotlight bench quant`: what weights in fewer bits cost, and what they bring."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from transformers.utils import logging as transformers_logging

from pilotlight_deploy.bench.load.models import make_model
from pilotlight_deploy.bench.quant.bytes_cases import bytes_figures
from pilotlight_deploy.bench.quant.link_case import LinkSeconds, measure_link
from pilotlight_deploy.bench.quant.llamacpp_peer import llamacpp_figures
from pilotlight_deploy.bench.quant.quality_cases import VARIANTS, QualityCases
from pilotlight_deploy.bench.quant.sparse_case import sparse24_figure
from pilotlight_deploy.bench.quant.speed_cases import SpeedCases, measure_speed
from pilotlight_deploy.bench.report import BenchReport, Figure, make_report
from pilotlight_platform.schemas.model import Quantization

THREADS = 2
_SIZE: Any = "bench"
_KINDS: dict[str, Quantization] = {"bf16": "none", "int8": "int8", "int4": "int4"}
_LINK_KINDS = ("bf16", "int4")

OnProgress = Callable[[str], None]
_P = ParamSpec("_P")
_R = TypeVar("_R")


def run(home: Path, *, runs: int, with_peer: bool, on_progress: OnProgress) -> BenchReport:
    """Measure, and report. Raises CliError, DeployError where a side cannot be measured."""
    torch.set_num_threads(THREADS)
    transformers_logging.disable_progress_bar()  # one line tells the progress already
    figures: list[Figure] = []
    cases: list[dict[str, Any]] = []
    quality = QualityCases(home)
    quality.run(VARIANTS, on_progress)
    figures += quality.figures()
    cases += quality.cases
    directories = {}
    models = {}
    for kind, quantization in _KINDS.items():
        models[kind] = make_model(home, _SIZE, on_progress, quantization)
        directories[kind] = models[kind].path.parent
    made, noted = bytes_figures(models)
    figures += made
    cases += noted
    del models
    on_progress("2:4 sparse weights")
    figures.append(sparse24_figure(home))
    on_progress(f"{runs} cold starts over a link of 1 GB/s, each way")
    link = in_fresh_process(link_seconds, home, runs)
    figures += link.figures()
    cases += link.cases
    on_progress(f"decode and prefill, {runs} rounds")
    speed = in_fresh_process(speed_cases, directories, runs)
    figures += speed.figures()
    cases += speed.cases()
    if with_peer:
        on_progress("llama.cpp, the same shape and bits")
        made, noted = in_fresh_process(llamacpp_figures, home, runs, THREADS)
        figures += made
        cases += noted
    arguments = ["bench", "quant", "--runs", str(runs), *([] if with_peer else ["--no-peer"])]
    return make_report("quant", figures, cases, arguments=arguments)


def in_fresh_process(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run *function*, of a module, in a process with no OpenMP pool but the one that it makes."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawning) as pool:
        return pool.submit(function, *args, **kwargs).result()


def link_seconds(home: Path, runs: int) -> LinkSeconds:
    models = {kind: make_model(home, _SIZE, lambda _: None, _KINDS[kind]) for kind in _LINK_KINDS}
    return measure_link(models, home / "bench-quant" / "served", rounds=runs)


def speed_cases(directories: dict[str, Path], runs: int) -> SpeedCases:
    return measure_speed(directories, rounds=runs, threads=THREADS)
