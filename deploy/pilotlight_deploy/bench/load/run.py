"""`pilotlight bench load`: the loader beside what the links allow and what others do."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch

from pilotlight_deploy.bench.load.link_cases import Link, LinkCases
from pilotlight_deploy.bench.load.local_cases import LocalCases, bench_arena
from pilotlight_deploy.bench.load.models import BenchModel, make_model
from pilotlight_deploy.bench.load.nginx import nginx_version, serve_with_nginx
from pilotlight_deploy.bench.load.object_store_cases import (
    BUCKET,
    ObjectStoreCases,
    runai_streamer,
)
from pilotlight_deploy.bench.load.sharing_case import SharingCase
from pilotlight_deploy.bench.load.throttled_server import throttled
from pilotlight_deploy.bench.report import BenchReport, make_report
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode

_LINKS = (("100mbs", 100e6, "bench"), ("1gbs", 1e9, "load"))
_ROOT = "served"

OnProgress = Callable[[str], None]


def run(home: Path, *, runs: int, with_peer: bool, on_progress: OnProgress) -> BenchReport:
    """Measure, and report. Raises CliError where a side cannot be measured."""
    if with_peer and find_spec("runai_model_streamer") is None:
        raise CliError(
            "Run:ai's streamer is not installed",
            ExitCode.MACHINE_UNFIT,
            "pip install --group bench, or leave it out with --no-peer",
        )
    torch.set_num_threads(os.cpu_count() or 1)
    small = make_model(home, "bench", on_progress)
    large = make_model(home, "load", on_progress)
    root = _serve_directory(home, small, large)
    sides: list[LocalCases | ObjectStoreCases | LinkCases | SharingCase] = [
        _local(large, small, runs, on_progress),
        _object_store(large, root, runs, with_peer, on_progress),
    ]
    models = {"bench": small, "load": large}
    for name, rate, size in _LINKS:
        with throttled(root, rate) as url:
            address = f"{url}/{BUCKET}/{size}/model.safetensors"
            sides.append(_link(Link(name, rate, models[size], address), runs, on_progress))
    # A link that is faster than many a disk: the first load then brings what the disk left out.
    with throttled(root, _LINKS[1][1]) as url:
        address = f"{url}/{BUCKET}/bench/model.safetensors"
        sides.append(_sharing(SharingCase(small, address, home), runs, on_progress))
    arguments = ["bench", "load", "--runs", str(runs), *([] if with_peer else ["--no-peer"])]
    cases = [case for side in sides for case in side.cases]
    cases.append({"case": "servers", "nginx": nginx_version(), "links": "throttled_server.py"})
    return make_report(
        "load", [f for side in sides for f in side.figures()], cases, arguments=arguments
    )


def _local(large: BenchModel, small: BenchModel, runs: int, on_progress: OnProgress) -> LocalCases:
    on_progress("touching the arena")
    with bench_arena(large, small) as arena:
        cases = LocalCases(large, small, arena)
        for turn in range(1, runs + 1):
            on_progress(f"run {turn} of {runs}: page cache, arena, attach")
            cases.turn()
        cases.release()
    return cases


def _object_store(
    model: BenchModel, root: Path, runs: int, with_peer: bool, on_progress: OnProgress
) -> ObjectStoreCases:
    key = "load/model.safetensors"
    with ExitStack() as stack:
        url = stack.enter_context(serve_with_nginx(root))
        peer = stack.enter_context(runai_streamer(url, key)) if with_peer else None
        cases = ObjectStoreCases(model, url, key, peer)
        for turn in range(1, runs + 1):
            on_progress(f"run {turn} of {runs}: object store on loopback")
            cases.turn()
        cases.release()
    return cases


def _link(link: Link, runs: int, on_progress: OnProgress) -> LinkCases:
    cases = LinkCases(link)
    for turn in range(1, runs + 1):
        on_progress(f"run {turn} of {runs}: a link of {link.bytes_per_s / 1e6:g} MB/s")
        cases.turn()
    cases.release()
    return cases


def _sharing(case: SharingCase, runs: int, on_progress: OnProgress) -> SharingCase:
    for turn in range(1, runs + 1):
        on_progress(f"run {turn} of {runs}: a second worker")
        case.turn()
    return case


def _serve_directory(home: Path, *models: BenchModel) -> Path:
    """ROOT/bench/NAME/model.safetensors, as links: what the servers show."""
    root = home / "bench-load" / _ROOT
    for model in models:
        link = root / BUCKET / model.name / "model.safetensors"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(model.path)
    return root
