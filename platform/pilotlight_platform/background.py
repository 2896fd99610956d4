"""A platform in the background, as other processes see it: started, followed, stopped. No Ray."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from pilotlight_platform.address import PlatformAddress, read_address
from pilotlight_platform.errors import MachineError
from pilotlight_platform.settings import Settings

OnProgress = Callable[[str], None]

READY_TIMEOUT_S = 120.0  # the supervisor's, for Ray Serve
_START_TIMEOUT_S = READY_TIMEOUT_S + 60.0
_STOP_TIMEOUT_S = 60.0


def start_detached(settings: Settings, on_progress: OnProgress) -> PlatformAddress:
    """Start a platform in the background; returns when it is ready.

    Raises MachineError with the child's own line if it could not start.
    """
    log_path = settings.log_dir / "platform.log"
    log = _open_log(settings, log_path)
    reader, writer = os.pipe()
    with log, os.fdopen(reader, "rb") as events:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "pilotlight_platform.daemon", str(writer)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(writer,),
            )
        finally:
            os.close(writer)
        # It outlives us; if we outlive it, it is reaped.
        threading.Thread(target=child.wait, name="reap-platform", daemon=True).start()
        assert child.stdin is not None
        with child.stdin as stdin:
            # Not in the arguments: other users can read those, and the API key is among them.
            stdin.write(settings.model_dump_json().encode())
        try:
            address = _follow_start(events, on_progress)
        except BaseException:  # interrupted while it starts: leave nothing half started
            child.terminate()
            raise
    if address is None:
        child.terminate()
        raise MachineError(f"the platform did not start: see {log_path}")
    return address


def _open_log(settings: Settings, path: Path) -> IO[bytes]:
    try:
        settings.create_directories()
        return open(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab")
    except OSError as error:
        raise MachineError(
            f"{settings.home} cannot be written ({error.strerror}): choose another with --home"
        ) from error


def _follow_start(events: IO[bytes], on_progress: OnProgress) -> PlatformAddress | None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (left_s := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([events], [], [], left_s)
        line = events.readline() if readable else b""
        if not line:
            return None
        event = json.loads(line)
        if event["event"] == "progress":
            on_progress(event["message"])
        elif event["event"] == "error":
            raise MachineError(event["message"])
        else:
            return read_address(Path(event["home"]))
    return None


def stop_platform(home: Path, timeout_s: float = _STOP_TIMEOUT_S) -> bool:
    """Stop the platform of *home* and wait until it has gone; False if none was running.

    Raises MachineError if it does not go in time.
    """
    address = read_address(home)
    if address is None:
        return False
    # A pidfd waits for a process that is not our child, and cannot mean another one by reuse.
    try:
        descriptor = os.pidfd_open(address.pid)
    except ProcessLookupError:
        return False
    try:
        if read_address(home) != address:  # it ended meanwhile: the pid may be another's
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        readable, _, _ = select.select([descriptor], [], [], timeout_s)
    finally:
        os.close(descriptor)
    if not readable:
        raise MachineError(f"the platform (pid {address.pid}) did not stop in {timeout_s:g} s")
    return True
