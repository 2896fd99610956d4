"""x @ weight.T for a weight of 4 bits, by the kernels of int4_rows and int4_tiles."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import int4_rows, int4_tiles, int4_unit, tiles
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.trial import compare, some_int4, some_rows
from pilotlight_loader.quantize import int4_layout
from pilotlight_loader.scratch import scratch_address

_FEW = (1, 2)  # rows that kernels of their own are for
_AT_ONCE = 256  # rows, that what they are summed up in stays in the caches
_TRIED_ROWS = (1, 2, 5)
_FLOAT_BYTES, _NUMBER_BYTES = 4, 2


class Int4Product:
    """For bfloat16 and one block of the layout; checks no shapes (fits() and files do)."""

    def __init__(self, compiler: Compiler, block: int) -> None:
        self._block = block
        self._compiler = compiler  # the code goes with it
        few = [int4_rows.functions(rows, block) for rows in _FEW]
        *self._few, self._many = compiler.compile([*few, int4_tiles.functions(block)])

    def rows(self, x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        """The product; *packed* and *pairs* as in int4_layout."""
        product = torch.empty(len(x), pairs.shape[1], dtype=x.dtype, device="cpu")
        if len(x) <= _AT_ONCE:
            self._fill(product, x, packed, pairs)
            return product
        for start in range(0, len(x), _AT_ONCE):
            span = slice(start, start + _AT_ONCE)
            self._fill(product[span], x[span], packed, pairs)
        return product

    def _fill(
        self, product: torch.Tensor, x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor
    ) -> None:
        rows, width = x.shape
        groups, height, _ = pairs.shape
        is_few = rows <= len(_FEW)
        padded = rows if is_few else tiles.tiled(rows)
        summed = 0 if is_few else torch.get_num_threads() * padded * int4_unit.ROWS
        factors = padded * groups
        floats = scratch_address(
            (2 * factors + summed) * _FLOAT_BYTES + padded * width * _NUMBER_BYTES
        )
        sums = floats + summed * _FLOAT_BYTES
        totals = sums + factors * _FLOAT_BYTES
        run(
            self._few[rows - 1] if is_few else self._many,
            *(x.data_ptr(), totals + factors * _FLOAT_BYTES, sums, totals, rows, width),
            *(width // groups, packed.data_ptr(), pairs.data_ptr(), product.data_ptr()),
            *(height // self._block, 4 * height, 2 * height, floats, padded),
        )

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        block = self._block
        codes, pairs, dense = some_int4(3 * block)
        packed = int4_layout.pack(codes, block)
        for rows in _TRIED_ROWS:
            x = some_rows(rows)
            compare(f"int4, {rows} rows", self.rows(x, packed, pairs), x.double() @ dense.t())
