"""A device without hardware: memory of its own, one stream, copies that end when they are let.

For tests of what streams, also those of users: nothing depends on how fast this machine is.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pilotlight_loader.arena.pieces import Piece
from pilotlight_loader.devices.device import DeviceMemory
from pilotlight_loader.devices.host_memory import HostMemory, anonymous
from pilotlight_loader.errors import DeviceError

POISON = 0xA5  # what device memory holds before anything is copied to it
WAIT_S = 60.0  # a test that never lets a copy end should fail, not hang


class Clock(Protocol):
    """Time for a device with a bandwidth; `time.monotonic` and `time.sleep`, or a test's own."""

    def now_s(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """Copies end by themselves, one after the other, at this bandwidth."""

    bytes_per_s: float
    clock: Clock


class SimulatedMemory(HostMemory):
    """Memory that the CPU cannot reach, as far as a load is concerned."""

    def host(self, start: int, nbytes: int) -> memoryview | None:
        return None


class SimulatedEvent:
    """The end of one copy; `gate` blocks the caller, who has no stream of its own."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self.ended = False
        self.failure: str | None = None  # raised anew each time, with the frames of who asked

    def done(self) -> bool:
        return self._device.is_over(self)

    def wait(self) -> None:
        self._device.wait_for(self)

    def gate(self) -> None:
        self.wait()


@dataclass(slots=True)
class _Copy:
    source: torch.Tensor
    target: torch.Tensor
    event: SimulatedEvent
    end_s: float
    left: int  # bytes


class SimulatedDevice:
    """Thread-safe. Without a pace, copies stay where they are until advance() or run()."""

    def __init__(self, pace: Pace | None = None, capacity_bytes: int | None = None) -> None:
        self._pace = pace
        self._capacity_bytes = capacity_bytes
        self._changed = threading.Condition()
        self._copies: deque[_Copy] = deque()
        self._runs = False
        self._broken: str | None = None
        self._end_s = 0.0
        self._memories: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._stagings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self.copied_bytes = 0

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def pending_bytes(self) -> int:
        """Asked for, and not yet copied."""
        with self._changed:
            return sum(copy.left for copy in self._copies)

    @property
    def allocated_bytes(self) -> int:
        """Of ranges with a tensor that lives."""
        with self._changed:
            return sum(map(len, self._memories))

    @property
    def staged_bytes(self) -> int:
        """Of staging memory that lives."""
        with self._changed:
            return sum(map(len, self._stagings))

    def allocate(self, nbytes: int) -> DeviceMemory:
        with self._changed:
            used, room = sum(map(len, self._memories)), self._capacity_bytes
            if room is not None and used + nbytes > room:
                raise DeviceError(f"no {nbytes} bytes: {used} of {room} are in use on the device")
            buffer = anonymous(nbytes)
            self._memories.add(buffer)
        memory = SimulatedMemory(buffer, nbytes)
        memory.view(0, nbytes).fill_(POISON)
        return memory

    def staging(self, nbytes: int) -> torch.Tensor:
        buffer = anonymous(nbytes)
        with self._changed:
            self._stagings.add(buffer)
        return HostMemory(buffer, nbytes).view(0, nbytes)

    def register(self, pieces: Sequence[Piece]) -> None:
        """All host memory is alike here."""

    def copy(self, source: torch.Tensor, target: DeviceMemory, start: int) -> SimulatedEvent:
        with self._changed:
            if self._broken is not None:
                raise DeviceError(self._broken)
            event = SimulatedEvent(self)
            nbytes = source.numel()
            if self._pace is not None:
                begin_s = max(self._end_s, self._pace.clock.now_s())
                self._end_s = begin_s + nbytes / self._pace.bytes_per_s
            self._copies.append(
                _Copy(source, target.view(start, nbytes), event, self._end_s, nbytes)
            )
            if self._runs:
                self._end(len(self._copies))
            return event

    def advance(self, nbytes: int) -> None:
        """Let pending copies go on by *nbytes*, in order; what is left of it is lost."""
        with self._changed:
            ended = 0
            for copy in self._copies:
                step = min(nbytes, copy.left)
                copy.left -= step
                nbytes -= step
                if copy.left:
                    break
                ended += 1
            self._end(ended)

    def run(self) -> None:
        """Let all pending copies end, and every later one at once."""
        with self._changed:
            self._runs = True
            self._end(len(self._copies))

    def break_down(self, reason: str) -> None:
        """Pending copies fail, later ones are refused."""
        with self._changed:
            self._broken = reason
            while self._copies:
                event = self._copies.popleft().event
                event.failure, event.ended = reason, True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            events = [copy.event for copy in self._copies]
        for event in events:
            self.wait_for(event)

    def is_over(self, event: SimulatedEvent) -> bool:
        """What SimulatedEvent.done() says."""
        with self._changed:
            self._keep_pace()
            if event.failure is not None:
                raise DeviceError(event.failure)
            return event.ended

    def wait_for(self, event: SimulatedEvent) -> None:
        """What SimulatedEvent.wait() does."""
        while self._pace is not None and not self.is_over(event):
            self._pace.clock.sleep(self._sleep_s(event))
        with self._changed:
            if not self._changed.wait_for(lambda: event.ended, WAIT_S):
                raise DeviceError(f"nothing let the copy end within {WAIT_S:g} s")
            if event.failure is not None:
                raise DeviceError(event.failure)

    def _sleep_s(self, event: SimulatedEvent) -> float:
        assert self._pace is not None
        with self._changed:
            end_s = next((c.end_s for c in self._copies if c.event is event), 0.0)
            return max(0.0, end_s - self._pace.clock.now_s())

    def _keep_pace(self) -> None:
        if self._pace is None:
            return
        now_s = self._pace.clock.now_s()
        self._end(sum(copy.end_s <= now_s for copy in self._copies))

    def _end(self, count: int) -> None:
        """The bytes move at the last moment: who reuses the source too early is found out."""
        for _ in range(count):
            copy = self._copies.popleft()
            copy.target.copy_(copy.source)
            self.copied_bytes += copy.source.numel()
            copy.event.ended = True
        if count:
            self._changed.notify_all()
