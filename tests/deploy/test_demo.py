"""What of the demo needs no platform of its own."""

import io
import os

import pytest
from rich.console import Console

from pilotlight_deploy.demo import run_demo
from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_platform.address import PlatformAddress, write_address
from pilotlight_platform.preflight import home_lock
from pilotlight_platform.settings import Settings


def test_demo_that_was_kept_is_not_touched(tmp_path):
    address = PlatformAddress("http://x", os.getpid(), 0.0, str(tmp_path), "127.0.0.1:1")
    with home_lock(Settings(home=tmp_path)):
        write_address(tmp_path, address)
        with pytest.raises(CliError, match="running at http://x") as caught:
            run_demo(Console(file=io.StringIO()), tmp_path, keep=False)

    assert caught.value.exit_code == ExitCode.MACHINE_UNFIT
