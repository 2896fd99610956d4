"""What brings a transfer's bytes: the disk tier, readers or copies, staging, and their end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from pilotlight_loader.devices.device import Device
from pilotlight_loader.errors import LoadCancelledError, LoadFailedError
from pilotlight_loader.pipeline.arrivals import Arrivals
from pilotlight_loader.pipeline.disk_tier import Cache
from pilotlight_loader.pipeline.finishing import Finishing
from pilotlight_loader.pipeline.host_copies import HostCopies, in_host_memory
from pilotlight_loader.pipeline.landings import DirectLanding, MemoryOf, StagedLanding
from pilotlight_loader.pipeline.meter import Meter, MeteredSource
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.report import tier_of
from pilotlight_loader.pipeline.ring import Ring
from pilotlight_loader.pipeline.write_through import WriteThrough
from pilotlight_loader.sources.source import ByteSource
from pilotlight_loader.transfer.fetch import Fetch, FetchCounts
from pilotlight_loader.transfer.parts import TransferPlan

JOIN_S = 30.0  # what waits for another process looks for a stop every 20 ms
_NOTHING_YET = FetchCounts(0, 0, 0, None, None)


class Feed:
    """Begun by start(); ended by stop() from any thread, and then close() by its owner.

    With a cache it opens in a thread of its own: another process may be fetching the same, which
    can take minutes, and whoever waits for a tensor meanwhile must be able to give up.
    """

    def __init__(
        self,
        plan: TransferPlan,
        sources: Mapping[str, ByteSource],
        device: Device,
        memory_of: MemoryOf,
        arrivals: Arrivals,
        *,
        options: TransferOptions,
        cache: Cache | None,
        is_host_reachable: bool,
        on_error: Callable[[BaseException], None],
    ) -> None:
        """*on_error* is called from threads of the feed with what ended it."""
        self._plan = plan
        self._sources = sources
        self._device = device
        self._memory_of = memory_of
        self._arrivals = arrivals
        self._options = options
        self._cache = cache
        self._is_host_reachable = is_host_reachable
        self._on_error = on_error
        self._lock = threading.Lock()  # of what the opening thread hands over
        self._stopped = threading.Event()
        self._slab_bytes = max((part.nbytes for part in plan.parts), default=1)
        self.tier = tier_of(sources)
        self.meter = Meter()
        self._limit = 0
        self._is_started = False
        self._reading: Fetch | HostCopies | None = None
        self._staged: StagedLanding | None = None
        self._ring: Ring | None = None
        self._write_through: WriteThrough | None = None
        self._held = ExitStack()  # what the disk tier leases
        self._opening = threading.Thread(target=self._open, name="pilotlight-open", daemon=True)
        self._finishing: Finishing | None = None
        self._disk_error: LoadFailedError | None = None
        if cache is None:
            self._reading = self._made(sources)

    @property
    def copies_at_once(self) -> bool:
        """allow() itself begins the copies: memory for one part may be made while it does."""
        return isinstance(self._reading, HostCopies)

    @property
    def peak_staging_bytes(self) -> int:
        return self._ring.peak_bytes if self._ring is not None else 0

    @property
    def cache_error(self) -> BaseException | None:
        of_cache = self._write_through.error if self._write_through is not None else None
        return of_cache or self._disk_error

    def counts(self) -> FetchCounts:
        return self._reading.counts() if self._reading is not None else _NOTHING_YET

    def allow(self, limit: int) -> None:
        """Let parts below *limit*, whose memory is there, be read."""
        with self._lock:
            self._limit = max(self._limit, limit)
            reading = self._reading
        if reading is not None:
            reading.allow(limit)

    def start(self) -> None:
        """Idempotent, by one thread."""
        if self._is_started:
            return
        self._is_started = True
        if self._cache is not None:
            self._arrivals.hold()
            self._opening.start()
        else:
            self._begin()

    def stop(self) -> None:
        """Read no more, and complete no cache; returns at once. Idempotent, from any thread."""
        self._stopped.set()
        with self._lock:
            reading, write_through = self._reading, self._write_through
        if reading is not None:
            reading.stop()
        if write_through is not None:
            write_through.cancel()

    def failed(self, error: BaseException) -> None:
        """Before stop(): *error* is why."""
        with self._lock:
            write_through = self._write_through
        if write_through is not None:
            write_through.failed(error)

    def complete(self, timeout_s: float | None) -> None:
        """All bytes have arrived: let the disk tier have the rest. Raises TimeoutError, goes on."""
        if self._finishing is not None:
            self._finishing.complete(timeout_s)

    def close(self, *, is_delivered: bool) -> None:
        """After stop(): wait for all threads. Raises LoadFailedError where one does not end.

        A write or fsync that hangs in the kernel fails no load whose tensors are all there: where
        *is_delivered* it becomes the cache_error.
        """
        end_disk = partial(self._end_disk, is_delivered=is_delivered)
        with ExitStack() as ending:  # runs upwards, and every line of it
            ending.callback(self._held.close)
            if self._staged is not None:
                ending.callback(end_disk, self._staged.join)
            if self._write_through is not None:
                ending.callback(self._write_through.abandon)
            if self._reading is not None:
                ending.callback(self._reading.join)
            if self._finishing is not None:
                ending.callback(end_disk, self._finishing.join)
            _join(self._opening)  # what follows is then final

    def _open(self) -> None:
        """In its own thread: find out who has what, then begin. A late stop leaves nothing."""
        assert self._cache is not None
        try:
            with ExitStack() as held:
                tier = held.enter_context(self._cache.tier(self._sources, cancel=self._stopped))
                # At most half of the ring: the device is fed through the other half.
                write_through = WriteThrough(
                    tier,
                    tier.sources,
                    retry=self._options.retry,
                    backlog=self._options.staging_bytes // self._slab_bytes // 2,
                    complete_s=self._options.complete_cache_s,
                )
                held.callback(write_through.abandon)
                with self._lock:
                    if self._stopped.is_set():
                        return
                    self._write_through = write_through
                    self._finishing = Finishing(write_through)
                    self._reading = self._made(tier.sources)
                    self._held = held.pop_all()
            self._begin()
        except LoadCancelledError:
            return  # whoever stopped this has told those who wait
        except BaseException as error:  # a cache's own business, or the device's
            self._on_error(error)

    def _begin(self) -> None:
        with self._lock:
            reading, limit = self._reading, self._limit
        assert reading is not None
        reading.allow(limit)
        if self._staged is not None:
            self._staged.start()
        reading.start()
        self._arrivals.go_on()
        if self._stopped.is_set():  # it came while nobody could be told
            reading.stop()

    def _made(self, sources: Mapping[str, ByteSource]) -> Fetch | HostCopies:
        self.tier = tier_of(sources)
        held = in_host_memory(sources)
        if held and self._write_through is None and not self._is_host_reachable:
            return HostCopies(
                self._plan.parts,
                held,
                self._device,
                self._memory_of,
                self._arrivals,
                on_error=self._on_error,
            )
        return Fetch(
            self._plan.parts,
            {file: MeteredSource(source, self.meter) for file, source in sources.items()},
            self._landing(),
            on_error=self._on_error,
            readers=self._options.readers,
            retry=self._options.retry,
            hedge=self._options.hedge,
        )

    def _landing(self) -> DirectLanding | StagedLanding:
        # Bytes that a cache still writes must not change, and a tensor's owner may change it: with
        # a cache, parts go through the ring everywhere.
        if self._write_through is None and self._is_host_reachable:
            return DirectLanding(self._memory_of, self._arrivals)
        self._ring = Ring(self._device, self._slab_bytes, self._options.staging_bytes)
        self._staged = StagedLanding(
            self._ring,
            self._device,
            self._memory_of,
            self._arrivals,
            self._write_through,
            self._on_error,
        )
        return self._staged

    def _end_disk(self, join: Callable[[], None], *, is_delivered: bool) -> None:
        try:
            join()
        except LoadFailedError as error:
            if not is_delivered or self._write_through is None:
                raise
            self._disk_error = error


def _join(thread: threading.Thread) -> None:
    if thread.ident is None:
        return
    thread.join(JOIN_S)
    if thread.is_alive():
        raise LoadFailedError(f"{thread.name} did not end within {JOIN_S:g} s")
