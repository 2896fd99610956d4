"""Two workers of one node and one model: fetched once, and in memory once."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pilotlight_deploy.bench.load.models import BenchModel
from pilotlight_deploy.bench.load.second_worker import map_all, pss_bytes
from pilotlight_deploy.bench.load.throttled_server import SENT_PATH
from pilotlight_deploy.bench.report import Figure, figure
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_loader import Cache, load, open_checkpoint

_TIMEOUT_S = 30.0


class SharingCase:
    """The bytes are those that the server counted."""

    def __init__(self, model: BenchModel, address: str, home: Path) -> None:
        self._model = model
        self._address = address
        self._home = home
        self._remote_bytes: list[float] = []
        self._shares: list[float] = []
        self.cases: list[dict[str, Any]] = []

    def turn(self) -> None:
        with tempfile.TemporaryDirectory(prefix="cache-", dir=self._home) as directory:
            first_bytes = self._first(Path(directory))
            before = self._sent()
            command = (sys.executable, "-m", "pilotlight_deploy.bench.load.second_worker")
            with subprocess.Popen(
                [*command, self._address, directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as second:
                self._measure(second, first_bytes, before)

    def figures(self) -> list[Figure]:
        return [
            figure("load.second_worker_remote_bytes", self._remote_bytes, "bytes", goal=0.0),
            figure("load.two_mapped_workers_pss", self._shares, "x"),
        ]

    def _first(self, directory: Path) -> int:
        with open_checkpoint(self._address) as checkpoint:
            report = load(checkpoint, self._model.skeleton.module, cache=Cache(directory))
        self._model.detach()
        return report.nbytes

    def _measure(self, second: subprocess.Popen[str], first_bytes: int, before: int) -> None:
        assert second.stdin is not None
        assert second.stdout is not None
        answer = second.stdout.readline()
        if not answer:
            raise CliError("the second worker found no complete copy", ExitCode.UNEXPECTED)
        loaded = json.loads(answer)
        # Its version was pinned by a HEAD: without, nobody could know that the copy is still good.
        sent = self._sent() - before
        blob = Path(loaded["blob"])
        with map_all(blob):
            second.stdin.write("\n")
            second.stdin.flush()
            theirs = json.loads(second.stdout.readline())["pss_bytes"]
            ours = pss_bytes(blob)
        second.stdin.close()
        self._remote_bytes.append(sent)
        self._shares.append((ours + theirs) / self._model.baked.nbytes)
        self.cases.append(
            {
                "case": "second_worker",
                "first_remote_bytes": first_bytes,
                "second_remote_bytes": sent,
                "pss_bytes": [ours, theirs],
                "nbytes": self._model.baked.nbytes,
            }
        )

    def _sent(self) -> int:
        parts = urlsplit(self._address)
        url = f"{parts.scheme}://{parts.netloc}{SENT_PATH}"
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # loopback, our own server
            return int(answer.read())
