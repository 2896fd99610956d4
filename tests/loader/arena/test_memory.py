from __future__ import annotations

import os
import subprocess
from mmap import PAGESIZE, mmap

import pytest
import torch
from support.arena_process import memory_kib

from pilotlight_loader import pages
from pilotlight_loader.arena.aligned_map import map_aligned
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


@pytest.fixture
def huge_pages(shm):
    """A kernel that makes huge pages in shared memory when it is asked to."""
    file = HeldFile(str(shm / "probe"), os.O_RDWR | os.O_CREAT)
    os.truncate(file.descriptor, EXTENT_ALIGN)
    _, view = map_aligned(mmap, file.descriptor, EXTENT_ALIGN, 0, private=False)
    view[0] = 0
    address = torch.frombuffer(view, dtype=torch.uint8).data_ptr()
    if not pages.collapse(address, EXTENT_ALIGN):
        pytest.skip("this kernel makes no huge pages of shared memory")


@pytest.mark.usefixtures("huge_pages")
def test_touched_memory_is_in_huge_pages(arena):
    assert memory_kib(arena.path, "ShmemPmdMapped") == arena.nbytes // 1024


@pytest.mark.usefixtures("huge_pages")
def test_private_mapping_of_a_lease_is_in_huge_pages(arena, put):
    put("before")  # an extent that does not begin where the arena does
    arena.reserve("k", EXTENT_ALIGN + 5).commit().close()
    with arena.lease("k") as lease:
        before_kib = memory_kib(arena.path, "ShmemPmdMapped")
        mapped = torch.frombuffer(lease.map_private(), dtype=torch.uint8)
        int(mapped[0] + mapped[-1])  # a fault in each of its two pages

    assert memory_kib(arena.path, "ShmemPmdMapped") - before_kib == 2 * EXTENT_ALIGN // 1024


def test_memory_without_huge_pages_is_touched_all_the_same(shm, monkeypatch):
    monkeypatch.setattr(pages, "_MADV_COLLAPSE", 9999)
    with Arena.create(shm / "a", 2 * EXTENT_ALIGN) as arena:
        assert memory_kib(arena.path, "Rss") == arena.nbytes // 1024


def test_map_aligned_shows_the_file_from_its_offset(tmp_path):
    content = os.urandom(3 * PAGESIZE)
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb+") as file:
        owner, view = map_aligned(
            mmap, file.fileno(), len(content) - PAGESIZE, PAGESIZE, private=True
        )
        view[0] ^= 1

    address = torch.frombuffer(view, dtype=torch.uint8).data_ptr()
    assert address % EXTENT_ALIGN == PAGESIZE
    assert bytes(view[1:]) == content[PAGESIZE + 1 :]
    assert (tmp_path / "file").read_bytes() == content  # private: the file is as it was
    assert owner is view.obj


def test_map_aligned_of_a_closed_file_is_an_error():
    with pytest.raises(OSError, match="Bad file"):
        map_aligned(mmap, -1, PAGESIZE, 0, private=False)
