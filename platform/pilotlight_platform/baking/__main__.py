"""The baking process, started by `process.py`: orders on stdin, events on stdout, one a line."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import torch

from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.baking.revision import bake_revision
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.schemas.model import (
    BakeDone,
    BakePhase,
    DeployFailed,
    DeployProgress,
)

_PR_SET_PDEATHSIG = 1
_NICENESS = 10  # workers answer requests on the same cores meanwhile


def main(parent_pid: int) -> None:
    """Take orders until one is to be baked; an order's last event is `baked` or `error`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the kernel was asked
        return
    os.nice(_NICENESS)
    torch.set_num_threads(1)
    # Whatever libraries print goes to stderr: stdout carries events alone.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(event: DeployProgress | BakeDone | DeployFailed) -> None:
        events.write(event.model_dump_json() + "\n")

    def report(phase: BakePhase, message: str, done_bytes: int, total_bytes: int) -> None:
        send(
            DeployProgress(
                phase=phase, message=message, done_bytes=done_bytes, total_bytes=total_bytes
            )
        )

    for line in sys.stdin.buffer:
        try:
            done = bake_revision(BakeOrder.model_validate_json(line), report)
        except PlatformError as error:
            send(DeployFailed(code=error.code, message=error.message))
            return
        send(done)
        if not done.reused:  # its memory is only given back by ending
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
