"""16-bit products on a CPU that has no kernels for them: in float32, by parts of the weight.

Without AVX-512 oneDNN has none, and torch's own loops are for a row or two. Measured (torch 2.13,
AVX2, two threads), a [2816, 1024] bf16 weight that is in the caches, milliseconds:

    rows                               1      8     16    128
    F.linear                        0.35   2.44   4.90     36
    mm, with the weight as [K, N]   6.40     48     95    800
    in float32, its making counted  0.55   2.05    2.3      7
"""

from __future__ import annotations

import functools

import torch
from torch import nn

_LINEAR_ROWS = 8  # from so many
_PART_ELEMENTS = 1 << 21  # in float32 at once: 8 MiB, which a last-level cache holds


class WideLinear(nn.Linear):
    """nn.Linear that multiplies many rows in float32 where that is sooner."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # nn.Linear's name
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        assert weight is not None
        return linear(input, weight, bias) if takes(input, weight) else super().forward(input)


@functools.cache
def lacks_kernels() -> bool:
    """Whether this CPU multiplies many bf16 rows by plain loops; False where torch cannot tell."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # private
    return supported is not None and not supported()


def takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether linear() of x [..., K] and *weight* [N, K] is sooner than F.linear."""
    return (
        x.dtype == weight.dtype == torch.bfloat16
        and x.numel() >= _LINEAR_ROWS * weight.shape[1]
        and x.is_cpu
        and weight.is_cpu
        and lacks_kernels()
    )


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """F.linear of x [..., K], *weight* [N, K] and *bias* [N], in float32 and rounded once."""
    rows, columns = weight.shape
    step = max(1, _PART_ELEMENTS // columns)
    wide = x.reshape(-1, columns).float()
    product = torch.empty(len(wide), rows, dtype=x.dtype, device="cpu")
    for start in range(0, rows, step):
        part = slice(start, start + step)
        summed = wide @ weight[part].float().t()
        product[:, part] = summed if bias is None else summed.add_(bias[part])
    return product.view(*x.shape[:-1], rows)


def matmul(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """x [rows, K] times *weight* [K, N], of the same dtype, into *out* [rows, N]."""
    if x.dtype not in (torch.bfloat16, torch.float16) or not lacks_kernels():
        if out.is_contiguous():
            torch.mm(x, weight, out=out)
        else:
            out.copy_(x @ weight)
        return
    step = max(1, _PART_ELEMENTS // len(weight))
    wide = x.float()
    for start in range(0, weight.shape[1], step):
        part = slice(start, start + step)
        out[:, part] = wide @ weight[:, part].float()
