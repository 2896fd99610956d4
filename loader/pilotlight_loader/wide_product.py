"""16-bit products on a CPU that has no kernels for them: in float32.

Without AVX-512 oneDNN has none, and torch's own loops are for a row or two. Up to 64 rows a
compiled kernel reads the weight as it is, where llvmlite is installed; else parts of it become
float32.
Measured (torch 2.13, AVX2, two threads), a [2816, 1024] bf16 weight, milliseconds:

    rows                               1      4      8     16     32     64    128
    F.linear                        0.36    1.3    2.4    4.9                   36
    mm, with the weight as [K, N]    6.4            48     95                  800
    parts in float32                0.55           2.9    3.3    4.3    5.1    7.3
    compiled                        0.29   0.33   0.76    1.2    2.1    3.6    6.6
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from pilotlight_loader.kernels import chosen
from pilotlight_loader.kernels.bfloat_product import BfloatProduct
from pilotlight_loader.kernels.compiler import WIDTHS

_DTYPES = (torch.bfloat16, torch.float16)
_LINEAR_ROWS = 8  # from so many, parts in float32 are sooner than F.linear
_COMPILED_ROWS = 64
_PART_ELEMENTS = 1 << 21  # in float32 at once: 8 MiB, which a last-level cache holds


class WideLinear(nn.Linear):
    """nn.Linear that multiplies many rows in float32 where that is sooner."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # nn.Linear's name
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        assert weight is not None
        if takes(input, weight, bias):
            return linear(input, weight, bias)
        return super().forward(input)


@functools.cache
def lacks_kernels() -> bool:
    """Whether this CPU multiplies many bf16 rows by plain loops; False where torch cannot tell."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # private
    return supported is not None and not supported()


def hasten(module: nn.Module) -> list[nn.Linear]:
    """Make its plain linear layers WideLinear; those that were."""
    plain = [layer for layer in module.modules() if type(layer) is nn.Linear]
    for layer in plain:
        layer.__class__ = WideLinear
    return plain


def prepare() -> None:
    """Compile, off the way of requests. Some tenths of a second."""
    if lacks_kernels():
        chosen.bfloat_product()


def takes(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    """Whether linear() of x [..., K], *weight* [N, K] and *bias* [N] is sooner than F.linear."""
    return (
        x.dtype == weight.dtype
        and x.dtype in _DTYPES
        and x.shape[-1:] == weight.shape[1:]  # else F.linear says what is wrong
        and (bias is None or bias.dtype == x.dtype)
        and x.is_cpu
        and weight.is_cpu
        and lacks_kernels()
        and x.numel() > 0
        and (x.numel() >= _LINEAR_ROWS * weight.shape[1] or _compiled(x, weight, bias) is not None)
    )


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """F.linear of x [..., K], *weight* [N, K] and *bias* [N], in float32 and rounded once.

    All of one dtype.
    """
    rows, columns = weight.shape
    compiled = _compiled(x, weight, bias)
    if compiled is not None:
        bias = None if bias is None else bias.contiguous()
        return compiled.rows(x.contiguous(), weight, bias)
    step = max(1, _PART_ELEMENTS // columns)
    wide = x.reshape(-1, columns).float()
    product = torch.empty(len(wide), rows, dtype=x.dtype, device="cpu")
    for start in range(0, rows, step):
        part = slice(start, start + step)
        summed = wide @ weight[part].float().t()
        product[:, part] = summed if bias is None else summed.add_(bias[part])
    return product.view(*x.shape[:-1], rows)


def _compiled(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> BfloatProduct | None:
    """What multiplies these, if it is compiled; it knows nothing of gradients."""
    columns = weight.shape[1]
    if (
        x.dtype != torch.bfloat16
        or x.numel() > _COMPILED_ROWS * columns
        or columns % WIDTHS != 0
        or not weight.is_contiguous()
        or (
            torch.is_grad_enabled()
            and any(given is not None and given.requires_grad for given in (x, weight, bias))
        )
    ):
        return None
    return chosen.bfloat_product()


def matmul(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """x [rows, K] times *weight* [K, N], of the same dtype, into *out* [rows, N]."""
    if x.dtype not in _DTYPES or not lacks_kernels():
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
