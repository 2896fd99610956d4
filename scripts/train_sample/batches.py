"""Which tokens a step sees: a pure function of the seed and the step, so that a run can resume."""

from __future__ import annotations

from functools import lru_cache

import torch


class Batches:
    """Windows over one row of ids: each epoch cuts it elsewhere and in another order."""

    def __init__(self, ids: torch.Tensor, length: int, rows: int, seed: int) -> None:
        """*ids* [tokens]; a step takes *rows* windows of *length* tokens and their successors."""
        self._ids, self._length, self._rows, self._seed = ids, length, rows, seed
        self._per_epoch = (len(ids) - 1) // length - 1  # the cut moves by up to one window
        if self._per_epoch < 1:
            raise ValueError(f"{len(ids)} tokens are no two windows of {length}")
        self._starts = lru_cache(maxsize=2)(self._cut)

    def at(self, step: int) -> torch.Tensor:
        """[rows, length + 1] for *step*."""
        first = step * self._rows
        starts = [
            int(self._starts(index // self._per_epoch)[index % self._per_epoch])
            for index in range(first, first + self._rows)
        ]
        return torch.stack([self._ids[at : at + self._length + 1] for at in starts])

    def _cut(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        shift = torch.randint(self._length, (1,), generator=generator)
        return torch.randperm(self._per_epoch, generator=generator) * self._length + shift
