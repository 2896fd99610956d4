"""The factor of a Hessian's inverse that GPTQ's columns need, in the Hessian's own memory.

The Cholesky factor R of H⁻¹ = Rᵀ R is the inverse of U, where H = U Uᵀ: one factorization, begun at
the last column, and the inverse of a triangle. Both by blocks, each in the place of what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_BLOCK = 256  # columns; a few times so many rows are all that is held beside the Hessian
_DAMPING = (
    0.01  # of the mean of the diagonal, as in the paper; ten times as much if that is singular
)
_DAMPING_TRIES = 4


def inverse_root(hessian: torch.Tensor) -> torch.Tensor:
    """R, upper triangular, with Rᵀ R the inverse of *hessian* [K, K], float32, symmetric, damped.

    It is made in the memory of *hessian*, which is consumed; what stands below its diagonal means
    nothing. Raises ValueError for a Hessian that is not finite, or that no damping makes regular.
    """
    least, most = torch.aminmax(hessian)  # NaN is both; isfinite() would take as much memory again
    if not bool(torch.isfinite(least) & torch.isfinite(most)):
        raise ValueError("the text that calibrates makes activations that are NaN or infinite")
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1.0  # an input that is always 0: any code will do
    step = _DAMPING * float(diagonal.mean())
    blocks = _blocks(len(hessian))
    # With what is left below the blocks of the diagonal, all that another try needs.
    corners = [hessian[block, block].clone() for block in blocks]
    damping = 0.0
    for _ in range(_DAMPING_TRIES):
        damping += step
        step *= 10
        diagonal += damping
        if _factor(hessian, blocks):
            _invert(hessian, blocks)
            return hessian
        _restore(hessian, blocks, corners)
    raise ValueError(
        "the text that calibrates is too short for this weight, or makes inputs beyond float32"
    )


def _blocks(size: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]


def _factor(matrix: torch.Tensor, blocks: Sequence[slice]) -> bool:
    """Put U, with U Uᵀ = *matrix*, on and above its diagonal; False: it is not positive definite.

    Blocks below the diagonal are neither read nor written.
    """
    for at in reversed(range(len(blocks))):
        block, start = blocks[at], blocks[at].start
        # Backwards, its upper triangle is the lower one that this reads.
        lower, failed = torch.linalg.cholesky_ex(matrix[block, block].flip(0, 1))
        if int(failed):
            return False
        corner = matrix[block, block] = lower.flip(0, 1)
        above = torch.linalg.solve_triangular(
            corner.t(), matrix[:start, block], upper=False, left=False
        )
        matrix[:start, block] = above
        for left in blocks[:at]:
            matrix[: left.stop, left].addmm_(above[: left.stop], above[left].t(), alpha=-1)
    return True


def _invert(matrix: torch.Tensor, blocks: Sequence[slice]) -> None:
    """Invert the upper triangle of *matrix* in its place."""
    for at, block in enumerate(blocks):
        corner = matrix[block, block]
        inverse = torch.linalg.solve_triangular(
            corner, torch.eye(len(corner), dtype=corner.dtype), upper=True
        )
        for row in blocks[:at]:  # from the top: the rows below need not what is overwritten
            between = slice(row.start, block.start)
            matrix[row, block] = matrix[row, between] @ matrix[between, block]
        matrix[: block.start, block] = matrix[: block.start, block] @ inverse.neg()
        corner.copy_(inverse)


def _restore(
    matrix: torch.Tensor, blocks: Sequence[slice], corners: Sequence[torch.Tensor]
) -> None:
    """Undo what _factor() wrote: from below the diagonal, and *corners* on it."""
    for block, corner in zip(blocks, corners, strict=True):
        matrix[: block.start, block] = matrix[block, : block.start].t()
        matrix[block, block] = corner
