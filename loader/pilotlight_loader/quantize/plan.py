"""What a quantized file will hold and weigh, before anything is rounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pilotlight_loader.baked_writer import Entry
from pilotlight_loader.dtypes import torch_dtype
from pilotlight_loader.errors import QuantizationError
from pilotlight_loader.layout import plan_layout
from pilotlight_loader.quantize import device_layout
from pilotlight_loader.quantize.matrix import Scheme
from pilotlight_loader.quantize.stored import CODES_SUFFIX, SCALES_SUFFIX, Device, StoredMatrix


@dataclass(frozen=True, slots=True)
class QuantizedPlan:
    """The weights to quantize, and the tensors of the file in its order."""

    stored: Mapping[str, StoredMatrix]
    entries: tuple[Entry, ...]

    @property
    def nbytes(self) -> int:
        """Of the data with its padding; the header is not counted."""
        return data_bytes(self.entries)


def plan_quantized(
    entries: Iterable[Entry],
    schemes: Mapping[str, Scheme],
    location: Path | str,
    device: Device = "cpu",
) -> QuantizedPlan:
    """What becomes of *entries*, those of a plain file, with the weights of *schemes* quantized.

    Raises QuantizationError, naming *location* and the weight, for one that cannot be stored so.
    """
    stored: dict[str, StoredMatrix] = {}
    planned: list[Entry] = []
    for entry in entries:
        scheme = schemes.get(entry.name)
        if scheme is None:
            planned.append(entry)
            continue
        stored[entry.name] = _stored(entry, scheme, location, device)
        planned += _pair(entry, stored[entry.name])
    return QuantizedPlan(stored, tuple(planned))


def data_bytes(entries: Iterable[Entry]) -> int:
    """What *entries* take in a baked file, its header aside."""
    return plan_layout([(entry.name, entry.nbytes) for entry in entries]).nbytes


def _stored(entry: Entry, scheme: Scheme, location: Path | str, device: Device) -> StoredMatrix:
    if entry.dtype not in ("BF16", "F32", "F16") or len(entry.shape) != 2:
        raise QuantizationError(
            location, entry.name, f"{entry.dtype}{list(entry.shape)} is no matrix"
        )
    try:
        return device_layout.plan(scheme, (entry.shape[0], entry.shape[1]), device)
    except ValueError as error:
        raise QuantizationError(location, entry.name, str(error)) from error


def _pair(entry: Entry, stored: StoredMatrix) -> list[Entry]:
    codes, scales = stored.codes_shape, stored.scales_shape
    itemsize = torch_dtype(entry.dtype, entry.name, entry.name).itemsize
    return [
        Entry(entry.name + CODES_SUFFIX, stored.code_dtype, codes, codes[0] * codes[1]),
        Entry(
            entry.name + SCALES_SUFFIX, entry.dtype, scales, torch.Size(scales).numel() * itemsize
        ),
    ]
