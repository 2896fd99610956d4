"""Small arenas in shared memory, and other processes that use them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.arena_process import ArenaProcess

from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.arena.extents import EXTENT_ALIGN


@pytest.fixture
def shm() -> Iterator[Path]:
    """A directory in memory."""
    directory = Path(tempfile.mkdtemp(prefix="pilotlight-test-", dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def arena(shm: Path) -> Iterator[Arena]:
    """Room for eight extents."""
    with Arena.create(shm / "arena", 8 * EXTENT_ALIGN, threads=2) as made:
        yield made


@pytest.fixture
def put(arena: Arena) -> Callable[..., None]:
    """Commit *extents* extents full of *value* under *key*."""

    def put_it(key: str, extents: int = 1, value: int = 1) -> None:
        filling = arena.reserve(key, extents * EXTENT_ALIGN)
        assert filling is not None
        with filling:
            filling.tensor().fill_(value)
            filling.commit().close()

    return put_it


@pytest.fixture
def other(arena: Arena) -> Iterator[Callable[[], ArenaProcess]]:
    """Start another process with the same arena open."""
    started: list[ArenaProcess] = []

    def start() -> ArenaProcess:
        started.append(ArenaProcess(arena.path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
