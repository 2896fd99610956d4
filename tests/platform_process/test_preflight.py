"""What must hold before a platform starts; the process table is a fake one."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotlight_platform import preflight
from pilotlight_platform.errors import MachineError
from pilotlight_platform.listening import listen
from pilotlight_platform.preflight import check_machine, home_lock
from pilotlight_platform.settings import Settings


class Processes:
    """Ray's processes, which go after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> Iterator[tuple[str, int]]:
        self.looks -= 1
        if self.looks >= 0:
            yield "gcs_server", 42


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Settings(home=tmp_path, port=probe.getsockname()[1])


def test_ray_that_is_going_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_live_processes", Processes(6))
    told: list[str] = []

    check_machine(settings, 30.0, told.append)

    reason = "Ray is running on this machine already (pid 42)"
    assert told == [f"waiting for a Ray that may be stopping ({reason})"]


@pytest.mark.parametrize("looks", range(1, 6))
def test_ray_that_goes_during_a_check_is_no_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    monkeypatch.setattr(preflight, "_live_processes", Processes(looks))

    check_machine(settings, patience_s=30.0)


def test_port_that_goes_with_ray_is_no_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = socket.create_server(("127.0.0.1", settings.port))

    def processes() -> Iterator[tuple[str, int]]:
        if holder.fileno() != -1:
            yield "ray::ServeReplica", 42

    def listen_and_go(settings: Settings) -> socket.socket:
        try:
            return listen(settings)
        finally:
            holder.close()  # in the moment after it was in the way

    monkeypatch.setattr(preflight, "_live_processes", processes)
    monkeypatch.setattr(preflight, "listen", listen_and_go)

    check_machine(settings, patience_s=30.0)


def test_ray_that_stays_is_refused_in_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_live_processes", Processes(1000))
    began_s = time.monotonic()

    with pytest.raises(MachineError, match=r"Ray is running on this machine already \(pid 42\)"):
        check_machine(settings, patience_s=0.3)
    assert 0.3 <= time.monotonic() - began_s < 5


def test_taken_port_is_refused_at_once_where_no_ray_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_live_processes", Processes(0))
    began_s = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", settings.port)),
        pytest.raises(MachineError, match="choose another with --port"),
    ):
        check_machine(settings, patience_s=30.0)
    assert time.monotonic() - began_s < 5


def test_joined_cluster_needs_a_free_port_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_live_processes", Processes(1000))  # the cluster's own
    joining = settings.model_copy(update={"ray_address": "auto"})

    check_machine(joining)
    with (
        socket.create_server(("127.0.0.1", settings.port)),
        pytest.raises(MachineError, match="in use"),
    ):
        check_machine(joining)


def test_home_is_closed_to_others_from_the_start(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"
    with home_lock(Settings(home=home)):
        directories = [home, *(path for path in home.iterdir() if path.is_dir())]

        assert len(directories) == 5
        assert {path.stat().st_mode & 0o777 for path in directories} == {0o700}
        assert (home / "run" / "lock").stat().st_mode & 0o777 == 0o600
