"""Weights as AutoGPTQ stores them, written down a second time for the tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_BITS = 4
_PER_WORD = 8


@dataclass(frozen=True, slots=True)
class GptqWeight:
    """An [N, K] weight in codes of 4 bits."""

    tensors: dict[str, torch.Tensor]  # by their last name: ``qweight``
    codes: torch.Tensor  # uint8 [N, K]
    meant: torch.Tensor  # float32 [N, K]: what the codes stand for


def gptq_weight(weight: torch.Tensor, group: int) -> GptqWeight:
    """*weight* [N, K] rounded to the nearest, with zero points, in groups of *group* columns."""
    rows, columns = weight.shape
    grouped = weight.float().view(rows, -1, group)
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(1, 15)
    codes = ((grouped / scales).round() + zeros).clamp(0, 15)
    meant = ((codes - zeros) * scales).view(rows, columns)
    codes = codes.view(rows, columns).to(torch.uint8)
    tensors = {
        "qweight": _packed(codes).t().contiguous(),
        "qzeros": _packed(zeros[..., 0].t() - 1),
        "scales": scales[..., 0].t().half().contiguous(),
        "g_idx": (torch.arange(columns) // group).int(),
    }
    return GptqWeight(tensors, codes, meant)


def _packed(codes: torch.Tensor) -> torch.Tensor:
    """[R, C] of 0 ... 15 -> int32 [R, C / 8], the first code in the lowest bits."""
    words = codes.long().view(len(codes), -1, _PER_WORD)
    shifted = words << (torch.arange(_PER_WORD) * _BITS)
    return shifted.sum(-1).to(torch.int32)  # wraps, as the format has it
