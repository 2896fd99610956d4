from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from pilotlight_loader import CheckpointError, pages

CHUNK = 16 * 1024 * 1024


@pytest.fixture
def large(bake_module):
    """Three chunks of file."""
    module = nn.Module()
    for number in range(5):
        module.register_buffer(f"t{number}", torch.full((8_000_000,), number, dtype=torch.uint8))
    return bake_module(module)


def mappings_of(path: Path) -> int:
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def anonymous_kib(path: Path) -> int:
    """Memory that mappings of *path* hold outside of the page cache."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if not head.endswith(":"):
            inside = str(path) in line
        elif inside and head == "Anonymous:":
            total += int(line.split()[1])
    return total


def drop_from_page_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_mapping_holds_what_was_baked(any_model):
    tensors = dict(any_model.model.named_parameters()) | dict(any_model.model.named_buffers())
    with any_model.baked.map() as mapped:
        views = mapped.tensors()

    assert list(views) == any_model.order
    assert all(torch.equal(view, tensors[name]) for name, view in views.items())


def test_mapping_views_are_aligned(llama):
    with llama.baked.map() as mapped:
        assert all(view.data_ptr() % 256 == 0 for view in mapped.tensors().values())


def test_mapping_copies_nothing(large):
    with large.map() as mapped:
        for view in mapped.tensors().values():
            view.sum()

        assert anonymous_kib(large.path) == 0


def test_mapping_gives_each_view_a_storage_of_its_own_size(large):
    with large.map() as mapped:
        view = mapped.tensors()["t1"]

    assert view.untyped_storage().nbytes() == 8_000_000
    assert len(pickle.dumps(view)) < 9_000_000


def test_mapping_written_to_leaves_the_file_alone(large):
    with large.map() as mapped, large.map() as other:
        mapped.tensors()["t0"].fill_(9)

        assert mapped.tensors()["t0"].max() == 9
        assert other.tensors()["t0"].max() == 0
    large.verify()


def test_mapping_views_outlive_close(large):
    mapped = large.map()
    view = mapped.tensors()["t4"]
    mapped.close()
    del mapped

    assert view.min() == view.max() == 4


def test_mapping_goes_with_its_last_view(large):
    mapped = large.map()
    views = mapped.tensors()
    mapped.close()
    assert mappings_of(large.path) == 1

    views.clear()

    assert mappings_of(large.path) == 0


def test_mapping_outlives_its_file(large):
    with large.map() as mapped:
        large.path.unlink()

        assert mapped.tensors()["t3"].max() == 3


@pytest.mark.parametrize("use", ["tensors", "prefault", "resident_bytes"])
def test_mapping_refuses_use_after_close(large, use):
    mapped = large.map()
    mapped.close()

    with pytest.raises(ValueError, match="closed"):
        getattr(mapped, use)()


def test_mapping_closes_twice(large):
    mapped = large.map()
    mapped.close()
    mapped.close()


def test_prefault_walks_the_whole_file(large):
    with large.map() as mapped:
        report = mapped.prefault()

        assert report.nbytes == large.nbytes
        assert report.start_s <= report.end_s
        assert mapped.resident_bytes() == large.nbytes


def test_prefault_takes_no_memory_of_its_own(large):
    with large.map() as mapped:
        mapped.prefault()

        assert anonymous_kib(large.path) == 0


def test_prefault_tells_the_page_cache_from_the_disk(large):
    drop_from_page_cache(large.path)
    with large.map() as mapped:
        if mapped.resident_bytes() == large.nbytes:
            pytest.skip("this file system keeps files in memory")

        assert mapped.prefault().resident_bytes_before < large.nbytes
        assert mapped.prefault().resident_bytes_before == large.nbytes


def test_prefault_stops_when_told(large):
    stop = threading.Event()
    stop.set()

    with large.map() as mapped:
        assert mapped.prefault(stop).nbytes == 0


def test_prefault_works_on_a_kernel_without_populate(large, monkeypatch):
    monkeypatch.setattr(pages, "_MADV_POPULATE_READ", 9999)  # the kernel answers EINVAL
    drop_from_page_cache(large.path)

    with large.map() as mapped:
        assert mapped.prefault().nbytes == large.nbytes
        assert mapped.resident_bytes() == large.nbytes
        assert anonymous_kib(large.path) == 0


def test_prefault_of_a_file_that_shrank_is_an_error_not_a_signal(large):
    with large.map() as mapped:
        os.truncate(large.path, CHUNK)

        with pytest.raises(CheckpointError, match="cannot be read"):
            mapped.prefault()
