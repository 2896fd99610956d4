"""From an S3 API to memory: here, raw sockets that throw every byte away, and Run:ai's streamer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pilotlight_deploy.bench.load.in_turn import in_turn
from pilotlight_deploy.bench.load.models import BenchModel
from pilotlight_deploy.bench.load.peak_memory import peak_memory
from pilotlight_deploy.bench.load.raw_sockets import raw_seconds
from pilotlight_deploy.bench.load.touched_memory import TouchedMemory
from pilotlight_deploy.bench.report import Figure, figure
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_loader import Checkpoint, CpuDevice, S3Options, load, open_checkpoint

BUCKET = "bench"
_SPARE_BYTES = 64 << 20
_STOP_TIMEOUT_S = 20.0
# Any will do: the server asks for none. Both sides sign all the same, as they do in earnest.
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class ObjectStoreCases:
    """Each turn measures every side once; every second turn backwards."""

    def __init__(
        self, model: BenchModel, url: str, key: str, runai: subprocess.Popen[str] | None
    ) -> None:
        self._model = model
        self._url = url
        self._key = key
        self._runai = runai
        self._memory: TouchedMemory | None = TouchedMemory(model.path.stat().st_size + _SPARE_BYTES)
        self._connections = 0
        self._turns = 0
        self._seconds: dict[str, list[float]] = {}
        self.cases: list[dict[str, Any]] = []
        os.environ.update(_CREDENTIALS)
        with self._open() as checkpoint:  # a warm worker has boto3 and S3's interface read
            self._connections = checkpoint.source(checkpoint.files[0]).parallel

    def turn(self) -> None:
        self._model.keep_resident()  # on the server's side
        sides: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("s3", partial(self._ours, touched=True)),
            ("raw_sockets", self._raw),
            ("s3_fresh", partial(self._ours, touched=False)),
        ]
        if self._runai is not None:
            sides.append(("runai", partial(self._theirs, self._runai)))
        for case, measure in in_turn(sides, self._turns):
            self._note(case, measure())
        self._turns += 1

    def figures(self) -> list[Figure]:
        ours = self._seconds["s3"]
        found = [_ratio("load.s3_vs_raw", self._seconds["raw_sockets"], ours, 0.9)]
        if "runai" in self._seconds:
            # As each of them works: theirs takes fresh memory in every load, a worker's is touched
            # when it starts. Beside it ours into fresh memory: what that makes of it.
            theirs = self._seconds["runai"]
            found.append(_ratio("load.s3_vs_runai", theirs, ours, 4.0))
            fresh = self._seconds["s3_fresh"]
            found.append(_ratio("load.s3_into_fresh_vs_runai", theirs, fresh, None))
        return found

    def _note(self, case: str, measured: dict[str, Any]) -> None:
        nbytes = self._model.path.stat().st_size
        self._seconds.setdefault(case, []).append(measured["seconds"])
        rate = nbytes / measured["seconds"] / 1e9
        self.cases.append({"case": case, "nbytes": nbytes, "gb_per_s": rate, **measured})

    def _ours(self, *, touched: bool) -> dict[str, Any]:
        """The clock runs from opening the location to the last byte in its tensor."""
        assert self._memory is not None
        self._memory.reset()
        device = CpuDevice(self._memory.allocate) if touched else CpuDevice()
        with peak_memory() as peak:
            began_s = time.perf_counter()
            with self._open() as checkpoint:
                report = load(checkpoint, self._model.skeleton.module, device)
            seconds = time.perf_counter() - began_s
        self._model.detach()
        return {
            "seconds": seconds,
            "tier": "remote",
            "connections": self._connections,
            "retries": report.retries,
            "hedges": report.hedges,
            "peak_rss_bytes": peak(),
        }

    def _open(self) -> Checkpoint:
        options = S3Options(endpoint_url=self._url, addressing_style="path")
        return open_checkpoint(f"s3://{BUCKET}/{self._key}", options)

    def release(self) -> None:
        """Give the touched memory back: no more turns."""
        self._memory = None

    def _raw(self) -> dict[str, Any]:
        url = f"{self._url}/{BUCKET}/{self._key}"
        nbytes = self._model.path.stat().st_size
        seconds = raw_seconds(url, nbytes, self._connections, 8 << 20)
        return {"seconds": seconds, "connections": self._connections}

    def _theirs(self, peer: subprocess.Popen[str]) -> dict[str, Any]:
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdin.write("\n")
        peer.stdin.flush()
        answer = peer.stdout.readline()
        if not answer:
            raise CliError("the Run:ai streamer ended early", ExitCode.UNEXPECTED)
        measured: dict[str, Any] = json.loads(answer)
        return {"seconds": measured["seconds"]}


@contextmanager
def runai_streamer(url: str, key: str) -> Iterator[subprocess.Popen[str]]:
    """Run:ai's streamer with its defaults, against the server at *url*."""
    settings = {"AWS_ENDPOINT_URL": url, "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"}
    command = (sys.executable, "-m", "pilotlight_deploy.bench.load.runai_peer")
    peer = subprocess.Popen(
        [*command, f"s3://{BUCKET}/{key}"],
        env={**os.environ, **_CREDENTIALS, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    try:
        yield peer
    finally:
        peer.stdin.close()
        peer.stdout.close()
        try:
            peer.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            peer.kill()
            peer.wait()


def _ratio(name: str, theirs: list[float], ours: list[float], goal: float | None) -> Figure:
    rates = [their / our for their, our in zip(theirs, ours, strict=True)]
    return figure(name, rates, "x", better="higher", goal=goal)
