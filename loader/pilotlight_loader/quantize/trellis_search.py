"""The codes of a trellis whose values are nearest to given weights, by the M-algorithm.

Of all ways to code a row's first columns the best few survive; each is continued with the codes
below and above the next weight, and again the best survive (Anderson and Mohan 1984). With GPTQ
each carries its own errors on, so that what is searched is the least error of the *products*.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pilotlight_loader.quantize.trellis import MEMORY, TABLES

_LAST = len(TABLES[0]) - 1


@dataclass(frozen=True, slots=True)
class Found:
    """*codes* uint8 [N, C]; *errors* [N, C], of weights over the factor's diagonal; *cost* [N],
    their squares' sum; *before*: the last codes [N, MEMORY], for the columns that follow."""

    codes: torch.Tensor
    errors: torch.Tensor
    cost: torch.Tensor
    before: torch.Tensor

    def or_better(self, other: Found) -> Found:
        """Each row from where it costs less."""
        is_other = other.cost < self.cost
        by_row = is_other[:, None]
        return Found(
            torch.where(by_row, other.codes, self.codes),
            torch.where(by_row, other.errors, self.errors),
            torch.where(is_other, other.cost, self.cost),
            torch.where(by_row, other.before, self.before),
        )


def nothing_before(rows: int) -> torch.Tensor:
    """The codes [rows, MEMORY] before a row's first."""
    return torch.zeros(rows, MEMORY, dtype=torch.int64)


def search(
    weights: torch.Tensor,
    scale: torch.Tensor,
    before: torch.Tensor,
    corner: torch.Tensor | None,
    survivors: int,
) -> Found:
    """*weights* [N, C], float32, whose rows have *scale* [N] and follow the codes *before*.

    *corner* [C, C]: the part of GPTQ's inverse_root() that is of these columns; None: weights are
    all that matters.
    """
    first, *shifts = (torch.tensor(table, dtype=torch.float32) for table in TABLES)
    rows, columns = weights.shape
    # What is still to be coded, as each survivor has it: [columns, N, survivors]. Over the scales:
    # squares of tiny weights would be 0, and all codes as good.
    left = (weights.t() / torch.where(scale == 0, 1.0, scale) * (scale != 0))[:, :, None]
    cost = torch.zeros(rows, 1)
    last = [before[:, None, MEMORY - 1 - back] for back in range(MEMORY)]  # newest first
    parents, codes, errors = [], [], []
    for at in range(columns):
        wanted = left[0 if corner is not None else at]
        for table, code in zip(shifts, last, strict=True):
            wanted = wanted - table[code]
        lower = torch.bucketize(wanted, first).sub_(1).clamp_(0, _LAST - 1)
        pair = torch.stack((lower, lower + 1), -1)
        off = (wanted[..., None] - first[pair]).flatten(1)
        if corner is not None:
            off /= corner[at, at]
        total = off.square().view(rows, -1, 2).add_(cost[..., None]).flatten(1)
        cost, kept = total.topk(min(survivors, total.shape[1]), largest=False, sorted=False)
        parent = kept >> 1
        code, error = pair.flatten(1).gather(1, kept), off.gather(1, kept)
        last = [code, *(past.gather(1, parent) for past in last[:-1])]
        if corner is not None:
            rest = left[1:].gather(2, parent.expand(columns - at - 1, -1, -1))
            left = rest.addcmul_(corner[at, at + 1 :, None, None], error, value=-1)
        parents.append(parent.to(torch.uint8))  # they take most of a search's memory
        codes.append(code.to(torch.uint8))
        errors.append(error)
    best = cost.argmin(1, keepdim=True)
    before = torch.stack([past.gather(1, best)[:, 0] for past in reversed(last)], 1)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for parent, code, error in zip(*map(reversed, (parents, codes, errors)), strict=True):
        found.append((code.gather(1, best), error.gather(1, best)))
        best = parent.gather(1, best).to(torch.int64)
    found.reverse()
    return Found(
        torch.cat([code for code, _ in found], 1),
        torch.cat([error for _, error in found], 1).mul_(scale[:, None]),
        cost.amin(1) * scale.square(),
        before,
    )
