"""From a checkpoint and names to a plan and the sources that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.readable import ReadableCheckpoint
from pilotlight_loader.sources.source import ByteSource
from pilotlight_loader.transfer.parts import TransferPlan, WantedTensor, plan_transfer


def transfer_of(
    checkpoint: ReadableCheckpoint, names: Sequence[str], options: TransferOptions
) -> tuple[TransferPlan, Mapping[str, ByteSource]]:
    """The plan to read *names* in that order, and the source of each file that is in it."""
    wanted = [WantedTensor(checkpoint.tensors[name], checkpoint.file_of(name)) for name in names]
    files = dict.fromkeys(tensor.file for tensor in wanted if tensor.info.nbytes)
    sources = {file: checkpoint.source(file) for file in files}
    largest = max(1, options.staging_bytes // 2)  # two parts fit in the ring, see there
    part_bytes = {
        file: min(options.part_bytes or source.part_bytes, largest)
        for file, source in sources.items()
    }
    plan = plan_transfer(
        wanted,
        part_bytes,
        range_bytes=options.range_bytes,
        gap_bytes=options.gap_bytes,
    )
    return plan, sources
