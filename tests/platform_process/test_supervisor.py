"""The supervisor's signals and its reading of Ray Serve; no Ray is started."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pilotlight_platform import supervisor
from pilotlight_platform.errors import MachineError, PlatformError
from pilotlight_platform.names import APP
from pilotlight_platform.settings import Settings

_SIGNALLED = """
import signal, threading
from pilotlight_platform.supervisor import _signals
stop = threading.Event()
with _signals(stop):
    signal.raise_signal(signal.SIGTERM)
    print("stopping" if stop.is_set() else "swallowed", flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("still here", flush=True)
"""


def set_serve(monkeypatch: pytest.MonkeyPatch, status: str, message: str) -> None:
    app = SimpleNamespace(
        status=status, message="", deployments={"Worker": SimpleNamespace(message=message)}
    )
    found = SimpleNamespace(applications={APP: app}, proxies={})
    monkeypatch.setattr(supervisor, "serve", SimpleNamespace(status=lambda: found))


def test_second_signal_ends_the_process() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _SIGNALLED], capture_output=True, text=True, timeout=60
    )

    assert run.stdout == "stopping\n"
    assert run.returncode == -signal.SIGTERM


def test_start_that_serve_gave_up_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_serve(monkeypatch, "DEPLOY_FAILED", "no module named x")
    monkeypatch.setattr(supervisor, "_STATUS_STEP_S", 0.0)

    with pytest.raises(PlatformError, match="no module named x"):
        supervisor._wait_until_ready(Settings(home=tmp_path, port=1), threading.Event())


def test_start_that_takes_too_long_says_what_serve_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status: Any = SimpleNamespace(value="DEPLOYING")
    set_serve(monkeypatch, status, "2 CPUs are missing")
    monkeypatch.setattr(supervisor, "_READY_TIMEOUT_S", 0.2)

    with pytest.raises(PlatformError, match=r"not ready within 0.2 s: 2 CPUs are missing"):
        supervisor._wait_until_ready(Settings(home=tmp_path, port=1), threading.Event())


def test_start_that_is_stopped_ends_quietly(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()

    supervisor._wait_until_ready(Settings(home=tmp_path, port=1), stop)


def test_cluster_of_several_nodes_needs_a_redis_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"Alive": True}, {"Alive": False}, {"Alive": True}]
    monkeypatch.setattr(supervisor, "ray", SimpleNamespace(nodes=lambda: nodes))

    with pytest.raises(MachineError, match=r"has 2 nodes.*--redis-url"):
        supervisor._check_cluster(Settings(home=tmp_path, ray_address="auto"))


@pytest.mark.parametrize("others", [True, False])
def test_end_on_a_joined_cluster_spares_other_apps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    apps = {"theirs": None} if others else {}
    done: list[str] = []
    fake = SimpleNamespace(
        status=lambda: SimpleNamespace(applications=apps, proxies={"node": None}),
        delete=done.append,
        shutdown=lambda: done.append("shutdown"),
    )
    monkeypatch.setattr(supervisor, "serve", fake)
    settings = Settings(home=tmp_path, ray_address="auto")

    supervisor._end_serve(settings, joined=False)
    assert done == ([APP] if others else [APP, "shutdown"])
    supervisor._end_serve(settings, joined=True)
    assert done[-1] == APP


def test_log_is_closed_to_others(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    path = settings.log_dir / "platform.log"
    with supervisor._open_log(settings, path):
        assert path.stat().st_mode & 0o777 == 0o600
