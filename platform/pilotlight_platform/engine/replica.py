"""A revision attached to this worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from pilotlight_loader import (
    AttachReport,
    BakedCheckpoint,
    LoaderError,
    MappedCheckpoint,
    PrefaultReport,
    StandInCheckpoint,
)
from pilotlight_loader.arena.lease import Lease
from pilotlight_platform.engine.host_tier import HostTier
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.errors import AttachError, ReplicaGoneError
from pilotlight_platform.schemas.timeline import Span, Tier

logger = logging.getLogger(__name__)

# Part of the weights that must be in memory already for their bytes to count as coming from the
# host tier: a few pages are always missing (the header, the ends of extents).
_RESIDENT = 0.99


class Replica:
    """Weights mapped into a skeleton's module.

    Attaching assigns views of the mapping, which costs no copy. Pages that must come from the disk
    are then touched by a thread in execution order, ahead of the prefill; the thread is owned:
    `detach` stops and joins it. Pages that are in memory already are left to the prefill's own
    faults: a third thread on the cores that compute cost it 20 ms of 70 (0.63 GB, two cores).
    The mapping is of the arena where the host tier has the file, else of the file itself.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        mapped: MappedCheckpoint | StandInCheckpoint,
        attach_report: AttachReport,
        lease: Lease | None = None,
        host_tier: HostTier | None = None,
        floors: Mapping[str, float] | None = None,
    ) -> None:
        self.skeleton = skeleton
        self._mapped = mapped
        self._attach_report = attach_report
        self._lease = lease  # of the arena, if that is what is mapped
        self._host_tier = host_tier
        self._disk_bytes_per_s = (floors or {}).get("disk")
        self._prefault_report: PrefaultReport | None = None
        self._use = threading.Lock()  # held by a forward pass, and by detach
        self._detached = False
        self._stop = threading.Event()
        self._prefault = threading.Thread(
            target=self._touch_pages, name="pilotlight-prefault", daemon=True
        )

    @classmethod
    def attach(
        cls,
        skeleton: Skeleton,
        stand_in: StandInCheckpoint | None = None,
        *,
        host_tier: HostTier | None = None,
        floors: Mapping[str, float] | None = None,
    ) -> Self:
        """Attach the skeleton's weights, or *stand_in*, and begin to read them.

        *floors*: bytes per second by tier, for the spans.

        Raises:
            AttachError: if the skeleton has a replica, or the weights cannot be mapped.
        """
        if skeleton.attached:
            raise AttachError(f"{skeleton.directory} is attached already")
        try:
            mapped, lease = (
                _mapped(skeleton.baked, host_tier) if stand_in is None else (stand_in, None)
            )
            report = skeleton.plan.attach(mapped)
        except (LoaderError, OSError) as error:
            raise AttachError(f"cannot attach {skeleton.directory}: {error}") from error
        skeleton.attached = True
        replica = cls(skeleton, mapped, report, lease, host_tier, floors)
        try:
            replica._stage()
        except BaseException:
            replica.detach()
            raise
        return replica

    def _stage(self) -> None:
        """Read ahead what is not in memory."""
        began_s = time.time()
        resident = self._mapped.resident_bytes()
        if resident >= _RESIDENT * self._mapped.nbytes:
            self._prefault_report = PrefaultReport(began_s, time.time(), resident, resident)
        else:
            self._prefault.start()

    @property
    def nbytes(self) -> int:
        return self._attach_report.nbytes

    @property
    def staged(self) -> tuple[Tier, float] | None:
        """Which tier the weights came from, and the Unix time since when all of them are there."""
        report = self._prefault_report
        return None if report is None else (_tier(report), report.end_s)

    @property
    def spans(self) -> list[Span]:
        """What attaching cost; ``stage`` joins once the last page is there."""
        report = self._prefault_report
        tier = None if report is None else _tier(report)
        attach = self._attach_report
        spans = [Span("attach", attach.start_s, attach.end_s, attach.nbytes, tier)]
        if report is not None:
            floor_s = self._stage_floor_s(report)
            spans.append(Span("stage", report.start_s, report.end_s, report.nbytes, tier, floor_s))
        return spans

    def _stage_floor_s(self, report: PrefaultReport) -> float | None:
        """What the disk link allows for the bytes that were not in memory."""
        if self._disk_bytes_per_s is None or _tier(report) != "disk":
            return None
        return (report.nbytes - report.resident_bytes_before) / self._disk_bytes_per_s

    def bring_to_host(self) -> None:
        """Begin to copy the weights into the host tier, for the next attach; returns at once.

        Not before the first answer: the copy takes a core. Nothing happens where they are there.
        """
        if self._host_tier is not None:
            self._host_tier.bring(self.skeleton.baked)

    def wait_staged(self, timeout_s: float | None = None) -> bool:
        """Wait until everything is read; false on timeout."""
        if self._prefault.ident is not None:
            self._prefault.join(timeout_s)
        return not self._prefault.is_alive()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep `detach` waiting while a forward pass runs.

        Raises:
            ReplicaGoneError: if the replica has been detached.
        """
        with self._use:
            if self._detached:
                raise ReplicaGoneError("the replica has been detached")
            yield

    def detach(self) -> None:
        """Give the weights back; the module is on the meta device afterwards. Idempotent."""
        self._stop.set()
        self.wait_staged()
        with self._use:
            if not self._detached:
                self._detached = True
                if self._host_tier is not None:
                    self._host_tier.leave(self.skeleton.baked)
                self.skeleton.plan.detach()
                self._mapped.close()
                if self._lease is not None:
                    self._lease.close()
                self.skeleton.attached = False

    def _touch_pages(self) -> None:
        try:
            if isinstance(self._mapped, MappedCheckpoint):
                self._prefault_report = self._mapped.prefault(self._stop)
        except Exception:  # only a head start is lost: the forward pass faults the pages itself
            logger.exception("prefault_failed directory=%s", self.skeleton.directory)


def _mapped(
    baked: BakedCheckpoint, host_tier: HostTier | None
) -> tuple[MappedCheckpoint, Lease | None]:
    found = None if host_tier is None else host_tier.map(baked)
    return (baked.map(), None) if found is None else found


def _tier(report: PrefaultReport) -> Tier:
    return "host" if report.resident_bytes_before >= _RESIDENT * report.nbytes else "disk"
