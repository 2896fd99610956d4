"""Tensors one after the other, in the order that was asked for, as they arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence

import torch

from pilotlight_loader.devices.device import Device
from pilotlight_loader.pipeline.delivering import delivering
from pilotlight_loader.pipeline.disk_tier import Cache
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.readable import ReadableCheckpoint

# How far reading runs ahead of a consumer that takes its time: what it has not taken is in memory.
AHEAD_BYTES = 1024**3


def stream(
    checkpoint: ReadableCheckpoint,
    device: str | torch.device | Device = "cpu",
    *,
    order: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    cache: Cache | None = None,
    ahead_bytes: int = AHEAD_BYTES,
    options: TransferOptions | None = None,
) -> Generator[tuple[str, torch.Tensor], None, None]:
    """Yield (name, tensor): those of *order* first, the others in file order; *names* restricts.

    The tensors are the caller's own and never change; each keeps its range (256 MiB) in memory.
    Closing the generator cancels. Raises ValueError for names that are not stored; while it runs,
    LoadFailedError with its cause, DeviceError where memory ends.
    """
    asked = asked_names(checkpoint, order, names)
    return _stream(checkpoint, device, asked, cache, ahead_bytes, options or TransferOptions())


def asked_names(
    checkpoint: ReadableCheckpoint, order: Sequence[str] | None, names: Sequence[str] | None
) -> list[str]:
    """Each once. Raises ValueError for a name that the checkpoint does not store."""
    for name in (*(order or ()), *(names or ())):
        if name in checkpoint.ties:
            raise ValueError(f"{name!r} is tied to {checkpoint.ties[name]!r}: ask for that")
        if name not in checkpoint.tensors:
            raise ValueError(f"{checkpoint.location} has no {name!r}")
    wanted = set(checkpoint.tensors if names is None else names)
    return [n for n in dict.fromkeys((*(order or ()), *checkpoint.tensors)) if n in wanted]


def _stream(
    checkpoint: ReadableCheckpoint,
    device: str | torch.device | Device,
    names: Sequence[str],
    cache: Cache | None,
    ahead_bytes: int,
    options: TransferOptions,
) -> Generator[tuple[str, torch.Tensor], None, None]:
    with delivering(checkpoint, names, device, cache=cache, options=options) as delivery:
        plan = delivery.plan
        ahead = max(1, ahead_bytes // max((part.nbytes for part in plan.parts), default=1))
        left = Counter(placement.range for placement in plan.placements.values() if placement.parts)
        for name, placement in plan.placements.items():
            delivery.allow(max(placement.parts, default=0) + 1 + ahead)
            tensor = delivery.tensor(name)
            delivery.ready((name,))
            if placement.parts:
                left[placement.range] -= 1
                if not left[placement.range]:
                    delivery.forget(placement.range)
            yield name, tensor
            del tensor  # the consumer alone holds it while the next one is waited for
        if cache is not None:
            delivery.wait()
