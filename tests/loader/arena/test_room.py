from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilotlight_loader.arena import room
from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.errors import ArenaError


def test_room_beyond_the_file_system_says_what_to_set(shm):
    space = os.statvfs(shm)

    with pytest.raises(ArenaError, match=rf"remount,size=… {shm}; --shm-size"):
        Arena.create(shm / "a", space.f_blocks * space.f_frsize + 1)
    assert list(shm.iterdir()) == []


def test_room_beyond_the_memory_is_refused(shm, monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable:    4 kB\n")
    monkeypatch.setattr(room, "_MEMORY", tmp_path / "meminfo")

    with pytest.raises(ArenaError, match="has 4096 bytes of memory available"):
        room.check_room(shm, 4097)


def test_room_beyond_the_containers_limit_is_refused(shm, monkeypatch, tmp_path):
    (tmp_path / "max").write_text("8192\n")
    monkeypatch.setattr(room, "_CONTROL_GROUP_LIMITS", (tmp_path / "max",))

    with pytest.raises(ArenaError, match="has 8192 bytes of memory available"):
        room.check_room(shm, 8193)


def test_room_without_a_limit_is_the_machines(monkeypatch, tmp_path):
    unlimited = room.available_bytes()
    (tmp_path / "max").write_text("max\n")
    monkeypatch.setattr(room, "_CONTROL_GROUP_LIMITS", (tmp_path / "max",))

    assert room.available_bytes() == pytest.approx(unlimited, rel=0.2)


def test_room_on_a_disk_is_refused(shm, monkeypatch, tmp_path):
    if room.file_system(tmp_path) == "tmpfs":
        pytest.skip("temporary files are in memory here")

    with pytest.raises(ArenaError, match="choose a path in /dev/shm"):
        Arena.create(tmp_path / "a", 1)


def test_room_in_no_directory_is_refused():
    with pytest.raises(ArenaError, match="No such file"):
        room.check_room(Path("/dev/shm/pilotlight/nowhere"), 1)
