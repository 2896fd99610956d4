"""torch's kernels for 2:4 sparse weights, where a GPU has them. Not yet run on one."""

from __future__ import annotations

import torch
from torch.sparse import to_sparse_semi_structured

_AMPERE = (8, 0)
_MULTIPLE = 64  # of rows and columns: what cuSPARSELt and CUTLASS both take in 16 bits


def compressed(weight: torch.Tensor) -> torch.Tensor:
    """*weight* [N, K], on a GPU, as F.linear multiplies fastest with it: sparse, or as it is."""
    if torch.cuda.get_device_capability(weight.device) < _AMPERE:
        return weight
    if any(size % _MULTIPLE for size in weight.shape):
        return weight
    sparse: torch.Tensor = to_sparse_semi_structured(weight)
    return sparse
