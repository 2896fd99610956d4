"""A ring of staging buffers: bounded host memory between readers and an asynchronous device."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import torch

from pilotlight_loader.devices.device import CopyEvent, Device
from pilotlight_loader.devices.host_memory import host_view
from pilotlight_loader.errors import DeviceError, LoadFailedError

# 64 buffers of 8 MiB, 32 of 16 in safetensors 0.9: at 50 GB/s the device empties that in 10 ms;
# reads that take longer need not fewer but faster sources. InstantTensor pins 4 GiB instead.
STAGING_BYTES = 512 * 1024 * 1024
DRAIN_S = 30.0  # for a cache to let go of buffers once it was told to


class Slab:
    """One staging buffer: free, with a reader, or held by a copy and perhaps a cache's write."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.bytes = host_view(tensor)
        self.holds = 0


class Ring:
    """Slabs are made when first needed, and used again when nobody holds them. Thread-safe."""

    def __init__(self, device: Device, slab_bytes: int, staging_bytes: int = STAGING_BYTES) -> None:
        """At least two slabs, so that one is read while the other is copied."""
        self._device = device
        self._slab_bytes = slab_bytes
        self._limit = max(2, staging_bytes // slab_bytes)
        self._changed = threading.Condition()
        self._free: list[Slab] = []
        self._flying: deque[tuple[Slab, CopyEvent]] = deque()  # in the order of the copies
        self._made = 0
        self._held = 0
        self._closed = False

    @property
    def peak_bytes(self) -> int:
        """All that was ever made."""
        return self._made * self._slab_bytes

    def acquire(self) -> Slab | None:
        """A slab that nobody uses; blocks while there is none. None once the ring was closed.

        The waiting readers themselves wait for the oldest copy: no thread is needed for that.
        Raises DeviceError where a copy failed.
        """
        while True:
            oldest = None
            with self._changed:
                if self._closed:
                    return None
                while self._flying and self._flying[0][1].done():
                    self._release(self._flying.popleft()[0])
                if self._free:
                    return self._free.pop()
                if self._made < self._limit:
                    self._made += 1
                elif self._flying:
                    oldest = self._flying.popleft()
                else:  # with readers, or with the cache: until one gives a slab back
                    self._changed.wait()
                    continue
            if oldest is None:
                return Slab(self._device.staging(self._slab_bytes))
            self._land(*oldest)

    def give_back(self, slab: Slab) -> None:
        """From a reader, unused."""
        with self._changed:
            self._free.append(slab)
            self._changed.notify_all()

    def fly(self, slab: Slab, event: CopyEvent, *, is_shared: bool) -> Callable[[], None]:
        """The device copies from *slab*, and where *is_shared* somebody else reads it as well.

        That one calls what is returned when it has done so.
        """
        with self._changed:
            slab.holds = 2 if is_shared else 1
            self._held += slab.holds
            self._flying.append((slab, event))
            self._changed.notify_all()
        return partial(self._let_go, slab)

    def close(self) -> None:
        """Let nobody wait in acquire() any longer. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until no slab is held any more, also by a copy that failed. Raises LoadFailedError.

        Readers, and whoever begins copies, have ended.
        """
        while self._flying:
            with contextlib.suppress(DeviceError):  # whoever waits for the bytes is told
                self._land(*self._flying.popleft())
        with self._changed:
            if not self._changed.wait_for(lambda: self._held == 0, DRAIN_S):
                raise LoadFailedError(f"staging buffers were still held after {DRAIN_S:g} s")
            self._free.clear()

    def _land(self, slab: Slab, event: CopyEvent) -> None:
        try:
            event.wait()
        finally:
            self._let_go(slab)

    def _let_go(self, slab: Slab) -> None:
        with self._changed:
            self._release(slab)

    def _release(self, slab: Slab) -> None:
        slab.holds -= 1
        self._held -= 1
        if slab.holds == 0:
            self._free.append(slab)
        self._changed.notify_all()
