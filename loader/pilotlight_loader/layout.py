"""Plan where tensors stand in a baked file. Pure.

A valid safetensors file has no holes, so small U8 pad tensors fill the gaps that alignment leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LAYOUT_VERSION = 1
DATA_ALIGN = 4096  # a page: the data can be mapped, or read with O_DIRECT, without a copy
TENSOR_ALIGN = 256  # what GPU allocators give, so a view of the mapping suits every kernel
PAD_PREFIX = "__pad__."
CHUNK_BYTES = 16 * 1024 * 1024  # the grid of checksums and of prefaulting


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor's bytes, relative to the beginning of the data."""

    name: str
    start: int
    end: int

    @property
    def is_pad(self) -> bool:
        return self.name.startswith(PAD_PREFIX)


@dataclass(frozen=True, slots=True)
class Layout:
    """All slots in file order, pads included; they cover [0, nbytes) without gap or overlap."""

    slots: tuple[Slot, ...]
    nbytes: int


def plan_layout(sizes: Sequence[tuple[str, int]]) -> Layout:
    """Lay out tensors of (name, bytes) in the given order, each on TENSOR_ALIGN.

    Raises ValueError for a name that is used twice or reserved, or a negative size.
    """
    slots: list[Slot] = []
    names: set[str] = set()
    at = pads = 0
    for name, nbytes in sizes:
        if name in names or name.startswith(PAD_PREFIX) or nbytes < 0:
            raise ValueError(f"cannot lay out {name!r} of {nbytes} bytes")
        names.add(name)
        start = round_up(at, TENSOR_ALIGN)
        if start > at:
            slots.append(Slot(f"{PAD_PREFIX}{pads}", at, start))
            pads += 1
        at = start + nbytes
        slots.append(Slot(name, start, at))
    return Layout(tuple(slots), at)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not below *value*."""
    return -(-value // multiple) * multiple
