"""x @ weight.T for a few rows and a weight of one byte a number."""

from __future__ import annotations

from typing import Literal

import torch

from pilotlight_loader.kernels import fp8_dense
from pilotlight_loader.kernels.by_rows import FEW
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.float_product import FloatProduct
from pilotlight_loader.kernels.trial import compare, some_bytes, some_rows

ByteKind = Literal["int8", "fp8"]

MAX_ROWS = FEW[-1]


class ByteProduct(FloatProduct):
    """Of 1 to MAX_ROWS rows, codes [N, K] and scales [N] (fits() and files check them)."""

    def __init__(self, compiler: Compiler, kind: ByteKind) -> None:
        super().__init__(compiler, kind, any_rows=False)
        self._kind = kind
        if kind == "fp8":
            (self._dense,) = compiler.compile([fp8_dense.functions(compiler.target)])

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
