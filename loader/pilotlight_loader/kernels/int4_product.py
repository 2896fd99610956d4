"""x @ weight.T for a weight of 4 bits, by the kernels of int4_rows and int4_tiles."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import int4_rows, int4_tiles, int4_unit
from pilotlight_loader.kernels.by_rows import ByRows
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.int4_unit import Int4Units
from pilotlight_loader.kernels.product import room
from pilotlight_loader.kernels.trellis_unit import TrellisUnits
from pilotlight_loader.kernels.trial import compare, some_int4, some_rows, some_trellis
from pilotlight_loader.quantize import int4_layout, trellis_layout
from pilotlight_loader.scratch import scratch_address

_FEW = (1, 2)  # rows that kernels of their own are for
_AT_ONCE = 256  # rows, that what they are summed up in stays in the caches
_TRIED_ROWS = (1, 2, 5)
_TRIED_HEIGHT = 512  # at least, of the weight: so much that threads share it
_FLOAT_BYTES, _NUMBER_BYTES, _BFLOAT_BYTES = 4, 2, 2


class Int4Product:
    """For bfloat16 and one block of the layout; checks no shapes (fits() and files do)."""

    _UNITS: type[Int4Units] = Int4Units

    def __init__(self, compiler: Compiler, block: int) -> None:
        self._block = block
        self._compiler = compiler  # the code goes with it
        kernels = [int4_rows.functions(rows, block, self._UNITS) for rows in _FEW]
        *few, many = compiler.compile([*kernels, int4_tiles.functions(block, self._UNITS)])
        self._kernels = ByRows(dict(zip(_FEW, few, strict=True)), many)

    def rows(self, x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """The product of x [..., K]; *packed* and *scales* as StoredMatrix has them."""
        rows = x.numel() // x.shape[-1]
        product = room(x, rows, scales.shape[1])
        for start in range(0, rows, _AT_ONCE):
            self._fill(product, x, packed, scales, start, min(_AT_ONCE, rows - start))
        return product

    def _fill(
        self,
        product: torch.Tensor,
        x: torch.Tensor,
        packed: torch.Tensor,
        scales: torch.Tensor,
        start: int,
        rows: int,
    ) -> None:
        width = x.shape[-1]
        groups, height = scales.shape[:2]
        multiplied, kernel = self._kernels.choose(rows)
        is_few = rows <= _FEW[-1]  # sums them up in registers
        summed = 0 if is_few else torch.get_num_threads() * multiplied * int4_unit.ROWS
        factors = multiplied * groups
        floats = scratch_address(
            (summed + 2 * factors) * _FLOAT_BYTES + multiplied * width * _NUMBER_BYTES
        )
        x_scales = floats + summed * _FLOAT_BYTES
        x_sums = x_scales + factors * _FLOAT_BYTES
        numbers = x_sums + factors * _FLOAT_BYTES
        line_bytes = height * _BFLOAT_BYTES
        scale_bytes = scales.stride(0) * _BFLOAT_BYTES
        run(
            kernel,
            *(x.data_ptr() + start * width * _BFLOAT_BYTES, numbers, x_scales, x_sums),
            *(rows, width, width // groups, packed.data_ptr(), scales.data_ptr()),
            *(product.data_ptr() + start * line_bytes, height // self._block, scale_bytes),
            *(line_bytes, floats, multiplied),
            work=rows * height * width,
        )

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        block = self._block
        codes, pairs, dense = some_int4(_TRIED_HEIGHT + block)
        packed = int4_layout.pack(codes, block)
        for rows in _TRIED_ROWS:
            x = some_rows(rows)
            compare(f"int4, {rows} rows", self.rows(x, packed, pairs), x.double() @ dense.t())


class TrellisProduct(Int4Product):
    """The same for codes of a trellis; *scales* are [groups, N]."""

    _UNITS = TrellisUnits

    def __init__(self, compiler: Compiler) -> None:
        super().__init__(compiler, trellis_layout.BLOCK)

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        codes, scales, dense = some_trellis(_TRIED_HEIGHT)
        packed = trellis_layout.pack(codes)
        for rows in _TRIED_ROWS:
            x = some_rows(rows)
            compare(f"trellis, {rows} rows", self.rows(x, packed, scales), x.double() @ dense.t())
