"""Arrivals: what is waited for, for how long, and how it ends."""

from __future__ import annotations

import threading

import pytest

from pilotlight_loader.devices.cpu import CopyDone
from pilotlight_loader.errors import LoadCancelledError, LoadFailedError
from pilotlight_loader.pipeline import arrivals
from pilotlight_loader.pipeline.arrivals import Arrivals


def test_wait_returns_the_copies_of_its_parts():
    found = Arrivals(3)
    event = CopyDone()
    found.arrived(0, event)
    found.arrived(2, None)

    assert found.wait([0, 2]) == [event]


def test_wait_blocks_until_its_last_part_is_there():
    found = Arrivals(2)
    found.arrived(1, None)
    waiting = threading.Thread(target=found.wait, args=([0, 1],))
    waiting.start()
    waiting.join(0.05)
    blocked = waiting.is_alive()

    found.arrived(0, None)
    waiting.join(20)

    assert blocked
    assert not waiting.is_alive()


def test_wait_raises_the_first_failure_even_for_what_is_there():
    found = Arrivals(1)
    found.arrived(0, None)
    found.fail(LoadFailedError("first"))
    found.fail(LoadCancelledError("second"))

    with pytest.raises(LoadFailedError, match="first"):
        found.wait([0])


def test_wait_of_a_time_ends_with_it():
    with pytest.raises(TimeoutError, match="2 parts have not arrived"):
        Arrivals(2).wait([0], timeout_s=0.01)


def test_wait_gives_up_when_nothing_arrives_at_all(monkeypatch):
    monkeypatch.setattr(arrivals, "STALL_S", 0.01)

    with pytest.raises(LoadFailedError, match=r"no part arrived within 0\.01 s"):
        Arrivals(2).wait([0])


def test_at_s_is_when_the_last_of_its_parts_came():
    times = iter([5.0, 3.0])
    found = Arrivals(3, clock=lambda: next(times))
    found.arrived(0, None)
    found.arrived(1, None)

    assert found.at_s([0, 1]) == 5.0
    assert found.at_s([0, 2]) is None
    assert found.at_s([]) is None
