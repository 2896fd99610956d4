"""What turns a weight into a quantized matrix: nearest, GPTQ, or a checkpoint's own codes."""

from __future__ import annotations

from typing import Protocol

import torch

from pilotlight_loader.quantize.matrix import Matrix, Scheme


class Rounding(Protocol):
    """Asked for each weight once, in execution order; may keep one layer in memory."""

    def matrix(self, name: str, weight: torch.Tensor, scheme: Scheme) -> Matrix:
        """*weight* [N, K], floating point and finite, as *scheme* says: same kind and groups.

        *name* is the weight's in the module: ``model.layers.0.mlp.up_proj.weight``.
        """
        ...
