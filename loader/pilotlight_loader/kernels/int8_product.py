"""x @ weight.T for a weight of int8, by the kernels of int8_rows."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import int8_rows, tiles
from pilotlight_loader.kernels.compiler import Compiler, by_rows, run
from pilotlight_loader.kernels.trial import compare, some_bytes, some_rows
from pilotlight_loader.scratch import scratch_address

_FEW = (1, 2, 4)  # rows that kernels of their own are for; three are as slow as four
_AT_ONCE = 256  # rows
_TRIED_ROWS = (1, 2, 3, 7)
_FLOAT_BYTES, _NUMBER_BYTES = 4, 2


class Int8Product:
    """For bfloat16; checks no shapes (fits() and files do)."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler  # the code goes with it
        kernels = [int8_rows.functions(rows) for rows in _FEW]
        *few, self._many = compiler.compile([*kernels, int8_rows.tile_functions()])
        self._few = by_rows(dict(zip(_FEW, few, strict=True)))

    def rows(self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """The product; *codes* [N, K], *scales* [N]."""
        padded = tiles.tiled(len(x))
        product = torch.empty(padded, codes.shape[0], dtype=x.dtype, device="cpu")
        for start in range(0, len(x), _AT_ONCE):
            self._fill(product, x, codes, scales, start)
        return product[: len(x)]

    def _fill(
        self,
        product: torch.Tensor,
        x: torch.Tensor,
        codes: torch.Tensor,
        scales: torch.Tensor,
        start: int,
    ) -> None:
        rows = min(_AT_ONCE, len(x) - start)
        height, width = codes.shape
        if rows <= _FEW[-1]:
            padded, kernel = self._few[rows]
        else:
            padded = tiles.tiled(rows)
            kernel = self._many
        groups = -(-width // int8_rows.GROUP)
        factors = padded * groups
        sums = scratch_address(2 * factors * _FLOAT_BYTES + padded * width * _NUMBER_BYTES)
        totals = sums + factors * _FLOAT_BYTES
        run(
            kernel,
            *(x.data_ptr() + start * width * 2, totals + factors * _FLOAT_BYTES, sums, totals),
            *(rows, width, int8_rows.GROUP, codes.data_ptr(), scales.data_ptr()),
            *(product.data_ptr() + start * height * 2, height, padded),
        )

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        codes, scales = some_bytes()
        dense = codes.double() * scales.double()[:, None]
        for rows in _TRIED_ROWS:
            x = some_rows(rows)
            compare(f"int8, {rows} rows", self.rows(x, codes, scales), x.double() @ dense.t())
