"""Few rows times a weight of one-byte codes, on a GPU: Triton's, since torch has no good one.

Reads each code once for up to ROWS rows; the codes are exact in bfloat16, sums are float32. Only
for a process that has Triton, as CUDA builds of torch bring it: cuda_products.py imports this file.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = 16  # the least that tensor cores multiply
_BLOCK_ROWS = 32  # of the weight: 128 programs for 4096 of them
_BLOCK_COLUMNS = 128
_MULTIPLIED_IN = tl.bfloat16  # Triton's interpreter has products in float32 only
_MOST_ERROR = 1e-2  # of the product's norm; bfloat16 alone makes 3e-3 of it


# Unannotated, because Triton reads annotations.
def _multiply(  # type: ignore[no-untyped-def]
    x,
    codes,
    scales,
    product,
    count,
    rows,
    columns,
    ROWS_: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    m = tl.arange(0, ROWS_)[:, None]
    n = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[None, :]
    sums = tl.zeros((ROWS_, BLOCK_ROWS), tl.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        k = start + tl.arange(0, BLOCK_COLUMNS)
        left = tl.load(
            x + m * columns + k[None, :], mask=(m < count) & (k[None, :] < columns), other=0.0
        )
        right = tl.load(
            codes + n.to(tl.int64) * columns + k[:, None],
            mask=(n < rows) & (k[:, None] < columns),
            other=0.0,
        )
        sums = tl.dot(left.to(DTYPE), right.to(DTYPE), sums)
    sums *= tl.load(scales + n, mask=n < rows, other=0.0).to(tl.float32)
    tl.store(product + m * rows + n, sums.to(tl.bfloat16), mask=(m < count) & (n < rows))


_KERNEL = triton.jit(_multiply, do_not_specialize=["count"])


def linear(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """*x* bfloat16 [at most ROWS, K], *codes* int8 or e4m3 [N, K], *scales* bfloat16 [N]."""
    rows, columns = codes.shape
    product = x.new_empty(x.shape[0], rows)
    # Triton launches on the current device.
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _KERNEL[(triton.cdiv(rows, _BLOCK_ROWS),)](
            *(x.contiguous(), codes, scales, product, x.shape[0], rows, columns),
            *(ROWS, _BLOCK_ROWS, _BLOCK_COLUMNS, _MULTIPLIED_IN),
            num_stages=4,
        )
    return product


def check(device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Raises where linear() is not the product with what the codes stand for, or does not run."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device)

    with torch.no_grad():
        codes = noise(*shape).mul_(40).clamp_(-127, 127).to(dtype)
        scales = noise(shape[0]).bfloat16()
        for count in (1, ROWS - 3, ROWS):
            x = noise(count, shape[1]).bfloat16()
            expected = x.float() @ codes.float().t() * scales.float()
            error = float((linear(x, codes, scales) - expected).norm() / expected.norm())
            if not error < _MOST_ERROR:
                raise NotImplementedError(f"the kernel is off by {error:.2g}")
