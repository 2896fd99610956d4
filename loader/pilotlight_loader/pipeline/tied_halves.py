"""What a module ties and a file has twice: are both halves the same?

Such files are common. Where the halves differ, transformers gives up the tie; here the module is
the caller's, and a load that dropped one half unseen would answer otherwise than its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pilotlight_loader.errors import AttachMismatchError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.sources.small_read import read_range
from pilotlight_loader.sources.source import ByteSource

# Up to 1 MiB all of it; of more, as much, spread evenly from the first byte to the last. Weights
# that were trained apart differ nearly everywhere, and to read the other half of an 8 B model
# would be 1 GB more over the link.
PLACES = 16
PLACE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Half:
    """One of the two, by the module's name, and where its bytes are."""

    name: str
    info: TensorInfo
    source: ByteSource


def check_tied_halves(location: str, pairs: Sequence[tuple[Half, Half]]) -> None:
    """Raises AttachMismatchError, which names both, where they differ; SourceReadError."""
    looks = [(pair, *place) for pair in pairs for place in _places(pair[0].info.nbytes)]
    if not looks:
        return
    with ThreadPoolExecutor(min(PLACES, len(looks)), "pilotlight-ties") as pool:
        same = list(pool.map(lambda look: _is_same(*look), looks))
    differing = {
        (kept.name, other.name)
        for ((kept, other), _, _), is_same in zip(looks, same, strict=True)
        if not is_same
    }
    if differing:
        raise AttachMismatchError(
            location,
            [
                f"{other} and {kept} are tied in the module and differ in the checkpoint: build it "
                "untied (tie_word_embeddings=False), or leave one out by rename"
                for kept, other in sorted(differing)
            ],
        )


def _places(nbytes: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of what is looked at."""
    if nbytes <= PLACES * PLACE_BYTES:
        if nbytes:
            yield 0, nbytes
        return
    for number in range(PLACES):
        yield number * (nbytes - PLACE_BYTES) // (PLACES - 1), PLACE_BYTES


def _is_same(pair: tuple[Half, Half], offset: int, nbytes: int) -> bool:
    one, other = (read_range(half.source, half.info.start + offset, nbytes) for half in pair)
    return one == other
