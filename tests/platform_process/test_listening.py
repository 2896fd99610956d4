"""The listening socket of the platform, lent to processes that come and go."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotlight_deploy.free_port import free_port
from pilotlight_platform.errors import MachineError, PlatformError
from pilotlight_platform.listening import borrow, lent, listen
from pilotlight_platform.settings import Settings

_BORROWER = """
import sys
from pathlib import Path
from pilotlight_platform.listening import borrow
listening, owner = borrow(Path(sys.argv[1]))
print("borrowed", flush=True)
connection, _ = listening.accept()
connection.sendall(b"answered")
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home", port=free_port())
    settings.create_directories()
    return settings


@pytest.fixture
def directory(settings: Settings) -> Iterator[Path]:
    with listen(settings) as listening, lent(listening, settings.run_dir):
        yield settings.run_dir


def close(*sockets: socket.socket) -> None:
    for each in sockets:
        each.close()


def connect(settings: Settings) -> socket.socket:
    return socket.create_connection((settings.host, settings.port), timeout=10)


def borrower(directory: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _BORROWER, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "borrowed\n"
    return child


def test_connection_waits_for_who_borrows_later(settings: Settings, directory: Path) -> None:
    with connect(settings) as client, borrower(directory) as child:
        assert client.recv(8) == b"answered"
        child.wait(10)


def test_connection_outlives_a_killed_borrower(settings: Settings, directory: Path) -> None:
    with borrower(directory) as first:
        os.kill(first.pid, signal.SIGKILL)
        first.wait(10)
        with connect(settings) as client, borrower(directory) as second:
            assert client.recv(8) == b"answered"
            second.wait(10)


def test_borrowed_socket_is_the_platforms(settings: Settings, directory: Path) -> None:
    borrowed, owner = borrow(directory)
    with borrowed, owner:
        assert borrowed.getsockname() == (settings.host, settings.port)
        assert not borrowed.get_inheritable()


def test_socket_is_lent_in_a_directory_with_a_long_name(settings: Settings, tmp_path: Path) -> None:
    """A path of more than 107 bytes cannot be bound."""
    directory = tmp_path / ("n" * 120)
    directory.mkdir()
    with listen(settings) as listening, lent(listening, directory):
        borrowed, owner = borrow(directory)
        with borrowed, owner:
            assert borrowed.getsockname() == (settings.host, settings.port)


def test_socket_is_lent_where_a_killed_supervisor_left_its_own(settings: Settings) -> None:
    left = socket.socket(socket.AF_UNIX)
    descriptor = os.open(settings.run_dir, os.O_PATH)
    left.bind(f"/proc/self/fd/{descriptor}/listen.sock")
    os.close(descriptor)
    left.close()
    with listen(settings) as listening, lent(listening, settings.run_dir):
        close(*borrow(settings.run_dir))


def test_borrower_learns_that_the_owner_has_gone(settings: Settings) -> None:
    with listen(settings) as listening, lent(listening, settings.run_dir):
        borrowed, owner = borrow(settings.run_dir)
        owner.setblocking(False)
        close(*borrow(settings.run_dir))  # that another borrows, and goes, is no end
        with pytest.raises(BlockingIOError):
            owner.recv(1)

    with borrowed, owner:
        owner.settimeout(10)
        assert owner.recv(1) == b""


def test_lending_ends_without_a_trace(settings: Settings) -> None:
    with listen(settings) as listening, lent(listening, settings.run_dir):
        pass

    assert list(settings.run_dir.iterdir()) == []
    assert "pilotlight-lend" not in {thread.name for thread in threading.enumerate()}
    with listen(settings):  # the port is free again
        pass


def test_borrowing_from_nobody_is_an_error(settings: Settings) -> None:
    with pytest.raises(PlatformError, match="no supervisor lends"):
        borrow(settings.run_dir, timeout_s=0.0)


def test_borrower_that_hangs_up_does_not_stop_lending(directory: Path) -> None:
    descriptor = os.open(directory, os.O_PATH)
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(f"/proc/self/fd/{descriptor}/listen.sock")
    os.close(descriptor)

    close(*borrow(directory))


def test_taken_port_is_refused(settings: Settings) -> None:
    with listen(settings), pytest.raises(MachineError, match=f"{settings.port} is in use"):
        listen(settings)


def test_address_of_another_machine_is_refused(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"host": "192.0.2.1"})

    with pytest.raises(MachineError, match=r"cannot listen on 192\.0\.2\.1"):
        listen(elsewhere)
