"""Llama's rotary embedding of queries and keys in bfloat16, by the kernel of rotary_rows."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import rotary_rows
from pilotlight_loader.kernels.compiler import Compiler, run
from pilotlight_loader.kernels.trial import compare, some_rows

# Rows, tokens, heads, width: together WIDTH a token, and so many that threads share them.
_TRIED = (2, 121, 8, 36)


class BfloatRotary:
    """Checks no shapes."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler  # the code goes with it
        (self._kernel,) = compiler.compile([rotary_rows.functions(compiler.target)])

    def turn(
        self, query: torch.Tensor, key: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """*query* and *key* [B, heads, tokens, width], in memory [B, tokens, heads, width], as what

        is returned; *cosines* and *sines* [B or 1, tokens, width], contiguous. The width is even.
        """
        turned = torch.empty_like(query), torch.empty_like(key)
        rows, heads, tokens, width = query.shape
        run(
            self._kernel,
            *(query.data_ptr(), key.data_ptr(), turned[0].data_ptr(), turned[1].data_ptr()),
            *(cosines.data_ptr(), sines.data_ptr()),
            *(rows * tokens, cosines.shape[0] * tokens, heads, key.shape[1], width // 2),
            work=query.numel() + key.numel(),
        )
        return turned

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        rows, tokens, heads, width = _TRIED
        states = some_rows(rows * tokens).view(rows, tokens, heads, width).transpose(1, 2)
        angles = torch.linspace(0.0, 6.0, tokens * width).view(1, tokens, width)
        tables = angles.cos().bfloat16(), angles.sin().bfloat16()
        wide, (cosines, sines) = states.double(), (table.double()[:, None] for table in tables)
        beside = torch.cat((-wide[..., width // 2 :], wide[..., : width // 2]), -1)
        expected = wide * cosines + beside * sines
        for turned in self.turn(states, states, *tables):
            compare("rotary", turned, expected)
