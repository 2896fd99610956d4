"""Load a checkpoint into a module on the meta device, which can run while the rest arrives."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch
from torch import nn

from pilotlight_loader.attach import AttachPlan
from pilotlight_loader.devices.device import Device
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.module_tensors import module_tensors
from pilotlight_loader.pipeline.delivering import delivering
from pilotlight_loader.pipeline.delivery import Delivery
from pilotlight_loader.pipeline.disk_tier import Cache
from pilotlight_loader.pipeline.gates import Gates
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.readable import ReadableCheckpoint
from pilotlight_loader.pipeline.renamed import Rename, RenamedCheckpoint
from pilotlight_loader.pipeline.report import LoadReport
from pilotlight_loader.pipeline.tied_halves import check_tied_halves


class Loading:
    """A load under way: the module may run, each part of it waits for its own tensors.

    A context manager: leaving it waits for the end, or after an exception cancels the load.
    Gates stand before forwards and before looking up a tensor by its name; whoever goes through
    parameters() or state_dict(), compiles or captures the module calls wait() first.
    """

    def __init__(
        self,
        attach: AttachPlan,
        delivery: Delivery,
        gates: Gates,
        resources: ExitStack,
        floors: Mapping[str, float] | None,
    ) -> None:
        """*resources* are released, in reverse, when the load has ended one way or the other."""
        self._attach = attach
        self._delivery = delivery
        self._gates = gates
        self._resources = resources
        self._floors = floors
        self._lock = threading.Lock()  # of the end, which comes once
        self._is_undone = False
        self._report: LoadReport | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.wait()
        else:
            self._give_up()

    @property
    def report(self) -> LoadReport | None:
        """What the load did; None before wait() has returned."""
        return self._report

    def wait(self, timeout_s: float | None = None) -> LoadReport:
        """Until every tensor is on the device, the threads are gone and the cache is complete.

        Raises TimeoutError after *timeout_s*, and the load goes on: another process that fetches
        the same, and the disk, are within it. Raises LoadFailedError with its cause, or
        LoadCancelledError, and the module is weightless again.
        """
        if self._report is not None:
            return self._report
        try:
            self._delivery.wait(timeout_s)
            return self._finish()
        except TimeoutError:
            raise
        except BaseException:
            self._give_up()
            raise

    def cancel(self) -> None:
        """From any thread, at once: forwards that reach a gate raise LoadCancelledError.

        The module is weightless again when wait() has raised or the context was left. When every
        tensor is there, only the completion of the cache is given up.
        """
        self._delivery.cancel()

    def _finish(self) -> LoadReport:
        with self._lock:
            if self._report is None:
                self._gates.remove()
                self._resources.close()
                self._report = self._delivery.report(self._floors)
            return self._report

    def _give_up(self) -> None:
        """Not before it is over may the module be touched: its gates hold until then."""
        with self._lock:
            if self._report is not None or self._is_undone:
                return
            self._is_undone = True
            self._delivery.cancel()  # has no effect on a load that has failed
            try:
                self._resources.close()
            finally:
                self._attach.detach()
                self._gates.remove()


def load(
    checkpoint: ReadableCheckpoint,
    into: nn.Module,
    device: str | torch.device | Device = "cpu",
    *,
    order: Sequence[str] | None = None,
    rename: Rename | None = None,
    cache: Cache | None = None,
    floors: Mapping[str, float] | None = None,
    options: TransferOptions | None = None,
) -> LoadReport:
    """Load all of *checkpoint* into *into*, a module on the meta device; see begin_load."""
    with begin_load(
        checkpoint,
        into,
        device,
        order=order,
        rename=rename,
        cache=cache,
        floors=floors,
        options=options,
    ) as loading:
        return loading.wait()


def begin_load(
    checkpoint: ReadableCheckpoint,
    into: nn.Module,
    device: str | torch.device | Device = "cpu",
    *,
    order: Sequence[str] | None = None,
    rename: Rename | None = None,
    cache: Cache | None = None,
    floors: Mapping[str, float] | None = None,
    options: TransferOptions | None = None,
) -> Loading:
    """Assign every tensor, and fill them in the background; *rename* gives the module's names.

    They arrive by *order* (names of the module), else in the order of the file if that is the
    execution order, else in the module's own. *floors*: bytes per second of each tier, for the
    report. Raises AttachMismatchError, which names all that does not fit, DeviceError, ValueError;
    SourceReadError only where the checkpoint has both halves of a tie, which are compared first.
    """
    renamed = RenamedCheckpoint(checkpoint, into, rename)
    attach = AttachPlan.compile(into, renamed)
    check_tied_halves(renamed.location, renamed.tied_halves())
    names = _in_order(renamed, into, order)
    with ExitStack() as stack:  # everything made here is undone where a later line fails
        delivery = stack.enter_context(
            delivering(renamed, names, device, cache=cache, options=options or TransferOptions())
        )
        delivery.allow(len(delivery.plan.parts))
        attach.attach(_Arriving(renamed, delivery))
        gates = Gates(attach.owned(), delivery.ready)
        return Loading(attach, delivery, gates, stack.pop_all(), floors)


class _Arriving:
    """The weights that AttachPlan puts in: over memory that fills later."""

    def __init__(self, checkpoint: RenamedCheckpoint, delivery: Delivery) -> None:
        self.location: str = checkpoint.location
        self.infos: Mapping[str, TensorInfo] = checkpoint.tensors
        self._delivery = delivery

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {name: self._delivery.tensor(name) for name in self.infos}


def _in_order(
    checkpoint: RenamedCheckpoint, module: nn.Module, order: Sequence[str] | None
) -> list[str]:
    """All stored names, each once. Raises ValueError for a name that is neither stored nor tied."""
    known = {name: name for name in checkpoint.tensors} | dict(checkpoint.ties)
    unknown = [name for name in order or () if name not in known]
    if unknown:
        raise ValueError(f"{checkpoint.location} has no {', '.join(map(repr, unknown[:8]))}")
    if order is None and not checkpoint.in_execution_order:
        order = [entry.name for entry in module_tensors(module)]
    wanted = (known[name] for name in order or () if name in known)
    return list(dict.fromkeys((*wanted, *checkpoint.tensors)))
