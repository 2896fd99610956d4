"""x @ weight.T for a few rows and a plain weight of bfloat16."""

from __future__ import annotations

from pilotlight_loader.kernels.compiler import Compiler
from pilotlight_loader.kernels.float_product import FloatProduct
from pilotlight_loader.kernels.trial import compare, some_rows, some_weight

_TRIED_ROWS = (1, 2, 3, 7)


class BfloatProduct(FloatProduct):
    """With its bias, which is added before the product is rounded."""

    def __init__(self, compiler: Compiler) -> None:
        super().__init__(compiler, "bf16", any_rows=True)

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        weight, bias = some_weight()
        for rows in _TRIED_ROWS:
            x = some_rows(rows)
            expected = x.double() @ weight.double().t()
            compare(f"bf16, {rows} rows", self.rows(x, weight, None), expected)
            compare("bf16, bias", self.rows(x, weight, bias), expected + bias.double())
