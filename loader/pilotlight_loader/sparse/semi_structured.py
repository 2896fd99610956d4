"""torch's kernels for 2:4 sparse weights, where a GPU has them. Not yet run on one."""

from __future__ import annotations

import logging

import torch
from torch.nn import functional
from torch.sparse import to_sparse_semi_structured

logger = logging.getLogger(__name__)

_AMPERE = (8, 0)
# Of rows and columns: what CUTLASS (32, 64) and cuSPARSELt (16, 16) both take in 16 bits.
_MULTIPLE = 64
_TRIED_ROWS = 17  # more than they are padded to
_MOST_ERROR = 1e-2  # of the product's norm; bfloat16 alone makes 3e-3 of it


def compressed(weight: torch.Tensor) -> torch.Tensor:
    """*weight* [N, K], on a GPU, as F.linear multiplies fastest with it: sparse, or as it is.

    As it is where torch refuses it, and where a product with it compressed is another one.
    """
    if torch.cuda.get_device_capability(weight.device) < _AMPERE:
        return weight
    if any(size % _MULTIPLE for size in weight.shape):
        return weight
    try:
        with torch.no_grad():
            sparse: torch.Tensor = to_sparse_semi_structured(weight)
            _check_product(weight, sparse)
    except torch.OutOfMemoryError:
        raise  # it says nothing about the kernel
    except Exception as error:  # a prototype of torch's: whatever may be missing or different
        logger.warning(
            "sparse_kernel_refused torch=%s shape=%s reason=%r",
            *(torch.__version__, list(weight.shape), error),
        )
        return weight
    return sparse


def _check_product(weight: torch.Tensor, sparse: torch.Tensor) -> None:
    """Raises where the two do not multiply alike."""
    generator = torch.Generator(weight.device).manual_seed(0)
    x = torch.randn(_TRIED_ROWS, weight.shape[1], generator=generator, device=weight.device).to(
        weight.dtype
    )
    expected = functional.linear(x, weight).float()
    error = float((functional.linear(x, sparse).float() - expected).norm())
    if not error <= _MOST_ERROR * float(expected.norm()):
        raise NotImplementedError("the sparse kernel computes something else")
