"""The simulated device: copies end when the test, or the clock, says so."""

from __future__ import annotations

import pytest

from pilotlight_loader.devices.simulated import POISON, Pace, SimulatedDevice
from pilotlight_loader.errors import DeviceError


class Clock:
    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds


def begin(device: SimulatedDevice, *sizes: int):
    memory = device.allocate(sum(sizes))
    events, at = [], 0
    for number, nbytes in enumerate(sizes):
        slab = device.staging(nbytes)
        slab.fill_(number + 1)
        events.append(device.copy(slab, memory, at))
        at += nbytes
    return memory, events


def test_copies_wait_for_advance():
    device = SimulatedDevice()
    memory, events = begin(device, 4, 4)

    device.advance(6)

    assert [event.done() for event in events] == [True, False]
    assert memory.view(0, 8).tolist() == [1] * 4 + [POISON] * 4
    assert device.pending_bytes == 2


def test_copies_read_their_source_when_they_end():
    device = SimulatedDevice()
    memory = device.allocate(1)
    slab = device.staging(1)
    slab.fill_(1)
    device.copy(slab, memory, 0)

    slab.fill_(2)  # too early: this is what a ring must not do
    device.advance(1)

    assert memory.view(0, 1).item() == 2


def test_run_lets_later_copies_end_at_once():
    device = SimulatedDevice()
    _, (first,) = begin(device, 4)

    device.run()
    _, (second,) = begin(device, 4)

    assert first.done()
    assert second.done()


def test_pace_makes_copies_take_their_time_one_after_the_other():
    clock = Clock()
    device = SimulatedDevice(Pace(bytes_per_s=10.0, clock=clock))
    _, (first, second) = begin(device, 10, 20)

    clock.at_s = 2.9

    assert first.done()
    assert not second.done()
    second.wait()
    assert clock.at_s == pytest.approx(3.0)


def test_broken_device_fails_pending_copies_and_refuses_later_ones():
    device = SimulatedDevice()
    _, (event,) = begin(device, 4)

    device.break_down("fell off the bus")

    with pytest.raises(DeviceError, match="fell off"):
        event.wait()
    with pytest.raises(DeviceError, match="fell off"):
        begin(device, 4)


def test_memory_counts_until_its_last_view_dies():
    device = SimulatedDevice(capacity_bytes=10)
    view = device.allocate(8).view(0, 1)

    with pytest.raises(DeviceError, match="8 of 10 are in use"):
        device.allocate(8)
    del view
    device.allocate(8)
