"""Attention of one query for each row and head in bfloat16, by the kernel of attention_rows."""

from __future__ import annotations

import torch

from pilotlight_loader.kernels import attention_rows
from pilotlight_loader.kernels.compiler import WIDTHS, Compiler, run
from pilotlight_loader.kernels.float_bits import float_bits
from pilotlight_loader.kernels.trial import compare, some_numbers
from pilotlight_loader.scratch import scratch_address

_FLOAT_BYTES = 4
_QUERIES = (1, 2)  # that kernels are compiled for
# Rows, heads, of them with keys, columns, width: so many that threads share the heads.
_TRIED = ((2, 4, 2, 261, 32), (1, 3, 3, 1371, 16))
_SCALE = 0.3


class BfloatAttention:
    """Checks no shapes: see fits()."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler  # the code goes with it
        kernels = [attention_rows.functions(queries, compiler.target) for queries in _QUERIES]
        self._kernels = compiler.compile(kernels)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """[B, 1, heads, value width]; see fits()."""
        rows, heads, _, width = query.shape
        _, key_heads, columns, value_width = value.shape
        *key_steps, _ = key.stride()
        *value_steps, _ = value.stride()
        output = query.new_empty(rows, 1, heads, value_width)
        sharing = heads // key_heads
        which = (sharing + 1) % 2  # two queries at a time where they share keys
        floats = width + -(-columns // WIDTHS) * WIDTHS
        all_floats = torch.get_num_threads() * _QUERIES[which] * floats
        run(
            self._kernels[which],
            *(query.data_ptr(), key.data_ptr(), value.data_ptr(), output.data_ptr()),
            *(scratch_address(all_floats * _FLOAT_BYTES), floats),
            *(rows, heads, sharing, columns, width, value_width),
            *(*key_steps, *value_steps, float_bits(scale)),
            work=rows * heads * columns * (width + value_width),
        )
        return output

    def try_out(self) -> None:
        """Raises ArithmeticError where it computes something else."""
        for shape in _TRIED:
            self._try_out(*shape)

    def _try_out(self, rows: int, heads: int, key_heads: int, columns: int, width: int) -> None:
        shapes = (rows, heads, 1, width), *2 * ((rows, key_heads, columns, width),)
        query, key, value = (some_numbers(i, *shape) for i, shape in enumerate(shapes))
        wide = [part.double().repeat_interleave(heads // key_heads, 1) for part in (key, value)]
        shares = (query.double() @ wide[0].transpose(2, 3) * _SCALE).softmax(-1)
        expected = (shares @ wide[1]).transpose(1, 2)
        compare("attention", self.attend(query, key, value, _SCALE), expected)


def fits(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Query [B, heads, 1, width], contiguous; key and value [B, key heads, columns, width]."""
    if not query.dim() == key.dim() == value.dim() == 4:
        return False
    rows, heads, queries, width = query.shape
    key_rows, key_heads, columns, _ = key.shape
    return (
        query.dtype is key.dtype is value.dtype is torch.bfloat16
        and query.is_cpu
        and key.is_cpu
        and value.is_cpu
        and queries == 1
        and key_rows == rows
        and columns > 0
        and key_heads > 0
        and heads % key_heads == 0
        and key.shape[3] == width
        and value.shape[:3] == key.shape[:3]
        and width % WIDTHS == 0
        and value.shape[3] % WIDTHS == 0
        and query.is_contiguous()
        and key.stride(3) == 1
        and value.stride(3) == 1
        and not (
            torch.is_grad_enabled()
            and (query.requires_grad or key.requires_grad or value.requires_grad)
        )
    )
