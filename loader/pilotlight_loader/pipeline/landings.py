"""Where parts land: straight in host memory, or in a ring from which the device copies."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from traceback import clear_frames

from pilotlight_loader.devices.device import Device, DeviceMemory
from pilotlight_loader.errors import LoadFailedError
from pilotlight_loader.pipeline.arrivals import Arrivals
from pilotlight_loader.pipeline.ring import Ring, Slab
from pilotlight_loader.pipeline.write_through import WriteThrough
from pilotlight_loader.transfer.landing import Room
from pilotlight_loader.transfer.parts import Part

JOIN_S = 30.0

MemoryOf = Callable[[int], DeviceMemory]  # by the index of the range


class DirectLanding:
    """Parts are read to where they stay. A second read of a part goes to a buffer of its own."""

    in_place = True

    def __init__(self, memory_of: MemoryOf, arrivals: Arrivals) -> None:
        self._memory_of = memory_of
        self._arrivals = arrivals
        self._closed = threading.Event()

    def take(self) -> Room | None:
        return None if self._closed.is_set() else _Place(self._memory_of, self._arrivals)

    def close(self) -> None:
        self._closed.set()


class _Place:
    def __init__(self, memory_of: MemoryOf, arrivals: Arrivals) -> None:
        self._memory_of = memory_of
        self._arrivals = arrivals
        self._apart: bytearray | None = None

    def view(self, part: Part, *, apart: bool) -> memoryview:
        if apart:
            self._apart = bytearray(part.nbytes)
            return memoryview(self._apart)
        return self._host(part)

    def landed(self, part: Part) -> None:
        if self._apart is not None:
            self._host(part)[:] = self._apart
        self._arrivals.arrived(part.index, None)

    def give_back(self) -> None:
        self._apart = None

    def _host(self, part: Part) -> memoryview:
        view = self._memory_of(part.range).host(part.at, part.nbytes)
        assert view is not None  # asked of the device before this landing was chosen
        return view


class StagedLanding:
    """Parts are read into slabs; one thread begins the copies and offers the bytes to the cache."""

    in_place = False

    def __init__(
        self,
        ring: Ring,
        device: Device,
        memory_of: MemoryOf,
        arrivals: Arrivals,
        write_through: WriteThrough | None,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._ring = ring
        self._device = device
        self._memory_of = memory_of
        self._arrivals = arrivals
        self._write_through = write_through
        self._on_error = on_error
        self._closed = threading.Event()
        self._full: queue.SimpleQueue[tuple[Slab, Part] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="pilotlight-copy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self) -> Room | None:
        slab = self._ring.acquire()
        return None if slab is None else _SlabRoom(slab, self._ring, self._full)

    def close(self) -> None:
        """What is queued is not copied any more."""
        self._closed.set()
        self._ring.close()

    def join(self) -> None:
        """After the readers were joined: end the thread, wait for copies and cache."""
        self._full.put(None)
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
            if self._thread.is_alive():
                raise LoadFailedError(f"the copying thread did not end within {JOIN_S:g} s")
        self._ring.drain()

    def _run(self) -> None:
        while True:
            try:
                self._copy_all()
                return
            except BaseException as error:  # a device's driver may raise anything
                clear_frames(error.__traceback__)  # they refer to a slab
                self._on_error(error)

    def _copy_all(self) -> None:
        while (item := self._full.get()) is not None:  # ended by join()
            slab, part = item
            if self._closed.is_set():
                self._ring.give_back(slab)
            else:
                self._copy(slab, part)

    def _copy(self, slab: Slab, part: Part) -> None:
        write = self._write_through
        shared = write is not None and write.takes(part)
        event = self._device.copy(slab.tensor[: part.nbytes], self._memory_of(part.range), part.at)
        release = self._ring.fly(slab, event, is_shared=shared)
        # Before the arrival, and without waiting for a disk: whoever waits for the last one then
        # publishes what was written.
        if write is not None and shared:
            write.write(part, slab.bytes[: part.nbytes], release)
        self._arrivals.arrived(part.index, event)


class _SlabRoom:
    def __init__(
        self, slab: Slab, ring: Ring, full: queue.SimpleQueue[tuple[Slab, Part] | None]
    ) -> None:
        self._slab = slab
        self._ring = ring
        self._full = full

    def view(self, part: Part, *, apart: bool) -> memoryview:
        return self._slab.bytes[: part.nbytes]

    def landed(self, part: Part) -> None:
        self._full.put((self._slab, part))

    def give_back(self) -> None:
        self._ring.give_back(self._slab)
