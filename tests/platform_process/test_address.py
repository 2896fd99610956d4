"""Whether a platform runs: its lock decides, not the process id it left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import until

from pilotlight_platform.address import PlatformAddress, read_address, write_address
from pilotlight_platform.errors import MachineError
from pilotlight_platform.preflight import home_lock
from pilotlight_platform.settings import Settings


def address(home: Path, pid: int) -> PlatformAddress:
    return PlatformAddress("http://127.0.0.1:1", pid, 0.0, str(home), "127.0.0.1:2")


def test_address_is_read_while_the_lock_is_held(tmp_path: Path) -> None:
    with home_lock(Settings(home=tmp_path)):
        write_address(tmp_path, address(tmp_path, os.getpid()))

        assert read_address(tmp_path) == address(tmp_path, os.getpid())
    assert read_address(tmp_path) is None


def test_address_of_a_killed_platform_is_none_though_its_pid_lives(tmp_path: Path) -> None:
    write_address(tmp_path, address(tmp_path, os.getpid()))

    assert read_address(tmp_path) is None


def test_address_that_is_damaged_is_none(tmp_path: Path) -> None:
    with home_lock(Settings(home=tmp_path)):
        (tmp_path / "run" / "platform.json").write_text("{}")

        assert read_address(tmp_path) is None


def test_lock_removes_what_a_killed_platform_left(tmp_path: Path) -> None:
    write_address(tmp_path, address(tmp_path, os.getpid()))
    with home_lock(Settings(home=tmp_path)):
        assert read_address(tmp_path) is None


def test_lock_is_not_inherited(tmp_path: Path) -> None:
    with home_lock(Settings(home=tmp_path)):
        write_address(tmp_path, address(tmp_path, os.getpid()))
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False
        )
    try:
        until(lambda: read_address(tmp_path) is None, 10)  # exec closes it, a moment after Popen
    finally:
        child.communicate(b"\n", timeout=30)


def test_lock_of_a_running_platform_is_refused_with_its_url(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with home_lock(settings):
        write_address(tmp_path, address(tmp_path, os.getpid()))
        with (
            pytest.raises(MachineError, match=r"is running at http://127.0.0.1:1 "),
            home_lock(settings),
        ):
            pass
