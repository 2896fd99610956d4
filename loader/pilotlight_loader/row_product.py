"""One row times a plain bf16 weight, by torch's own dot products.

oneDNN copies a plain weight into its layout for every product, be it for one row. Measured (torch
2.13, AVX512_BF16, two cores) for a [32000, 1024] output layer that is tied to the embeddings, and
so cannot be packed: 2.2 to 3.1 ms by oneDNN and 1.3 by torch, which is what its bytes take.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

# Private, and the same as torch.backends.mkldnn.flags, which sets five more and warns.
_set_onednn: Any = getattr(torch._C, "_set_mkldnn_enabled", None)
_switching = threading.Lock()
_MEASURED = "AVX512"  # elsewhere torch's kernels may be the slower ones


class RowLinear(nn.Linear):
    """nn.Linear that reads a plain bf16 weight once for one row."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # nn.Linear's name
        if takes(input, self.weight):
            return row_linear(input, self.weight, self.bias)
        return super().forward(input)


def takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether row_linear() is the faster one for this product."""
    return (
        x.dtype == weight.dtype == torch.bfloat16
        and x.numel() == weight.shape[1]
        and _set_onednn is not None
        and torch.backends.cpu.get_cpu_capability() == _MEASURED
    )


def row_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """F.linear where takes(x, weight), summed up in another order.

    Another thread's product in the meantime would be slower, and right: the switch is global.
    """
    with _switching:  # else two threads could leave it off, each restoring what it found
        before = torch._C._get_mkldnn_enabled()
        _set_onednn(False)
        try:
            product = linear(x.reshape(1, -1), weight, bias)
        finally:
            _set_onednn(before)
    return product.view(*x.shape[:-1], weight.shape[0])
