"""What every device promises, asked of each that this machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from mmap import PAGESIZE

import pytest
import torch

from pilotlight_loader.arena.pieces import pieces
from pilotlight_loader.devices.cpu import CpuDevice
from pilotlight_loader.devices.cuda import CudaDevice, measure_h2d_bytes_per_s
from pilotlight_loader.devices.device import Device
from pilotlight_loader.devices.host_memory import HostMemory, anonymous
from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.errors import DeviceError


def running() -> SimulatedDevice:
    device = SimulatedDevice()
    device.run()
    return device


KINDS: dict[str, Callable[[], Device]] = {
    "cpu": CpuDevice,
    "simulated": running,
    "cuda": CudaDevice,
}


@pytest.fixture(params=KINDS)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    found = KINDS[request.param]()
    yield found
    found.close()


def staged(device: Device, *values: int) -> torch.Tensor:
    slab = device.staging(len(values))
    slab.copy_(torch.tensor(values, dtype=torch.uint8))
    return slab


def test_memory_begins_on_256_bytes(device):
    assert device.allocate(1000).view(0, 1000).data_ptr() % 256 == 0


def test_memory_views_are_flat_bytes_on_the_device(device):
    view = device.allocate(100).view(10, 20)

    assert (view.dtype, view.shape, view.device) == (torch.uint8, (20,), device.torch_device)


def test_memory_knows_its_size(device):
    assert device.allocate(1000).nbytes == 1000


def test_memory_views_share_their_bytes(device):
    memory = device.allocate(8)

    memory.view(2, 4).fill_(7)

    assert memory.view(3, 1).item() == 7


def test_memory_host_writes_what_a_view_reads(device):
    memory = device.allocate(8)
    host = memory.host(2, 2)
    if host is None:
        pytest.skip("the CPU does not reach this memory")

    host[:] = b"\x01\x02"

    assert memory.view(2, 2).tolist() == [1, 2]


def test_memory_lives_as_long_as_a_view(device):
    memory = device.allocate(1 << 20)
    memory.view(0, 1 << 20).fill_(3)
    view = memory.view(17, 2)

    del memory
    device.allocate(1 << 20).view(0, 1 << 20).fill_(9)

    assert view.tolist() == [3, 3]


def test_staging_is_flat_host_memory(device):
    slab = device.staging(4096)

    assert (slab.dtype, slab.shape, slab.device.type) == (torch.uint8, (4096,), "cpu")
    assert slab.data_ptr() % 4096 == 0


def test_copy_lands_where_it_was_told(device):
    memory = device.allocate(8)

    device.copy(staged(device, 1, 2, 3), memory, 0)
    device.copy(staged(device, 4, 5), memory, 4).gate()

    assert memory.view(0, 3).tolist() == [1, 2, 3]
    assert memory.view(4, 2).tolist() == [4, 5]


def test_copy_takes_a_slice_of_staging_memory(device):
    memory = device.allocate(2)

    device.copy(staged(device, 1, 2, 3, 4)[1:3], memory, 0).wait()

    assert memory.view(0, 2).tolist() == [2, 3]


def test_copy_is_done_after_its_wait(device):
    event = device.copy(staged(device, 1), device.allocate(1), 0)

    event.wait()

    assert event.done()


def test_copies_end_in_the_order_in_which_they_began(device):
    memory = device.allocate(1)
    device.copy(staged(device, 1), memory, 0)

    device.copy(staged(device, 2), memory, 0).wait()

    assert memory.view(0, 1).item() == 2


def test_copy_crosses_the_edges_of_registered_pieces(device):
    memory, buffer = device.allocate(4 * PAGESIZE), anonymous(3 * PAGESIZE)
    host = HostMemory(buffer, 3 * PAGESIZE).view(0, 3 * PAGESIZE)
    host.copy_(torch.arange(3 * PAGESIZE) % 251)
    device.register(pieces(host.data_ptr(), 3 * PAGESIZE, max_piece_bytes=PAGESIZE))

    device.copy(host[5 : 2 * PAGESIZE + 7], memory, 3).wait()
    device.close()  # before the buffer goes

    copied = memory.view(3, 2 * PAGESIZE + 2).cpu()
    assert torch.equal(copied, host[5 : 2 * PAGESIZE + 7])


def test_allocate_refuses_what_there_is_not(device):
    with pytest.raises(DeviceError, match=r"no \d+ bytes"):
        device.allocate(1 << 60)


def test_close_may_be_repeated(device):
    device.close()
    device.close()


def test_h2d_is_measured_where_a_gpu_is():
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="torch sees 0"):
            measure_h2d_bytes_per_s()
        return

    assert 1e9 < measure_h2d_bytes_per_s() < 2e12
