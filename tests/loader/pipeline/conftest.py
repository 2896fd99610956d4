"""Checkpoints of random bytes, readable from sources that a test controls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.file_source import FileSource
from support.small_llama import SmallLlama, running
from support.sourced_checkpoint import SourcedCheckpoint
from support.waiting import until

from pilotlight_loader.checkpoint import open_checkpoint
from pilotlight_loader.devices.cpu import CpuDevice

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Every test here ends with the threads that it began with."""
    before = set(threading.enumerate())
    yield
    until(lambda: set(threading.enumerate()) <= before, timeout_s=5)


@pytest.fixture(scope="session")
def weights() -> dict[str, torch.Tensor]:
    """Nine tensors, 8 KiB in all, and one that is empty."""
    random = torch.Generator().manual_seed(0)
    found = {f"t{n}": torch.randn(16, 16, generator=random) for n in range(8)}
    return {**found, "t8": torch.randn((), generator=random), "empty": torch.empty(0, 4)}


@pytest.fixture(scope="session")
def file(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(weights, path)
    return path


Opened = tuple[SourcedCheckpoint, FileSource]


@pytest.fixture
def opened(file: Path) -> Callable[..., Opened]:
    """The checkpoint of *file*, and its one source, of which the keywords are given."""

    def open_it(path: Path = file, **options) -> Opened:
        source = FileSource(path, **options)
        return SourcedCheckpoint(open_checkpoint(path), lambda _path: source), source

    return open_it


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def llama(request, tmp_path_factory) -> SmallLlama:
    return SmallLlama(tmp_path_factory.mktemp("llama"), tied=request.param)


@pytest.fixture(scope="module")
def untied(tmp_path_factory) -> SmallLlama:
    return SmallLlama(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(params=[CpuDevice, running])
def device(request):
    return request.param()
