"""Another process that uses an arena, does one thing at a time, and may be killed."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pilotlight_loader import BakedCheckpoint, MappedCheckpoint
from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.arena.fill import fill_from_file
from pilotlight_loader.arena.lease import Filling, Lease
from pilotlight_loader.arena.mapped import map_lease

_ANSWER_TIMEOUT_S = 30.0
# Forked from a process that has imported torch: 20 ms each in place of 2 s.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pilotlight_loader", __name__])


def memory_kib(arena: Path, field: str) -> int:
    """This process's *field* (Rss, Pss, Anonymous, …) over all mappings of the arena's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if not head.endswith(":"):
            inside = str(arena / "memory") in line
        elif inside and head == f"{field}:":
            total += int(line.split()[1])
    return total


class _Commands:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.arena = Arena.open(path)
        self.leases: dict[str, Lease] = {}
        self.fillings: dict[str, Filling] = {}
        self.mapped: MappedCheckpoint | None = None
        self.tensors: dict[str, torch.Tensor] = {}

    def lease(self, key: str) -> bytes | None:
        lease = self.arena.lease(key)
        if lease is None:
            return None
        self.leases[key] = lease
        return bytes(lease.memory)

    def release(self, key: str) -> None:
        self.leases.pop(key).close()

    def reserve(self, key: str, nbytes: int) -> bool:
        filling = self.arena.reserve(key, nbytes)
        if filling is None:
            return False
        self.fillings[key] = filling
        return True

    def write(self, key: str, value: int) -> None:
        memory = self.fillings[key].memory
        memory[:] = bytes([value]) * len(memory)

    def commit(self, key: str) -> None:
        self.fillings.pop(key).commit().close()

    def wait(self, key: str, timeout_s: float) -> bool:
        lease = self.arena.wait(key, timeout_s)
        return lease is not None

    def fill(self, key: str, path: Path) -> int:
        with fill_from_file(self.arena, key, path) as lease:
            return lease.nbytes

    def map_pages(self) -> None:
        self.arena.map_pages()

    def hold_lock(self) -> None:
        self.lock = self.arena._ledger.locked()
        self.lock.__enter__()

    def attach(self, key: str, path: Path) -> None:
        baked = BakedCheckpoint.open(path)
        lease = self.arena.lease(key)
        assert lease is not None
        with lease:
            self.mapped = map_lease(lease, baked)
        self.mapped.prefault()
        self.tensors = self.mapped.tensors()

    def detach(self) -> None:
        self.tensors = {}
        assert self.mapped is not None
        self.mapped.close()

    def fill_tensor(self, name: str, value: int) -> None:
        self.tensors[name].fill_(value)

    def largest(self, name: str) -> float:
        return self.tensors[name].max().item()

    def memory_kib(self, field: str) -> int:
        return memory_kib(self.path, field)

    def dies_at_line(self, number: int, act: str, path: Path) -> bool:
        """Let a child kill itself before the arena's *number*-th line; False where *act* ends."""
        child = os.fork()  # this process has one thread: 10 ms, with torch imported
        if child == 0:
            try:
                _die_at_line(number, _ACTS[act], path)
                os._exit(0)
            finally:
                os._exit(1)  # it must not go on as this process
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        return status != 0


def _fill_evict_and_remove(path: Path) -> None:
    """Everything that changes the arena's records."""
    arena = Arena.open(path)
    for key, value in (("one", 1), ("two", 2)):
        filling = arena.reserve(key, arena.nbytes)
        assert filling is not None
        filling.tensor().fill_(value)
        filling.commit().close()
    lease = arena.lease("two")
    assert lease is not None
    arena.remove("two")
    lease.close()
    filling = arena.reserve("three", 1)
    assert filling is not None
    filling.abandon()


_ACTS: dict[str, Callable[[Path], None]] = {
    "fill": _fill_evict_and_remove,
    "make": lambda path: Arena.create(path, EXTENT_ALIGN, threads=1).close(),
    "destroy": Arena.destroy,
}


def _die_at_line(number: int, act: Callable[[Path], None], path: Path) -> None:
    left = number

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if "pilotlight_loader/arena/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    act(path)
    sys.settrace(None)


def _serve(pipe: Connection, path: Path) -> None:
    torch.set_num_threads(1)
    commands = _Commands(path)
    while True:
        name, arguments = pipe.recv()
        try:
            pipe.send(getattr(commands, name)(*arguments))
        except Exception as error:  # whatever it is, the test wants to see it
            pipe.send(error)


class ArenaProcess:
    """Starts when made; every answer is waited for with a bound."""

    def __init__(self, path: Path) -> None:
        self._pipe, theirs = _processes.Pipe()
        self._process = _processes.Process(target=_serve, args=(theirs, path), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, command: str, *arguments: object) -> None:
        self._pipe.send((command, arguments))

    def answered(self, timeout_s: float) -> bool:
        return self._pipe.poll(timeout_s)

    def answer(self) -> Any:
        assert self._pipe.poll(_ANSWER_TIMEOUT_S), "the other process does not answer"
        found = self._pipe.recv()
        if isinstance(found, Exception):
            raise found
        return found

    def ask(self, command: str, *arguments: object) -> Any:
        self.begin(command, *arguments)
        return self.answer()

    def freeze(self) -> None:
        """SIGSTOP: it stands still where it is, and holds what it holds."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT"""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Idempotent."""
        self._process.kill()
        self._process.join(_ANSWER_TIMEOUT_S)
        self._pipe.close()
