"""Write a baked checkpoint again with quantized weights, one of them in memory at a time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.baked_writer import Entry, Progress, write_baked
from pilotlight_loader.dtypes import torch_dtype, torch_shape
from pilotlight_loader.errors import CheckpointError, QuantizationError
from pilotlight_loader.freed_memory import give_back
from pilotlight_loader.host_bytes import host_bytes
from pilotlight_loader.manifest import Manifest
from pilotlight_loader.quantize import device_layout
from pilotlight_loader.quantize.matrix import Matrix, Scheme
from pilotlight_loader.quantize.plan import plan_quantized
from pilotlight_loader.quantize.rounding import Rounding
from pilotlight_loader.quantize.stored import CODES_SUFFIX, SCALES_SUFFIX, Device, StoredMatrix

# Of the weights' own RMS. Rounding to 4 bits costs about 0.1; more than this is no rounding.
_MAX_ERROR = 0.5
_CHECKED_ELEMENTS = 1 << 18


def quantize_baked(
    baked: BakedCheckpoint,
    destination: Path,
    schemes: Mapping[str, Scheme],
    rounding: Rounding,
    *,
    device: Device = "cpu",
    progress: Progress | None = None,
) -> BakedCheckpoint:
    """Write *baked* to *destination*, atomically, the weights of *schemes* quantized.

    Codes stand as *device* multiplies with them. *progress* gets bytes written and in all. Raises
    QuantizationError, naming the weight, for one that cannot be quantized, ValueError for a *baked*
    that is packed or quantized already or lacks one of them; else as write_baked().
    """
    if baked.packed or baked.quantized:
        raise ValueError(f"{baked.path} is packed or quantized already")
    missing = schemes.keys() - baked.tensors.keys()
    if missing:
        raise ValueError(f"{baked.path} has no {', '.join(sorted(missing)[:8])}")
    plain = [Entry(t.name, t.dtype, t.shape, t.nbytes) for t in baked.tensors.values()]
    plan = plan_quantized(plain, schemes, baked.path, device)
    try:
        with baked.path.open("rb", buffering=0) as file:
            writer = _Weights(baked, plan.stored, rounding, file)
            write_baked(
                destination,
                plan.entries,
                Manifest(_ties(baked, plan.stored), (), baked.metadata, quantized=plan.stored),
                writer.read,
                progress=progress,
            )
    except OSError as error:
        raise CheckpointError(baked.path, f"cannot be read: {error.strerror}") from error
    return BakedCheckpoint.open(destination)


@dataclass(slots=True)
class _Weights:
    """What write_baked() asks for: plain tensors, and the two of each quantized weight in turn."""

    baked: BakedCheckpoint
    stored: Mapping[str, StoredMatrix]
    rounding: Rounding
    file: BinaryIO
    scales: tuple[str, torch.Tensor] | None = None  # of the weight whose codes were read last

    def read(self, name: str) -> memoryview:
        if self.scales is not None and name == self.scales[0]:
            scales, self.scales = self.scales[1], None
            return host_bytes(scales)
        weight = name.removesuffix(CODES_SUFFIX)
        if name in self.baked.tensors or weight not in self.stored:
            return host_bytes(self._plain(name))
        codes, scales = self._quantized(weight)
        give_back()  # what rounding took
        self.scales = (weight + SCALES_SUFFIX, scales)
        return host_bytes(codes)

    def _quantized(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        stored = self.stored[name]
        weight = self._plain(name)
        try:
            matrix = self.rounding.matrix(name, weight, stored.scheme)
            give_back()
            codes, scales = device_layout.tensors(matrix, stored, weight.dtype)
            _check_error(weight, matrix)
        except ValueError as error:
            raise QuantizationError(self.baked.path, name, str(error)) from error
        return codes, scales

    def _plain(self, name: str) -> torch.Tensor:
        """Read, not mapped: a mapping's pages would count as this process's memory."""
        info = self.baked.tensors[name]
        shape = torch_shape(info.dtype, info.shape, name, self.baked.path)
        tensor = torch.empty(shape, dtype=torch_dtype(info.dtype, name, self.baked.path))
        data, at = host_bytes(tensor), info.start
        while data:
            count = os.preadv(self.file.fileno(), [data], at)
            if not count:
                raise CheckpointError(self.baked.path, f"ends inside of {name!r}")
            data, at = data[count:], at + count
        return tensor


def _ties(baked: BakedCheckpoint, stored: Mapping[str, StoredMatrix]) -> dict[str, str]:
    ties = {alias: name for alias, name in baked.ties.items() if name not in stored}
    for alias, name in baked.ties.items():
        if name in stored:
            ties |= {alias + end: name + end for end in (CODES_SUFFIX, SCALES_SUFFIX)}
    return ties


def _check_error(weight: torch.Tensor, matrix: Matrix) -> None:
    """Raises ValueError where codes and scales stand for another weight: a dtype that is too small
    for the scales, a source that is broken."""
    step = max(1, _CHECKED_ELEMENTS // weight.shape[1])
    off = size = 0.0
    for start in range(0, weight.shape[0], step):
        rows = slice(start, start + step)
        part = weight[rows].float()
        off += float((_part(matrix, rows).dequantize() - part).double().square().sum())
        size += float(part.double().square().sum())
    if not off <= _MAX_ERROR**2 * size:
        raise ValueError(f"its error would be {(off / size) ** 0.5 if size else off:.2g} of it")


def _part(matrix: Matrix, rows: slice) -> Matrix:
    zeros = getattr(matrix, "zeros", None)
    changes = {} if zeros is None else {"zeros": zeros[rows]}
    return dataclasses.replace(
        matrix, codes=matrix.codes[rows], scales=matrix.scales[rows], **changes
    )
