"""A platform in the background: its log, and that nobody else is stopped for it."""

import os
import subprocess
import sys
from pathlib import Path

from pilotlight_platform import background
from pilotlight_platform.address import PlatformAddress, write_address
from pilotlight_platform.background import stop_platform
from pilotlight_platform.preflight import home_lock
from pilotlight_platform.settings import Settings


def address(home: Path, pid: int) -> PlatformAddress:
    return PlatformAddress("http://127.0.0.1:1", pid, 0.0, str(home), "127.0.0.1:2")


def test_stop_spares_a_stranger_with_the_pid(tmp_path: Path) -> None:
    write_address(tmp_path, address(tmp_path, os.getpid()))

    assert not stop_platform(tmp_path)


def test_stop_of_a_process_that_has_gone(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(timeout=30)
    with home_lock(Settings(home=tmp_path)):
        write_address(tmp_path, address(tmp_path, child.pid))

        assert not stop_platform(tmp_path)


def test_log_is_closed_to_others(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    path = settings.log_dir / "platform.log"
    with background._open_log(settings, path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_stopping_needs_no_ray() -> None:
    loaded = "import pilotlight_platform.background, sys; print('ray' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60)

    assert (run.returncode, run.stdout) == (0, "False\n"), run.stderr
