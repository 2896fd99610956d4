"""One transfer from its plan to its tensors: owns memory, readers, copies, and their end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import torch

from pilotlight_loader import kernel_layout
from pilotlight_loader.devices.device import Device, DeviceMemory
from pilotlight_loader.dtypes import torch_dtype, torch_shape
from pilotlight_loader.errors import (
    DeviceError,
    LayoutVersionError,
    LoadCancelledError,
    LoadFailedError,
)
from pilotlight_loader.packed import PackedTensor
from pilotlight_loader.pipeline.arrivals import Arrivals
from pilotlight_loader.pipeline.disk_tier import Cache
from pilotlight_loader.pipeline.feed import Feed
from pilotlight_loader.pipeline.meter import Metered
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.own_tensor import OwnTensor
from pilotlight_loader.pipeline.report import LoadReport, tier_report
from pilotlight_loader.sources.source import ByteSource
from pilotlight_loader.transfer.parts import TransferPlan

# Kernels that read 16 bytes at once take no pointer below that.
GPU_ALIGN = 16


class Delivery:
    """A context manager: leaving it ends whatever still goes on, and waits for that end."""

    def __init__(
        self,
        plan: TransferPlan,
        sources: Mapping[str, ByteSource],
        device: Device,
        *,
        location: str,
        options: TransferOptions,
        cache: Cache | None = None,
    ) -> None:
        """*location* is for messages. Allocates the first range, reads nothing before allow()."""
        self.plan = plan
        self._device = device
        self._location = location
        self._start_s = self._end_s = time.monotonic()
        self._memories: dict[int, DeviceMemory] = {}
        self._allowed = 0
        self._allocate_for(1)
        self._owned: dict[str, OwnTensor] = {}
        self._arrivals = Arrivals(len(plan.parts))
        self._feed = Feed(
            plan,
            sources,
            device,
            self._memories.__getitem__,
            self._arrivals,
            options=options,
            cache=cache,
            is_host_reachable=self._is_host_reachable(),
            on_error=self._fail,
        )
        self._ending = threading.Lock()
        self._is_delivered = False
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def allow(self, limit: int) -> None:
        """Allocate for the parts below *limit*, in this thread, and let them be read."""
        if self._feed.copies_at_once:
            # Part by part: one range is copied while the next is allocated.
            for upto in range(self._allowed, min(limit, len(self.plan.parts))):
                self._allocate_for(upto)
                self._feed.allow(upto)
        self._allocate_for(limit)
        self._feed.allow(limit)
        self._feed.start()

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor, over memory that fills later: use it after ready()."""
        placement = self.plan.placements[name]
        info = placement.info
        dtype = torch_dtype(info.dtype, info.name, self._location)
        shape = torch_shape(info.dtype, info.shape, info.name, self._location)
        if info.nbytes == 0:
            return torch.empty(shape, dtype=dtype, device=self._device.torch_device)
        held = self._memories[placement.range].view(placement.at, info.nbytes)
        if isinstance(info, PackedTensor):
            return self._packed(info, held)
        if held.data_ptr() % self._alignment(dtype):
            # Behind an odd number of bytes: no view of its type stands there.
            own = self._owned.setdefault(name, OwnTensor(held))
            held = own.bytes
        return held.view(dtype).view(shape)

    def _packed(self, info: PackedTensor, held: torch.Tensor) -> torch.Tensor:
        if self._device.torch_device.type != "cpu":
            raise LayoutVersionError(
                self._location, f"{info.name!r} is packed for a CPU: load the plain file beside it"
            )
        return kernel_layout.view(held, info.layout)

    def ready(self, names: Sequence[str], timeout_s: float | None = None) -> None:
        """Wait until *names* may be used by what the caller does next, on its stream.

        On a GPU the copies only have to have begun: the stream waits for their end. Raises
        LoadFailedError, LoadCancelledError, TimeoutError.
        """
        parts = [part for name in names for part in self.plan.placements[name].parts]
        events = self._arrivals.wait(parts, timeout_s)
        with self._copy_errors_end_it():
            for event in events:
                event.gate()
        for name in names:
            own = self._owned.get(name)
            if own is not None:
                own.fill()
                self._owned.pop(name, None)  # the tensor is its user's alone

    def forget(self, range_index: int) -> None:
        """All tensors of this range were handed out: they alone keep its memory now."""
        self._memories.pop(range_index, None)

    def wait(self, timeout_s: float | None = None) -> None:
        """Until all bytes are on the device and every tensor is ready; then complete the cache.

        Raises what ready() does; TimeoutError also where only the cache is not complete.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self.ready(tuple(self.plan.placements), timeout_s)
        with self._copy_errors_end_it():
            for event in self._arrivals.events():
                event.wait()
        with self._ending:
            if not self._is_delivered:
                self._end_s = time.monotonic()
                self._is_delivered = True
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        self._feed.complete(left_s)

    def cancel(self) -> None:
        """From any thread, at once: what waits raises LoadCancelledError, reading stops.

        Once all bytes are on the device it only ends the completion of the cache; it has no
        effect on what has failed.
        """
        self._stop(LoadCancelledError(f"{self._location}: the load was cancelled"))

    def close(self) -> None:
        """End reading and copying, wait for their threads, let go of all memory. Idempotent.

        Raises LoadFailedError where a thread does not end.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._stop(LoadCancelledError(f"{self._location}: the load was left early"))
        with contextlib.ExitStack() as ending:  # runs upwards, and every line of it
            ending.callback(self._memories.clear)
            ending.callback(self._owned.clear)
            ending.callback(self._feed.close, is_delivered=self._is_delivered)

    def report(self, floors: Mapping[str, float] | None) -> LoadReport:
        """After wait(). *floors*: bytes per second by tier."""
        counts = self._feed.counts()
        first = next((p for p in self.plan.placements.values() if p.parts), None)
        first_s = self._arrivals.at_s(first.parts) if first is not None else None
        begin_s = counts.first_start_s if counts.first_start_s is not None else self._end_s
        metered = self._feed.meter.tiers()
        if not metered:  # copies from host memory, which are no reads; or there was nothing
            metered = {self._feed.tier: Metered(counts.nbytes, begin_s, self._end_s)}
        error = self._feed.cache_error
        return LoadReport(
            nbytes=counts.nbytes,
            seconds=self._end_s - self._start_s,
            first_tensor_s=first_s - self._start_s if first_s is not None else None,
            tiers={
                **{
                    tier: tier_report(tier, of.nbytes, of.last_end_s - of.first_start_s, floors)
                    for tier, of in metered.items()
                },
                "device": tier_report("device", counts.nbytes, self._end_s - begin_s, floors),
            },
            retries=counts.retries,
            hedges=counts.hedges,
            peak_staging_bytes=self._feed.peak_staging_bytes,
            cache_error=str(error) if error is not None else None,
        )

    def _allocate_for(self, limit: int) -> None:
        for part in self.plan.parts[self._allowed : limit]:
            if part.range not in self._memories:
                nbytes = self.plan.ranges[part.range].nbytes
                self._memories[part.range] = self._device.allocate(nbytes)
        self._allowed = max(self._allowed, limit)

    def _is_host_reachable(self) -> bool:
        return all(memory.host(0, 1) is not None for memory in self._memories.values())

    def _alignment(self, dtype: torch.dtype) -> int:
        on_gpu = self._device.torch_device.type != "cpu"
        return max(dtype.itemsize, GPU_ALIGN) if on_gpu else dtype.itemsize

    @contextlib.contextmanager
    def _copy_errors_end_it(self) -> Iterator[None]:
        try:
            yield
        except DeviceError as error:
            self._fail(error)
            raise LoadFailedError(f"{self._location}: {error}") from error

    def _fail(self, error: BaseException) -> None:
        failure = LoadFailedError(f"{self._location}: {error}")
        failure.__cause__ = error
        self._feed.failed(error)
        self._stop(failure)

    def _stop(self, error: LoadFailedError) -> None:
        # Once they are there, a gate that is just being opened must find its tensors, not an error.
        if not self._is_delivered:
            self._arrivals.fail(error)
        self._feed.stop()
