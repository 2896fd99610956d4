"""Rows of one replica that are decoded together.

A request is prefilled alone, without padding, then its keys and values join those of the running
rows. Rows of different lengths are padded on the *left*, so that they all end in the same column
and one step appends one column:

    row 0    .  .  .  a  b  c
    row 1    d  e  f  g  h  i

Shapes: B rows, L columns, V vocabulary; keys and values [B, heads, L, head_dim].
"""

from __future__ import annotations

from collections.abc import Sequence as Indices
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from pilotlight_platform.engine.cache import CacheGrowth, growing, with_room
from pilotlight_platform.engine.sequence import Sequence
from pilotlight_platform.engine.skeleton import Skeleton


def prefill(skeleton: Skeleton, sequence: Sequence) -> tuple[torch.Tensor, DynamicCache]:
    """Run the tokens of one sequence whose keys belong in the cache: its prompt, at first.

    Logits [V] behind the last of them, and the cache.
    """
    cache = DynamicCache(config=skeleton.config)
    inputs: dict[str, Any] = {"logits_to_keep": 1} if skeleton.takes_logits_to_keep else {}
    ids = torch.tensor([sequence.tokens[: sequence.length]], device=skeleton.module.device)
    output = skeleton.module(input_ids=ids, past_key_values=cache, use_cache=True, **inputs)
    return output.logits[0, -1], cache


def mergeable(skeleton: Skeleton, cache: DynamicCache) -> bool:
    """Whether rows may share a cache: full attention in every layer, nothing but keys and values.

    A sliding window would count padding as seen tokens, and a recurrent state has no columns.
    """
    return skeleton.batchable and all(
        type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers
    )


class Batch:
    """Owns the cache of its rows. A batch of one needs no mask and works with any cache."""

    def __init__(self, skeleton: Skeleton, sequence: Sequence, cache: DynamicCache) -> None:
        self._skeleton = skeleton
        self.shared = mergeable(skeleton, cache)  # whether others may join
        self._cache = growing(cache) if self.shared else cache
        self._growth = CacheGrowth.of(cache)
        self.rows = [sequence]

    @property
    def nbytes(self) -> int:
        """Of keys and values, padding and the room to grow included."""
        return cache_nbytes(self._growth, len(self.rows), self.columns)

    def nbytes_with(self, rows: int, columns: int) -> int:
        """`nbytes` after so many rows more have joined, the longest of so many tokens."""
        return cache_nbytes(self._growth, len(self.rows) + rows, max(self.columns, columns))

    @property
    def columns(self) -> int:
        """Tokens of the longest row."""
        return max((row.length for row in self.rows), default=0)

    def join(self, other: Batch) -> None:
        """Take the rows of *other*; both are `shared`."""
        for ours, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            length = max(ours.keys.shape[-2], theirs.keys.shape[-2])
            ours.assign(
                torch.cat([_pad_left(ours.keys, length), _pad_left(theirs.keys, length)]),
                torch.cat([_pad_left(ours.values, length), _pad_left(theirs.values, length)]),
            )
        self.rows.extend(other.rows)

    def keep(self, indices: Indices[int]) -> None:
        """Let the other rows leave, and with them the columns that only they needed."""
        if len(indices) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in indices]
        if not self.rows:
            return  # the cache goes with the batch
        for layer in self._cache.layers:
            # The module may have been detached since.
            chosen = torch.tensor(indices, device=layer.keys.device)
            layer.assign(
                layer.keys[..., -self.columns :, :].index_select(0, chosen),
                layer.values[..., -self.columns :, :].index_select(0, chosen),
            )

    def step(self) -> torch.Tensor:
        """Append every row's last token; logits [B, V] of the next ones."""
        device = self._skeleton.module.device
        inputs: dict[str, Any] = {}
        lengths = torch.tensor([row.length for row in self.rows], device=device)
        if len(self.rows) > 1:
            if self._skeleton.takes_position_ids:
                inputs["position_ids"] = lengths[:, None]
            inputs["attention_mask"] = _attention_mask(lengths + 1)
        output = self._skeleton.module(
            input_ids=torch.tensor([[row.tokens[-1]] for row in self.rows], device=device),
            past_key_values=self._cache,
            use_cache=True,
            **inputs,
        )
        for row in self.rows:
            row.length += 1
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def cache_nbytes(growth: CacheGrowth, rows: int, columns: int) -> int:
    """Of a batch, once its buffers have been made anew for the next token."""
    return rows * growth.nbytes(with_room(columns + 1))


def _pad_left(states: torch.Tensor, length: int) -> torch.Tensor:
    missing = length - states.shape[-2]
    return torch.nn.functional.pad(states, (0, 0, missing, 0)) if missing else states


def _attention_mask(lengths: torch.Tensor) -> torch.Tensor | None:
    """Ones [B, L] where a row has tokens; None if no row is padded."""
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return None
    columns = torch.arange(longest, device=lengths.device)
    return (columns >= longest - lengths[:, None]).long()
