"""Plan a transfer: which bytes of which file, in which order, to which place. Pure.

A range is a span of a file that one piece of device memory holds as it stands in the file, so a
part, one read, is one contiguous copy, and a tensor is a view.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE

from pilotlight_loader.header import TensorInfo
from pilotlight_loader.layout import TENSOR_ALIGN

# As in safetensors 0.9: few enough allocations that they cost nothing (18,867 tensors of a mixture
# of experts: 12.4 s -> 4.6 s), small enough that one tensor that is kept does not keep it all.
RANGE_BYTES = 256 * 1024 * 1024
# What is not asked for between two tensors is held (and read where it falls into a part) if it is
# shorter than this: another range costs an allocation and a request.
GAP_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WantedTensor:
    """A tensor that is asked for, and the key of its file."""

    info: TensorInfo
    file: str


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes [start, end) of a file, from byte `base` of their device memory on."""

    index: int
    file: str
    start: int
    end: int
    base: int

    @property
    def nbytes(self) -> int:
        """Of the device memory."""
        return self.base + self.end - self.start


@dataclass(frozen=True, slots=True)
class Part:
    """One read: bytes [start, end) of a file, to byte `at` of their range's memory."""

    index: int  # by when it is first needed
    range: int
    file: str
    start: int
    end: int
    at: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a tensor comes to stand, and the parts that bring it; an empty one needs none."""

    info: TensorInfo
    range: int
    at: int
    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """What to read, in order, and where each tensor then is, in the order that was asked for."""

    ranges: tuple[Range, ...]
    parts: tuple[Part, ...]
    placements: Mapping[str, Placement]

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(part.nbytes for part in self.parts)


def plan_transfer(
    wanted: Sequence[WantedTensor],
    part_bytes: Mapping[str, int],
    *,
    range_bytes: int = RANGE_BYTES,
    gap_bytes: int = GAP_BYTES,
) -> TransferPlan:
    """Plan to read *wanted*, in that order, each file in parts of its *part_bytes*.

    Parts are cut where the file's offset is a multiple of part_bytes, which suits O_DIRECT and
    checksums, and where a range ends. Nothing is read twice. Raises ValueError for a size < 1.
    """
    if range_bytes < 1 or any(size < 1 for size in part_bytes.values()):
        raise ValueError("range_bytes and part_bytes are at least 1")
    ranges = _ranges(wanted, range_bytes, gap_bytes)
    starts = {file: [r.start for r in ranges if r.file == file] for file in part_bytes}
    first = {file: next((r.index for r in ranges if r.file == file), 0) for file in part_bytes}
    cells: dict[tuple[int, int], int] = {}  # (range, cell of the file's grid) -> the part's index
    placements: dict[str, Placement] = {}
    for tensor in wanted:
        info, file = tensor.info, tensor.file
        if info.nbytes == 0:
            placements[info.name] = Placement(info, 0, 0, ())
            continue
        found = ranges[first[file] + bisect_right(starts[file], info.start) - 1]
        grid = part_bytes[file]
        numbers = range(info.start // grid, (info.end - 1) // grid + 1)
        parts = tuple(cells.setdefault((found.index, number), len(cells)) for number in numbers)
        at = found.base + info.start - found.start
        placements[info.name] = Placement(info, found.index, at, parts)
    return TransferPlan(
        ranges=ranges,
        parts=tuple(
            _part(index, ranges[number], cell, part_bytes[ranges[number].file])
            for (number, cell), index in cells.items()
        ),
        placements=placements,
    )


def _ranges(wanted: Sequence[WantedTensor], range_bytes: int, gap_bytes: int) -> tuple[Range, ...]:
    """Spans of the files that hold all tensors, cut at tensor ends and where there are gaps."""
    spans: list[tuple[str, int, int]] = []
    for tensor in sorted(wanted, key=lambda tensor: (tensor.file, tensor.info.start)):
        start, end = tensor.info.start, tensor.info.end
        if start == end:
            continue
        if spans:
            file, begin, upto = spans[-1]
            if file == tensor.file and upto - begin < range_bytes and start - upto < gap_bytes:
                spans[-1] = (file, begin, max(end, upto))
                continue
        spans.append((tensor.file, start, end))
    return tuple(
        Range(index, file, start, end, _base(start))
        for index, (file, start, end) in enumerate(spans)
    )


def _base(start: int) -> int:
    """The first tensor of a range stands on TENSOR_ALIGN of the memory, which is on a page.

    Where the file allows it, memory and file are then alike modulo a page as well, so O_DIRECT can
    read to where the bytes stay.
    """
    return start % PAGESIZE if start % TENSOR_ALIGN == 0 else 0


def _part(index: int, found: Range, cell: int, grid: int) -> Part:
    start = max(found.start, cell * grid)
    end = min(found.end, (cell + 1) * grid)
    return Part(index, found.index, found.file, start, end, found.base + start - found.start)
