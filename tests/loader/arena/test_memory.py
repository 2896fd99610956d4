from __future__ import annotations

import os
import subprocess

import pytest

from pilotlight_loader import pages
from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.arena.held_file import HeldFile
from pilotlight_loader.arena.memory import Memory
from pilotlight_loader.errors import ArenaError


@pytest.fixture(params=["populate", "older kernel"])
def either_kernel(request, monkeypatch):
    """A kernel that populates, and one that answers EINVAL."""
    if request.param == "older kernel":
        monkeypatch.setattr(pages, "_MADV_POPULATE_WRITE", 9999)


@pytest.fixture
def small_file_system(tmp_path):
    """One MiB of memory that can be mounted by root alone."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.usefixtures("either_kernel")
def test_memory_that_runs_out_is_an_error_not_a_signal(small_file_system):
    file = HeldFile(str(small_file_system / "memory"), os.O_RDWR | os.O_CREAT)
    os.truncate(file.descriptor, EXTENT_ALIGN)
    memory = Memory(file, EXTENT_ALIGN)

    with pytest.raises(ArenaError, match="memory ran out at byte 0 of"):
        memory.touch(0, EXTENT_ALIGN)


@pytest.mark.usefixtures("either_kernel")
def test_touched_memory_is_there(shm):
    with Arena.create(shm / "a", 2 * EXTENT_ALIGN):
        blocks = (shm / "a" / "memory").stat().st_blocks

    assert blocks * 512 == 2 * EXTENT_ALIGN
