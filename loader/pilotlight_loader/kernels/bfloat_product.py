"""x @ weight.T for a few rows and a plain weight of bfloat16, by the kernels of float_rows."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import float_rows
from pilotlight_loader.kernels.by_rows import ByRows
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.product import filled, room
from pilotlight_loader.kernels.trial import compare, some_rows, some_weight
from pilotlight_loader.scratch import scratch_address

_FEW = (1, 2, 4)  # rows that kernels of their own are for; three are as slow as four
_TRIED_ROWS = (1, 2, 3, 7)
_FLOAT_BYTES = 4


class BfloatProduct:
    """Checks no shapes."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler  # the code goes with it
        kernels = [float_rows.functions("bf16", rows, compiler.target) for rows in _FEW]
        tile = float_rows.tile_functions("bf16", compiler.target)
        *few, many = compiler.compile([*kernels, tile])
        self._kernels = ByRows(dict(zip(_FEW, few, strict=True)), many)

    def rows(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """x [..., K], *weight* [N, K], *bias* [N], all contiguous; K is a multiple of 16."""
        height, width = weight.shape
        rows = x.numel() // width
        written, kernel = self._kernels.choose(rows)
        product = room(x, written, height)
        run(
            kernel,
            *(x.data_ptr(), scratch_address(written * width * _FLOAT_BYTES), weight.data_ptr()),
            *(0 if bias is None else bias.data_ptr(), product.data_ptr()),
            *(height, width, rows, written),
            work=rows * height * width,
        )
        return filled(x, product)

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        weight, bias = some_weight()
        for rows in _TRIED_ROWS:
            x = some_rows(rows)
            expected = x.double() @ weight.double().t()
            compare(f"bf16, {rows} rows", self.rows(x, weight, None), expected)
            compare("bf16, bias", self.rows(x, weight, bias), expected + bias.double())
