"""Touch an arena's memory in parallel, a piece at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.arena.memory import Memory
from pilotlight_loader.arena.numa import node_cpus
from pilotlight_loader.layout import round_up

# After each piece the arena is that much larger for everybody, and progress is told: half a second
# where memory is slowest (0.5 GB/s, a virtual machine that has never used it).
PIECE_BYTES = 256 * 1024 * 1024


def touch_pieces(
    memory: Memory, touched_bytes: int, threads: int, numa_node: int | None
) -> Iterator[int]:
    """Touch what is behind *touched_bytes*; gives, piece by piece, how far it is touched.

    Raises ArenaError where memory runs out, or there is no such node.
    """
    cpus = None if numa_node is None else node_cpus(numa_node)
    with ThreadPoolExecutor(
        threads, "pilotlight-touch", initializer=_stay_on, initargs=(cpus,)
    ) as pool:
        for start in range(touched_bytes, memory.nbytes, PIECE_BYTES):
            end = min(start + PIECE_BYTES, memory.nbytes)
            step = round_up(-(-(end - start) // threads), EXTENT_ALIGN)
            cuts = [*range(start, end, step), end]
            for _ in pool.map(memory.touch, *zip(*pairwise(cuts), strict=True)):
                pass
            yield end


def _stay_on(cpus: frozenset[int] | None) -> None:
    if cpus is not None:
        os.sched_setaffinity(0, cpus)  # of this thread only
