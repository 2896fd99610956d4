"""The supervisor's wait until the platform is ready; no Ray is started."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pilotlight_platform import serve_lifetime, supervisor
from pilotlight_platform.errors import PlatformError
from pilotlight_platform.names import APP
from pilotlight_platform.settings import Settings


def set_serve(monkeypatch: pytest.MonkeyPatch, status: str, message: str) -> None:
    app = SimpleNamespace(
        status=status, message="", deployments={"Worker": SimpleNamespace(message=message)}
    )
    found = SimpleNamespace(applications={APP: app}, proxies={})
    monkeypatch.setattr(serve_lifetime, "serve", SimpleNamespace(status=lambda: found))


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
    monkeypatch.setattr(supervisor, "READY_TIMEOUT_S", 0.2)

    with pytest.raises(PlatformError, match=r"not ready within 0.2 s: 2 CPUs are missing"):
        supervisor._wait_until_ready(Settings(home=tmp_path, port=1), threading.Event())


def test_start_that_is_stopped_ends_quietly(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()

    supervisor._wait_until_ready(Settings(home=tmp_path, port=1), stop)
