"""Llama's norm of rows of bfloat16, by the kernel of norm_rows."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import norm_rows
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.float_bits import float_bits
from pilotlight_loader.kernels.trial import WIDTH, compare, some_rows

_TRIED_ROWS = 467  # so many that threads share them
_EPSILON = 1e-5


class BfloatNorm:
    """Checks no shapes."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler  # the code goes with it
        (self._kernel,) = compiler.compile([norm_rows.functions(compiler.target)])

    def rows(self, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """x [..., K] and *weight* [K], both contiguous."""
        normal = torch.empty_like(x)
        width, count = x.shape[-1], x.numel()
        run(
            self._kernel,
            *(x.data_ptr(), weight.data_ptr(), normal.data_ptr()),
            *(count // width, width, float_bits(epsilon)),
            work=count,
        )
        return normal

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        x, weight = some_rows(_TRIED_ROWS), torch.linspace(-2.0, 2.0, WIDTH).bfloat16()
        wide = x.double()
        root = (wide.square().mean(-1, keepdim=True) + _EPSILON).sqrt()
        compare("norm", self.rows(x, weight, _EPSILON), wide / root * weight.double())
