"""Parts whose bytes stand in host memory: one copy each, in order, without readers or staging."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from pilotlight_loader.devices.device import CopyEvent, Device
from pilotlight_loader.errors import DeviceError
from pilotlight_loader.pipeline.arrivals import Arrivals
from pilotlight_loader.pipeline.landings import MemoryOf
from pilotlight_loader.sources.host import HostSource
from pilotlight_loader.sources.source import ByteSource
from pilotlight_loader.transfer.fetch import FetchCounts
from pilotlight_loader.transfer.parts import Part


def in_host_memory(sources: Mapping[str, ByteSource]) -> dict[str, HostSource]:
    """All of *sources*, or nothing where bytes of one of them have to be read."""
    held = {file: source for file, source in sources.items() if isinstance(source, HostSource)}
    return held if len(held) == len(sources) else {}


class HostCopies:
    """Stands where a Fetch would. The thread that calls allow() begins the copies.

    Nobody waits there: beginning 800 of 16 MiB costs 10 ms or so, in which a thread would fight
    the forward pass for the GIL.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        sources: Mapping[str, HostSource],
        device: Device,
        memory_of: MemoryOf,
        arrivals: Arrivals,
        *,
        on_error: Callable[[BaseException], None],
    ) -> None:
        """*on_error* is called at most once, with the copy that the device refused."""
        self._parts = parts
        # The memory itself: whoever closes the source may not pull it away under a copy.
        self._memory = {file: source.memory for file, source in sources.items()}
        self._device = device
        self._memory_of = memory_of
        self._arrivals = arrivals
        self._on_error = on_error
        self._begun = 0
        self._nbytes = 0
        self._stopped = False
        self._last: CopyEvent | None = None
        self._start_s: float | None = None

    def start(self) -> None:
        """Copies begin in allow()."""

    def allow(self, limit: int) -> None:
        """Begin the copies of parts below *limit*, whose device memory is there."""
        if self._start_s is None:
            self._start_s = time.monotonic()
        for part in self._parts[self._begun : limit]:
            if self._stopped:
                return
            source = self._memory[part.file][part.start : part.end]
            try:
                event = self._device.copy(source, self._memory_of(part.range), part.at)
            except DeviceError as error:
                self._on_error(error)
                return
            self._last = event
            self._begun = part.index + 1
            self._nbytes += part.nbytes
            self._arrivals.arrived(part.index, event)

    def stop(self) -> None:
        """Begin nothing more. From any thread."""
        self._stopped = True

    def join(self) -> None:
        """Wait for the copies that have begun, and let go of the memory that they read."""
        if self._last is not None:
            with contextlib.suppress(DeviceError):  # whoever waits for the bytes is told
                self._last.wait()  # copies end in the order in which they began
        self._memory.clear()

    def counts(self) -> FetchCounts:
        return FetchCounts(self._nbytes, 0, 0, self._start_s, None)
