"""The 2:4 pattern: found, compressed to values and positions, and expanded again.

An [N, K] weight of two bytes each becomes values [N, K / 2] and indices uint8 [N, K / 8]: 0.5625 of
its bytes. Each half of an index byte, the low one first, is a group of four columns: two bits for
the position of its first value, two for its second. GPUs number them in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

GROUP = 4  # columns, of which KEPT may be other than zero
KEPT = 2
COLUMNS_PER_BYTE = 8  # of indices: K must be a multiple
DTYPES = (torch.bfloat16, torch.float16)
# Of the weight at a time, so that what is in between stays in the cache. Measured, 4096 x 4096, two
# cores: 10.7 ms with 2**19, 25.7 with 2**16, 18.7 with 2**21; a scatter_ takes 57.
_BAND_ELEMENTS = 1 << 19


def _pairs() -> list[tuple[int, int]]:
    """Of each set of positions that are not zero, the two to keep, in order."""
    found = []
    for mask in range(1 << GROUP):
        others = [p for p in range(GROUP) if mask >> p & 1]
        zeros = [p for p in range(GROUP) if not mask >> p & 1]
        first, second = sorted((others + zeros)[:KEPT])
        found.append((first, second))
    return found


_PAIRS = _pairs()


def is_compressible(weight: torch.Tensor) -> bool:
    """Whether *weight* is a matrix of the pattern whose bytes it pays to compress.

    NaN and infinity are values like others; -0.0 is a zero, and comes back as 0.0.
    """
    if weight.dtype not in DTYPES or weight.dim() != 2 or not weight.numel():
        return False
    if weight.shape[1] % COLUMNS_PER_BYTE:
        return False
    return all(_follows_pattern(weight[rows]) for rows in _bands(weight.shape))


def compress(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(values [N, K / 2], indices uint8 [N, K / 8]) of an [N, K] weight of the pattern.

    Raises ValueError for another one.
    """
    if not is_compressible(weight):
        raise ValueError(f"{weight.dtype} {list(weight.shape)} is not 2:4 sparse, of 16 bits")
    rows, columns = weight.shape
    values = weight.new_empty(rows, columns // GROUP, KEPT)
    indices = torch.empty(rows, columns // COLUMNS_PER_BYTE, dtype=torch.uint8)
    pairs = torch.tensor(_PAIRS)
    for band in _bands(weight.shape):
        groups = weight[band].reshape(-1, columns // GROUP, GROUP)
        mask = (groups != 0).to(torch.int32)
        code = mask[..., 0] | mask[..., 1] << 1 | mask[..., 2] << 2 | mask[..., 3] << 3
        kept = pairs[code]
        torch.gather(groups, -1, kept, out=values[band])
        halves = (kept[..., 0] | kept[..., 1] << 2).to(torch.uint8)
        indices[band] = halves[:, 0::2] | halves[:, 1::2] << 4
    return values.view(rows, columns // KEPT), indices


def expand(
    values: torch.Tensor, indices: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The [N, K] weight of compress(), in *out* where it is given.

    Any indices make some weight: nothing is read or written elsewhere.
    """
    rows, half = values.shape
    shape = (rows, half * KEPT)
    weight = values.new_empty(shape) if out is None else out
    for band in _bands(shape):
        # A group is one number of 64 bits, its values shifted to where they stand.
        pair = values[band].view(torch.int32)
        octets = indices[band]
        at = torch.stack((octets & 15, octets >> 4), -1).view(pair.shape).long()
        group = (pair & 0xFFFF).long() << ((at & 3) << 4)
        group |= ((pair >> 16) & 0xFFFF).long() << ((at & 12) << 2)
        weight[band].view(torch.int64).copy_(group)
    return weight


def _follows_pattern(weight: torch.Tensor) -> bool:
    groups = weight.reshape(-1, weight.shape[1] // GROUP, GROUP)
    return int((groups != 0).sum(-1, dtype=torch.int32).max()) <= KEPT


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _BAND_ELEMENTS // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
