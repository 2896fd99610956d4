"""Where the platform's processes log: one file per kind of process, under the home."""

from __future__ import annotations

import logging
import os
from pathlib import Path

_MAX_BYTES = 16 << 20  # checked when a process starts: state changes only, so files grow slowly
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"


def log_to(directory: Path, kind: str) -> None:
    """Send the ``pilotlight`` loggers of this process to ``<directory>/<kind>.log``, appending."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / f"{kind}.log"
    if path.exists() and path.stat().st_size > _MAX_BYTES:
        path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    handler = logging.StreamHandler(os.fdopen(descriptor, "a", buffering=1))
    handler.setFormatter(logging.Formatter(_FORMAT))
    for name in ("pilotlight", "pilotlight_platform"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
