"""The arena of a platform, from `up` to `down`; no Ray is started."""

import threading
from pathlib import Path

import pytest

from pilotlight_loader import Arena
from pilotlight_platform.errors import MachineError
from pilotlight_platform.host_memory import host_memory
from pilotlight_platform.settings import Settings


def settings(home: Path, nbytes: int) -> Settings:
    return Settings(home=home, arena_bytes=nbytes)


def test_host_memory_is_there_touched_while_the_platform_runs(tmp_path: Path) -> None:
    messages: list[str] = []
    wanted = settings(tmp_path, 4 << 20)
    with (
        host_memory(wanted, threading.Event(), messages.append),
        Arena.open(wanted.arena_path) as arena,
    ):
        assert arena.touched_bytes == arena.nbytes == 4 << 20

    assert messages == ["touching 0.00391 GiB of memory"]
    assert not wanted.arena_path.exists()


@pytest.mark.parametrize("nbytes", [0, 2 << 20])
def test_host_memory_of_a_killed_platform_is_replaced(tmp_path: Path, nbytes: int) -> None:
    wanted = settings(tmp_path, nbytes)
    Arena.create(wanted.arena_path, 4 << 20).close()
    with host_memory(wanted, threading.Event(), lambda message: None):
        assert wanted.arena_path.exists() == bool(nbytes)
        if nbytes:
            with Arena.open(wanted.arena_path) as arena:
                assert arena.nbytes == nbytes

    assert not wanted.arena_path.exists()


def test_host_memory_without_room_says_what_to_set(tmp_path: Path) -> None:
    wanted = settings(tmp_path, 1 << 60)
    with (
        pytest.raises(MachineError, match="PILOTLIGHT_ARENA_BYTES"),
        host_memory(wanted, threading.Event(), lambda message: None),
    ):
        pytest.fail("there is no such memory")

    assert not wanted.arena_path.exists()


def test_host_memory_is_not_made_for_a_platform_that_stops(tmp_path: Path) -> None:
    wanted = settings(tmp_path, 4 << 20)
    stop = threading.Event()
    stop.set()
    with host_memory(wanted, stop, lambda message: None):
        assert not wanted.arena_path.exists()


def test_host_memory_of_each_home_is_its_own(tmp_path: Path) -> None:
    assert settings(tmp_path / "a", 1).arena_path != settings(tmp_path / "b", 1).arena_path
