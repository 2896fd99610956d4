"""A checkpoint that others quantized, written once as plain weights: what any model code loads."""

from __future__ import annotations

from pathlib import Path

import torch

from pilotlight_loader.baked_writer import Entry, Progress, write_baked
from pilotlight_loader.dtypes import dtype_name
from pilotlight_loader.errors import QuantizedFormatError
from pilotlight_loader.host_bytes import host_bytes
from pilotlight_loader.manifest import Manifest
from pilotlight_loader.quantize.formats.quantized_source import QuantizedSource


def write_dense(
    source: QuantizedSource,
    destination: Path,
    dtype: torch.dtype,
    *,
    progress: Progress | None = None,
) -> None:
    """Write all of *source* to one safetensors file, quantized weights in *dtype*, others as is.

    Atomic, with one weight in memory at a time; in the order of the source, and with the checksums
    of a baked file. Raises DiskFullError; QuantizedFormatError for what *dtype* cannot hold.
    """
    entries = []
    for name in source.names:
        weight = source.weights.get(name)
        if weight is None:
            info = source.info(name)
            entries.append(Entry(name, info.dtype, info.shape, info.nbytes))
        else:
            stored = dtype_name(dtype, name, destination)
            nbytes = weight.shape[0] * weight.shape[1] * dtype.itemsize
            entries.append(Entry(name, stored, weight.shape, nbytes))

    def read(name: str) -> memoryview:
        values = source.dense(name)
        if name not in source.weights:
            return host_bytes(values)
        values = values.to(dtype)
        if not bool(torch.isfinite(values).all()):
            raise QuantizedFormatError(
                source.location, f"{name!r} has values that {dtype} cannot hold: ask for another"
            )
        return host_bytes(values)

    write_baked(destination, entries, Manifest({}, (), {}), read, progress=progress)
