"""What 4-bit codes of a trellis mean: a weight is read from its own code and the two before it.

    w[k] = (T0[code[k]] + T1[code[k - 1]] + T2[code[k - 2]]) * scale      codes before a row: 0

So the 16 values that a code may have lie elsewhere after other codes, and a search along the row
(trellis_search.py) finds codes whose values are nearer to the weights than 16 fixed ones can be: of
a normal distribution's variance 0.0063 is left, where equal steps leave 0.0115 and rate-distortion
theory allows 0.0039. Trellis-coded quantization is Marcellin's and Fischer's (1990); that LLMs gain
from it is QTIP's (Tseng et al. 2024, arXiv:2406.11235). Sums of tables of 16 are ours: a CPU looks
up 32 of them in one instruction. The tables were fitted to a normal distribution: codes by search,
values by least squares, in turn (scripts/fit_trellis.py).
"""

from __future__ import annotations

import torch
from torch.nn import functional

# Integers, so that a worker's kernel and this have the same bits; sums are in -127 … 125.
TABLES = (
    (-79, -50, -37, -28, -21, -15, -9, -3, 2, 8, 14, 21, 28, 37, 49, 80),
    (2, -5, 23, 10, 18, -24, -10, -4, 4, -13, 4, -17, 8, 13, -3, -6),
    (4, -8, -2, -13, 18, 22, -2, 12, -24, -18, 3, -11, 9, -6, 16, -1),
)
MEMORY = len(TABLES) - 1  # codes that shift the next value
DEVIATION = 35.361  # of the sums, for weights of a normal distribution


def numbers(codes: torch.Tensor) -> torch.Tensor:
    """int8 [N, K]: what uint8 *codes* [N, K] of whole rows mean, without their scales."""
    before = functional.pad(codes, (MEMORY, 0))
    columns = codes.shape[1]
    total = torch.zeros_like(codes, dtype=torch.int8)
    for back, table in enumerate(TABLES):
        values = torch.tensor(table, dtype=torch.int8, device=codes.device)
        first = MEMORY - back
        total += values[before[:, first : first + columns].int()]
    return total
