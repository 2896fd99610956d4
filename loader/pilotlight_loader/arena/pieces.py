"""Cut the arena into what one registration with a GPU can take. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# cudaHostRegister of 512 GiB and more fails and leaves a sticky error (vllm #51081, driver r580);
# smaller pieces also hold the driver's lock for a shorter time while other models are served.
MAX_PIECE_BYTES = 64 * 1024**3


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of this process's memory."""

    address: int
    nbytes: int


def pieces(address: int, nbytes: int, max_piece_bytes: int = MAX_PIECE_BYTES) -> tuple[Piece, ...]:
    """Ranges of at most *max_piece_bytes* that cover [address, address + nbytes) in order."""
    return tuple(
        Piece(address + start, min(max_piece_bytes, nbytes - start))
        for start in range(0, nbytes, max_piece_bytes)
    )


def cut(address: int, nbytes: int, registered: Sequence[Piece]) -> list[tuple[int, int]]:
    """[address, address + nbytes) as offsets (start, end), none of which crosses a piece's edge."""
    edges = {piece.address - address for piece in registered}
    edges |= {piece.address + piece.nbytes - address for piece in registered}
    return list(pairwise((0, *sorted(edge for edge in edges if 0 < edge < nbytes), nbytes)))
