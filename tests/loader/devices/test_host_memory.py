"""Host memory of our own: what is pinned is let go before it is unmapped."""

from __future__ import annotations

from pathlib import Path

from pilotlight_loader.devices.host_memory import HostMemory, PinnedMap, anonymous_as

NBYTES = 1 << 20


def is_mapped(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= address < int(end, 16):
            return True
    return False


def test_pinned_memory_is_unpinned_before_it_is_unmapped():
    buffer = anonymous_as(PinnedMap, NBYTES)
    tensor = HostMemory(buffer, NBYTES).view(0, NBYTES)
    address = tensor.data_ptr()
    seen: list[bool] = []
    buffer.unpin = lambda: seen.append(is_mapped(address))

    del buffer
    kept = list(seen)  # the tensor holds it
    del tensor

    assert kept == []
    assert seen == [True]


def test_memory_that_could_not_be_pinned_goes_quietly():
    buffer = anonymous_as(PinnedMap, NBYTES)

    del buffer
