"""`pilotlight bench cold`: the cold start here against Ray Serve + transformers, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import serve

from pilotlight_deploy.bench.first_token import FirstToken, first_token
from pilotlight_deploy.bench.page_cache import keep_in_page_cache
from pilotlight_deploy.bench.ray_serve_peer import (
    DEFAULTS,
    TUNED,
    build_peer,
    running_replicas,
)
from pilotlight_deploy.bench.report import BenchReport, Figure, figure, make_report
from pilotlight_deploy.client import PlatformClient
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.free_port import free_port
from pilotlight_deploy.options import load
from pilotlight_deploy.sample import write_sample
from pilotlight_platform.address import PlatformAddress
from pilotlight_platform.background import start_detached, stop_platform
from pilotlight_platform.schemas.model import DeployLive, ModelSpec
from pilotlight_platform.schemas.timeline import Timeline
from pilotlight_platform.settings import Settings

MODEL = "bench"
_PROMPT_TOKENS = 16
_TOKENS = 2  # the first, and one that shows that the stream goes on
# Before every request, cold, warm or the peer's, the whole machine rests this long: a core that
# has just computed answers up to a third faster than one that wakes, which would flatter whichever
# case comes right after another.
_REST_S = 3.0
_IDLE_TIMEOUT_S = 6.0  # longer than the rest, so that the warm request finds its replica
_SETTLE_S = 10.0  # Ray starts processes ahead when an application comes; nobody is timed beside it
_DEFAULTS_RUNS = 2
_DEFAULTS_REST_S = 24.0  # with Ray's look-back of 30 s a shorter rest would leave it half awake
_ZERO_TIMEOUT_S = 120.0
_RESIDENT = 0.999  # what "from the page cache" must mean

OnProgress = Callable[[str], None]


def run(home: Path, *, runs: int, on_progress: OnProgress) -> BenchReport:
    """Measure, and report. Raises CliError if a side cannot be measured, MachineError."""
    settings = load(home / "bench", host="127.0.0.1", port=free_port(), workers=1)
    settings = settings.model_copy(
        update={"redis_url": None, "ray_address": None, "serve_port": free_port()}
    )
    on_progress("writing the model (0.63 GB)")
    source = write_sample(home / "sample-bench", "bench").path
    on_progress("starting the platform")
    with _platform(settings, on_progress) as address, PlatformClient(address.url, None) as client:
        spec = ModelSpec.model_validate(
            {
                "name": MODEL,
                "source": str(source),
                "autoscaling": {"idle_timeout_s": _IDLE_TIMEOUT_S},
            }
        )
        on_progress("deploying the model: baking and verifying")
        live = [event for event in client.deploy(spec) if isinstance(event, DeployLive)]
        baked = Path(live[-1].model.record.revision.path)
        bench = _Bench(client, settings, source, baked)
        with _peer(address, source, settings.threads_per_worker):
            for turn in range(1, runs + 1):
                bench.turn(turn, runs, on_progress)
        with _peer(address, source, settings.threads_per_worker, defaults=True):
            for turn in range(1, min(_DEFAULTS_RUNS, runs) + 1):
                bench.defaults_turn(turn, on_progress)
    return make_report(
        "cold", bench.figures(), bench.cases, arguments=["bench", "cold", "--runs", str(runs)]
    )


class _Bench:
    """The measured requests of one run, by case."""

    def __init__(
        self,
        client: PlatformClient,
        settings: Settings,
        source: Path,
        baked: Path,
    ) -> None:
        self._client = client
        self._url = f"http://{settings.host}:{settings.port}"
        self._peer_url = f"http://{settings.host}:{settings.serve_port}/{_PEER}"
        self._source = source / "model.safetensors"
        # A worker attaches one of the baked ones, whichever fits its kernel.
        self._files = [*baked.glob("model*.safetensors"), self._source]
        self._threads = settings.threads_per_worker
        self._ttft_s: dict[str, list[float]] = {}
        self.cases: list[dict[str, Any]] = []

    def turn(self, turn: int, runs: int, on_progress: OnProgress) -> None:
        """One of each: (a) here cold, (b) here warm, (c) the tuned peer cold."""
        on_progress(f"run {turn} of {runs}: here, from zero")
        self._rest_at_zero()
        self._ours("cold")
        on_progress(f"run {turn} of {runs}: here, warm")
        time.sleep(_REST_S)
        self._ours("warm")
        on_progress(f"run {turn} of {runs}: Ray Serve, tuned, from zero")
        _wait_until(lambda: running_replicas(_PEER) == 0, "the Ray Serve peer to reach zero")
        self._rest_at_zero()
        self._peer("ray_serve")

    def defaults_turn(self, turn: int, on_progress: OnProgress) -> None:
        on_progress(f"run {turn} of {_DEFAULTS_RUNS}: Ray Serve with its defaults, from zero")
        _wait_until(lambda: running_replicas(_PEER) == 0, "the Ray Serve peer to reach zero")
        time.sleep(_DEFAULTS_REST_S)
        self._peer("ray_serve_defaults")

    def figures(self) -> list[Figure]:
        cold, warm, peer = (self._ttft_s[case] for case in ("cold", "warm", "ray_serve"))
        ratios = [theirs / ours for ours, theirs in zip(cold, peer, strict=True)]
        extra = [(c - w) * 1e3 for c, w in zip(cold, warm, strict=True)]
        return [
            _of_medians("cold.ratio_vs_ray_serve", ratios, _median(peer) / _median(cold), 50.0),
            _of_medians("cold.minus_warm_ms", extra, (_median(cold) - _median(warm)) * 1e3, 50.0),
            *(
                figure(f"{case}.ttft_ms", [seconds * 1e3 for seconds in self._ttft_s[case]], "ms")
                for case in ("cold", "warm", "ray_serve", "ray_serve_defaults")
            ),
        ]

    def _rest_at_zero(self) -> None:
        """Until the model is at zero, then for a while: nobody is helped by the last run."""
        _wait_until(lambda: self._client.model(MODEL).state == "zero", "the model to reach zero")
        time.sleep(_REST_S)
        for path in self._files:
            keep_in_page_cache(path, _RESIDENT)

    def _ours(self, case: str) -> None:
        body = {"model": MODEL, "ignore_eos": True, "temperature": 0, **_question()}
        measured = first_token(f"{self._url}/v1/completions", body, {})
        timeline = self._client.finished_timeline(measured.request_id)
        if timeline.cold != (case == "cold"):
            raise CliError(f"a {case} request was not {case}", ExitCode.UNEXPECTED)
        self._note(case, measured, spans=_spans(timeline))

    def _peer(self, case: str) -> None:
        measured = first_token(f"{self._peer_url}/v1/completions", _question(), {})
        self._note(case, measured)

    def _note(self, case: str, measured: FirstToken, **details: Any) -> None:
        self._ttft_s.setdefault(case, []).append(measured.ttft_s)
        self.cases.append(
            {
                "case": case,
                "ttft_ms": measured.ttft_s * 1e3,
                "threads": self._threads,
                "rested_s": _DEFAULTS_REST_S if case == "ray_serve_defaults" else _REST_S,
                "checkpoint_bytes": self._source.stat().st_size,
                **details,
            }
        )


_PEER = "ray_serve_peer"


def _question() -> dict[str, Any]:
    prompt = [11 + 7 * position for position in range(_PROMPT_TOKENS)]
    return {"prompt": prompt, "max_tokens": _TOKENS, "stream": True}


def _median(values: list[float]) -> float:
    return figure("", values, "").value


def _of_medians(name: str, pairs: list[float], value: float, goal: float) -> Figure:
    """A figure of two medians; its range is that of the pairs, run by run."""
    higher = name.endswith("ratio_vs_ray_serve")
    unit = "x" if higher else "ms"
    measured = figure(name, pairs, unit, better="higher" if higher else "lower", goal=goal)
    return measured.model_copy(update={"value": value})


def _spans(timeline: Timeline) -> list[dict[str, Any]]:
    """Spans relative to the request's arrival, with their rate and share of the floor."""
    rows = []
    for span in timeline.spans:
        row = asdict(span) | {
            "start_ms": (span.start_s - timeline.at_s) * 1e3,
            "end_ms": (span.end_s - timeline.at_s) * 1e3,
        }
        if span.nbytes and span.duration_s > 0:
            row["gb_per_s"] = span.nbytes / span.duration_s / 1e9
        rows.append(row)
    return rows


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _ZERO_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise CliError(f"waited {_ZERO_TIMEOUT_S:g} s for {what}", ExitCode.UNEXPECTED)
        time.sleep(0.1)


@contextmanager
def _platform(settings: Settings, on_progress: OnProgress) -> Iterator[PlatformAddress]:
    address = start_detached(settings, on_progress)
    try:
        yield address
    finally:
        on_progress("stopping the platform")
        stop_platform(settings.home)


@contextmanager
def _peer(
    address: PlatformAddress, source: Path, threads: int, *, defaults: bool = False
) -> Iterator[None]:
    ray.init(address=address.ray_address, log_to_driver=False, logging_level="ERROR")
    try:
        application = build_peer(source, threads, DEFAULTS if defaults else TUNED)
        serve.run(application, name=_PEER, route_prefix=f"/{_PEER}")
        time.sleep(_SETTLE_S)
        yield
    finally:
        serve.delete(_PEER)
        ray.shutdown()
