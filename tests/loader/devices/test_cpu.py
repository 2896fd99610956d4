"""The CPU device: whose memory, and by which name."""

from __future__ import annotations

import pytest
import torch

from pilotlight_loader.devices.cpu import CpuDevice
from pilotlight_loader.devices.resolve import resolve_device
from pilotlight_loader.errors import DeviceError


def test_cpu_device_uses_memory_that_it_is_given():
    arena = bytearray(4096)
    device = CpuDevice(allocate=lambda nbytes: memoryview(arena)[:nbytes])

    device.allocate(16).view(4, 2).fill_(7)

    assert arena[4:6] == b"\x07\x07"


def test_cpu_views_have_a_storage_of_their_own_size():
    view = CpuDevice().allocate(1 << 20).view(64, 8)

    assert view.untyped_storage().nbytes() == 8


def test_resolve_finds_the_cpu():
    assert isinstance(resolve_device(torch.device("cpu")), CpuDevice)


@pytest.mark.parametrize("name", ["meta", "nonsense"])
def test_resolve_refuses_what_it_does_not_know(name):
    with pytest.raises(DeviceError, match=name):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_resolve_says_that_there_is_no_gpu():
    with pytest.raises(DeviceError, match="torch sees 0"):
        resolve_device("cuda:0")
