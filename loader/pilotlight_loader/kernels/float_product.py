"""x @ weight.T in float32, by the kernels of float_rows."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import float_rows
from pilotlight_loader.kernels.by_rows import FEW, ByRows
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.float_rows import FloatKind
from pilotlight_loader.kernels.product import filled, room
from pilotlight_loader.scratch import scratch_address

_FLOAT_BYTES = 4


class FloatProduct:
    """For bfloat16; checks no shapes."""

    def __init__(self, compiler: Compiler, kind: FloatKind, *, any_rows: bool) -> None:
        """*any_rows*: more than FEW, too."""
        self._compiler = compiler  # the code goes with it
        kernels = [float_rows.functions(kind, rows, compiler.target) for rows in FEW]
        if any_rows:
            kernels.append(float_rows.tile_functions(kind, compiler.target))
        few = compiler.compile(kernels)
        many = few.pop() if any_rows else None
        self._kernels = ByRows(dict(zip(FEW, few, strict=True)), many)

    def rows(
        self, x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor | None
    ) -> torch.Tensor:
        """x [..., K], *weight* [N, K], *scales* [N], all contiguous; K is a multiple of 16.

        In the place of scales a weight of bfloat16 has a bias, or None.
        """
        height, width = weight.shape
        rows = x.numel() // width
        written, kernel = self._kernels.choose(rows)
        product = room(x, written, height)
        run(
            kernel,
            *(x.data_ptr(), scratch_address(written * width * _FLOAT_BYTES), weight.data_ptr()),
            *(0 if scales is None else scales.data_ptr(), product.data_ptr()),
            *(height, width, rows, written),
            work=rows * height * width,
        )
        return filled(x, product)
