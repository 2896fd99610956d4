"""A trellis' weight as numbers, by the kernel of trellis_dense."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import trellis_dense
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.trial import WIDTH, compare, some_trellis
from pilotlight_loader.quantize import trellis_layout

_TRIED_ROWS = 512  # of the weight: so many that threads share them


class TrellisWeight:
    """For bfloat16; checks no shapes (fits() and files do)."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler  # the code goes with it
        self._kernel = compiler.compile([trellis_dense.functions()])[0]

    def dequantize(
        self, packed: torch.Tensor, scales: torch.Tensor, first_row: int, weight: torch.Tensor
    ) -> None:
        """Fill *weight* [K, n] with n rows from *first_row* on; both are multiples of 32.

        *packed* and *scales* are those of the whole weight, as they are stored.
        """
        width, rows = weight.shape
        groups, height = scales.shape
        size = scales.element_size()
        run(
            self._kernel,
            packed.data_ptr() + first_row * (width // 2),
            scales.data_ptr() + first_row * size,
            *(weight.data_ptr(), rows // trellis_layout.BLOCK, width, groups),
            *(height * size, rows * weight.element_size()),
            work=weight.numel(),
        )

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        codes, scales, dense = some_trellis(_TRIED_ROWS + trellis_layout.BLOCK)
        packed = trellis_layout.pack(codes)
        for first in (0, trellis_layout.BLOCK):
            weight = torch.empty(WIDTH, _TRIED_ROWS, dtype=scales.dtype)
            self.dequantize(packed, scales, first, weight)
            compare("trellis", weight, dense.t()[:, first : first + _TRIED_ROWS])
