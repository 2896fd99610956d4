"""Rounding a weight to the codes of a trellis, with or without what its inputs are."""

from __future__ import annotations

import torch

from pilotlight_loader.quantize.matrix import Scheme, TrellisMatrix
from pilotlight_loader.quantize.trellis import DEVIATION
from pilotlight_loader.quantize.trellis_search import Found, nothing_before, search

_SURVIVORS, _SURVIVORS_BY_INPUTS = 8, 32
_PART_ROWS = 256  # at once: with GPTQ and K = 4096 that takes 49 MB, and 84 with twice as many
_REACH = 2.8  # of the weights' deviation: larger ones are rounded badly
# Scales that GPTQ's search is tried with, of scale_of(); the best is taken, row by row.
_FACTORS = (0.97, 1.06, 1.15)


def to_trellis(weight: torch.Tensor, scheme: Scheme, root: torch.Tensor | None) -> TrellisMatrix:
    """*weight* [N, K], finite, in groups as *scheme* says.

    *root* [K, K]: inverse_root() of its inputs' sum, for GPTQ; None: the nearest weights.
    """
    rows, columns = weight.shape
    codes = torch.empty(rows, columns, dtype=torch.uint8)
    scales = torch.empty(rows, scheme.groups(columns), dtype=weight.dtype)
    for start in range(0, rows, _PART_ROWS):
        part = slice(start, start + _PART_ROWS)
        _round(weight[part].to(torch.float32, copy=True), root, codes[part], scales[part])
    return TrellisMatrix(codes, scales)


def _round(
    left: torch.Tensor, root: torch.Tensor | None, codes: torch.Tensor, scales: torch.Tensor
) -> None:
    """*left* [N, K] is what is still to be rounded, errors made up for."""
    columns = left.shape[1]
    group = columns // scales.shape[1]
    before = nothing_before(len(left))
    for at, start in enumerate(range(0, columns, group)):
        span = slice(start, start + group)
        block = left[:, span]
        scale = scale_of(block, scales.dtype)
        if root is None:
            found = search(block, scale.float(), before, None, _SURVIVORS)
        else:
            corner = root[span, span]
            found, scale = _best(block, scale, before, corner)
            left[:, span.stop :].addmm_(found.errors, root[span, span.stop :], alpha=-1)
        codes[:, span], scales[:, at], before = found.codes, scale, found.before


def _best(
    block: torch.Tensor, scale: torch.Tensor, before: torch.Tensor, corner: torch.Tensor
) -> tuple[Found, torch.Tensor]:
    """What is found with the best scale of each row, and that."""
    tried = [(scale.float() * factor).to(scale.dtype) for factor in _FACTORS]
    best, chosen = search(block, tried[0].float(), before, corner, _SURVIVORS_BY_INPUTS), tried[0]
    for other in tried[1:]:
        found = search(block, other.float(), before, corner, _SURVIVORS_BY_INPUTS)
        chosen = torch.where(found.cost < best.cost, other, chosen)
        best = best.or_better(found)
    return best, chosen


def scale_of(block: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Of float32 groups [N, G], [N] in *dtype*; 0 where all are zeros, or nearly.

    The tables are made for weights of a normal distribution, the largest of which is about three
    times their deviation; where it is more, the scale grows with it.
    """
    # In float64, which holds the squares of any float32.
    deviation = torch.linalg.vector_norm(block, dim=-1, dtype=torch.float64)
    deviation /= block.shape[-1] ** 0.5
    reached = torch.maximum(deviation, block.abs().amax(-1) / _REACH)
    return (reached / DEVIATION).to(dtype)
