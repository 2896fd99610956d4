"""A weight of 4 bits as numbers, by the kernel of int4_dense."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import int4_dense
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.trial import WIDTH, compare, some_int4
from pilotlight_loader.quantize import int4_layout

_TRIED_ROWS = 512  # of the weight: so many that threads share them


class Int4Weight:
    """For bfloat16 and one block of the layout; checks no shapes (fits() and files do)."""

    def __init__(self, compiler: Compiler, block: int) -> None:
        self._block = block
        self._compiler = compiler  # the code goes with it
        self._kernel = compiler.compile([int4_dense.functions(block, compiler.target)])[0]

    def dequantize(
        self, packed: torch.Tensor, pairs: torch.Tensor, first_row: int, weight: torch.Tensor
    ) -> None:
        """Fill *weight* [K, n] with n rows from *first_row* on; both are multiples of the block.

        *packed* and *pairs* are those of the whole weight, as in int4_layout.
        """
        width, rows = weight.shape
        groups, height = pairs.shape[:2]
        pair_bytes = 2 * pairs.element_size()
        run(
            self._kernel,
            packed.data_ptr() + first_row * (width // 2),
            pairs.data_ptr() + first_row * pair_bytes,
            *(weight.data_ptr(), rows // self._block, width, groups),
            *(height * pair_bytes, rows * weight.element_size()),
            work=weight.numel(),
        )

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        block = self._block
        codes, pairs, dense = some_int4(_TRIED_ROWS + block)
        packed = int4_layout.pack(codes, block)
        for first in (0, block):
            weight = torch.empty(WIDTH, _TRIED_ROWS, dtype=pairs.dtype)
            self.dequantize(packed, pairs, first, weight)
            compare("int4", weight, dense.t()[:, first : first + _TRIED_ROWS])
