"""Another process at the same cache: told what to do, listened to, killed."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import pilotlight_loader
from pilotlight_loader.cache.identity import ObjectIdentity

_CHILD = Path(__file__).with_name("cache_child.py")
_PACKAGE = Path(pilotlight_loader.__file__).parent


class CacheProcess:
    """Runs one action of `cache_child.py`. Leaving the block kills it."""

    def __init__(
        self,
        directory: Path,
        action: str,
        identity: ObjectIdentity,
        *rest: object,
        under: tuple[str, ...] = (),
    ) -> None:
        """*under*: a command in front, such as `unshare`."""
        words = (directory, action, identity.location, identity.etag, identity.nbytes, *rest)
        self._process = subprocess.Popen(
            [*under, sys.executable, str(_CHILD), str(_PACKAGE), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def line(self, timeout_s: float = 30.0) -> str:
        """What it says next; the test fails if it says nothing."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        assert ready, f"nothing within {timeout_s:g} s"
        return self._process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        """Let it go on after a pause."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def freeze(self) -> None:
        """SIGSTOP: every thread of it stands still where it is, and holds what it holds."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT"""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
