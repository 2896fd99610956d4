"""The ring: a slab is used again only when its copy has ended and everyone has let go."""

from __future__ import annotations

import threading

import pytest
from support.waiting import until

from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.errors import DeviceError
from pilotlight_loader.pipeline.ring import Ring, Slab


@pytest.fixture
def device() -> SimulatedDevice:
    return SimulatedDevice()


def fly(ring: Ring, device: SimulatedDevice, slab: Slab, *, is_shared: bool = False):
    event = device.copy(slab.tensor, device.allocate(slab.tensor.numel()), 0)
    return ring.fly(slab, event, is_shared=is_shared)


class Acquiring:
    """acquire() in a thread of its own."""

    def __init__(self, ring: Ring) -> None:
        self.slab: Slab | None = None
        self.error: BaseException | None = None
        self.ring = ring
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.slab = self.ring.acquire()
        except DeviceError as error:
            self.error = error

    def is_blocked(self) -> bool:
        self.thread.join(0.05)
        return self.thread.is_alive()

    def result(self) -> Slab | None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.slab


def test_ring_makes_slabs_only_when_needed(device):
    ring = Ring(device, 10, 100)

    first = ring.acquire()
    ring.give_back(first)

    assert ring.acquire() is first
    assert ring.peak_bytes == device.staged_bytes == 10


def test_ring_never_makes_more_than_its_bytes(device):
    ring = Ring(device, 10, 35)
    slabs = [ring.acquire() for _ in range(3)]
    blocked = Acquiring(ring)

    assert blocked.is_blocked()
    assert device.staged_bytes == 30
    ring.give_back(slabs[0])
    assert blocked.result() is slabs[0]


def test_ring_has_two_slabs_however_large_they_are(device):
    ring = Ring(device, 10, 1)

    assert ring.acquire() is not ring.acquire()


def test_ring_reuses_a_slab_only_after_its_copy(device):
    ring = Ring(device, 10, 20)
    first, _second = ring.acquire(), ring.acquire()
    fly(ring, device, first)
    blocked = Acquiring(ring)

    assert blocked.is_blocked()
    device.advance(10)
    assert blocked.result() is first


def test_ring_reuses_a_shared_slab_only_after_its_release(device):
    ring = Ring(device, 10, 20)
    first, _second = ring.acquire(), ring.acquire()
    release = fly(ring, device, first, is_shared=True)
    device.advance(10)
    blocked = Acquiring(ring)

    assert blocked.is_blocked()
    release()
    assert blocked.result() is first


def test_ring_takes_a_slab_whose_release_came_before_its_copy_ended(device):
    ring = Ring(device, 10, 20)
    first, _second = ring.acquire(), ring.acquire()
    fly(ring, device, first, is_shared=True)()
    blocked = Acquiring(ring)

    assert blocked.is_blocked()
    device.advance(10)
    assert blocked.result() is first


def test_ring_close_wakes_who_waits(device):
    ring = Ring(device, 10, 20)
    ring.acquire(), ring.acquire()
    blocked = Acquiring(ring)

    ring.close()

    assert blocked.result() is None


def test_ring_tells_who_waits_that_a_copy_failed(device):
    ring = Ring(device, 10, 20)
    first, _second = ring.acquire(), ring.acquire()
    fly(ring, device, first)
    blocked = Acquiring(ring)
    device.break_down("gone")

    assert blocked.result() is None
    assert "gone" in str(blocked.error)


def test_ring_drain_waits_for_copies_and_frees_the_slabs(device):
    ring = Ring(device, 10, 20)
    fly(ring, device, ring.acquire())
    draining = threading.Thread(target=ring.drain)
    draining.start()
    draining.join(0.05)
    blocked = draining.is_alive()

    device.run()
    draining.join(20)

    assert blocked
    until(lambda: device.staged_bytes == 0)
