"""The bytes of a trellis' codes as the compiled kernels want them, and back; both by plain torch.

Blocks of 32 rows one after the other, in each the pairs of columns one after the other: 32 bytes,
two beside each other for two columns of a row in the low halves, and of the row 16 further on in
the high ones. Rows stand as AVX2 takes bytes apart, by fours: so its registers hold eight rows in
order.
"""

from __future__ import annotations

import torch

BLOCK = 32
HALF = BLOCK // 2
ROW_ORDER = (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15)  # its own inverse


def pack(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [N, K] of 0 … 15 as uint8 [N, K / 2]; 32 divides N, 2 divides K."""
    rows, columns = codes.shape
    tiles = codes.view(rows // BLOCK, 2, HALF, columns // 2, 2)[:, :, ROW_ORDER]
    packed = tiles[:, 0] | (tiles[:, 1] << 4)
    return packed.transpose(1, 2).contiguous().view(rows, columns // 2)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of pack()."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    tiles = packed.view(rows // BLOCK, columns // 2, HALF, 2).transpose(1, 2)[:, ROW_ORDER]
    return torch.stack((tiles & 15, tiles >> 4), 1).reshape(rows, columns)
