"""x @ weight.T for a weight of one byte a number, by the kernels of float_rows and fp8_dense."""

from __future__ import annotations

from typing import Literal

import torch

from pilotlight_loader.kernels import float_rows, fp8_dense
from pilotlight_loader.kernels.by_rows import ByRows
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.product import filled, room
from pilotlight_loader.kernels.trial import compare, some_bytes, some_rows
from pilotlight_loader.scratch import scratch_address

ByteKind = Literal["int8", "fp8"]

_HEIGHTS = (1, 2, 4)  # rows of x that kernels are compiled for; three are as slow as four
MAX_ROWS = 4
_FLOAT_BYTES = 4


class ByteProduct:
    """For bfloat16; checks no shapes (fits() and files do)."""

    def __init__(self, compiler: Compiler, kind: ByteKind) -> None:
        self._kind = kind
        self._compiler = compiler  # the code goes with it
        kernels = [float_rows.functions(kind, height, compiler.target) for height in _HEIGHTS]
        *rows, dense = compiler.compile([*kernels, fp8_dense.functions(compiler.target)])
        self._kernels = ByRows(dict(zip(_HEIGHTS, rows, strict=True)), None)
        self._dense = dense

    def rows(self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """The product of 1 to MAX_ROWS rows [..., K]; *codes* [N, K], *scales* [N]."""
        height, width = codes.shape
        rows = x.numel() // width
        written, kernel = self._kernels.choose(rows)
        product = room(x, written, height)
        run(
            kernel,
            *(
                x.data_ptr(),
                scratch_address(written * width * _FLOAT_BYTES),
                codes.data_ptr(),
                scales.data_ptr(),
            ),
            *(product.data_ptr(), height, width, rows, written),
            work=rows * height * width,
        )
        return filled(x, product)

    def numbers(self, codes: torch.Tensor, numbers: torch.Tensor) -> None:
        """Fill *numbers* with what fp8 codes are without their scales."""
        count = codes.numel()
        run(self._dense, codes.data_ptr(), numbers.data_ptr(), count, work=count)

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        codes, scales = some_bytes()
        if self._kind == "fp8":
            codes = codes.view(torch.float8_e4m3fn)
            codes = codes.float().nan_to_num(0.0).to(codes.dtype)  # of 256, two are NaN
            numbers = torch.empty(codes.shape, dtype=scales.dtype)
            self.numbers(codes, numbers)
            compare("fp8", numbers, codes.double())
        dense = codes.double() * scales.double()[:, None]
        for rows in range(1, MAX_ROWS + 1):
            x = some_rows(rows)
            product = self.rows(x, codes, scales)
            compare(f"{self._kind}, {rows} rows", product, x.double() @ dense.t())
