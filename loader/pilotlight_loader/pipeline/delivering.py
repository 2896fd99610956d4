"""From a checkpoint to its delivery: what load and stream begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from pilotlight_loader.devices.device import Device
from pilotlight_loader.devices.resolve import resolve_device
from pilotlight_loader.pipeline.delivery import Delivery
from pilotlight_loader.pipeline.disk_tier import Cache
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.readable import ReadableCheckpoint
from pilotlight_loader.pipeline.transfer_plan import transfer_of


@contextmanager
def delivering(
    checkpoint: ReadableCheckpoint,
    names: Sequence[str],
    device: str | torch.device | Device,
    *,
    cache: Cache | None,
    options: TransferOptions,
) -> Iterator[Delivery]:
    """The transfer of *names* in that order; what was made for it ends with it."""
    plan, sources = transfer_of(checkpoint, names, options)
    with ExitStack() as stack:
        if isinstance(device, str | torch.device):
            device = resolve_device(device)
            stack.callback(device.close)
        yield stack.enter_context(
            Delivery(
                plan, sources, device, location=checkpoint.location, options=options, cache=cache
            )
        )
