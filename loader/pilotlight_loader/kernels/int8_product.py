"""x @ weight.T for a weight of int8, by the kernels of int8_rows."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import int8_rows
from pilotlight_loader.kernels.by_rows import FEW, ByRows
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.product import filled, room
from pilotlight_loader.kernels.trial import compare, some_bytes, some_rows
from pilotlight_loader.scratch import scratch_address

_AT_ONCE = 256  # rows, that x stays in the caches: whole tiles
_TRIED_ROWS = (1, 2, 3, 7)
_FLOAT_BYTES, _NUMBER_BYTES, _BFLOAT_BYTES = 4, 2, 2


class Int8Product:
    """For bfloat16; checks no shapes (fits() and files do)."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler  # the code goes with it
        kernels = [int8_rows.functions(rows) for rows in FEW]
        *few, many = compiler.compile([*kernels, int8_rows.tile_functions()])
        self._kernels = ByRows(dict(zip(FEW, few, strict=True)), many)

    def rows(self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """The product of x [..., K]; *codes* [N, K], *scales* [N]."""
        height, width = codes.shape
        rows = x.numel() // width
        last = max(0, rows - 1) // _AT_ONCE * _AT_ONCE  # where the last part begins
        written = last + self._kernels.choose(rows - last)[0]
        product = room(x, written, height)
        for start in range(0, rows, _AT_ONCE):
            self._fill(product, x, codes, scales, start, min(_AT_ONCE, rows - start))
        return filled(x, product)

    def _fill(
        self,
        product: torch.Tensor,
        x: torch.Tensor,
        codes: torch.Tensor,
        scales: torch.Tensor,
        start: int,
        rows: int,
    ) -> None:
        written, kernel = self._kernels.choose(rows)
        height, width = codes.shape
        factors = written * -(-width // int8_rows.GROUP)
        x_scales = scratch_address(2 * factors * _FLOAT_BYTES + written * width * _NUMBER_BYTES)
        x_sums = x_scales + factors * _FLOAT_BYTES
        numbers = x_sums + factors * _FLOAT_BYTES
        run(
            kernel,
            *(x.data_ptr() + start * width * _BFLOAT_BYTES, numbers, x_scales, x_sums),
            *(rows, width, int8_rows.GROUP, codes.data_ptr(), scales.data_ptr()),
            *(product.data_ptr() + start * height * _BFLOAT_BYTES, height, written),
            work=rows * height * width,
        )

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        codes, scales = some_bytes()
        dense = codes.double() * scales.double()[:, None]
        for rows in _TRIED_ROWS:
            x = some_rows(rows)
            compare(f"int8, {rows} rows", self.rows(x, codes, scales), x.double() @ dense.t())
