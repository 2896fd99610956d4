"""Cut the arena into what one registration with a GPU can take. Pure."""

from __future__ import annotations

from dataclasses import dataclass

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
