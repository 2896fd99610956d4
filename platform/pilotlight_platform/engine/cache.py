"""Keys and values of the running rows, in buffers with room to grow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

_ROOM = 64  # columns, at least; long rows get an eighth of their length


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers ships no types
    """A cache layer that appends in place.

    DynamicLayer copies everything at every step, each time into fresh memory, whose first touch
    costs more than the copy. Keys and values [B, heads, L, head_dim] are views of the buffers.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.assign(keys, values)

    def assign(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace rows and columns; the next `update` makes room."""
        self.keys = self._key_buffer = keys
        self.values = self._value_buffer = values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._key_buffer.shape[-2]:
            self._key_buffer = _with_room(self.keys, end)
            self._value_buffer = _with_room(self.values, end)
        self._key_buffer[..., start:end, :] = key_states
        self._value_buffer[..., start:end, :] = value_states
        self.keys = self._key_buffer[..., :end, :]
        self.values = self._value_buffer[..., :end, :]
        return self.keys, self.values


@dataclass(frozen=True, slots=True)
class CacheGrowth:
    """What the keys and values of one row take as it grows."""

    # Bytes a token of all layers with that window; None: they keep every token.
    by_window: tuple[tuple[int | None, int], ...]

    @classmethod
    def of(cls, cache: DynamicCache) -> Self:
        """As seen in *cache*, which holds the beginning of one sequence."""
        found: Counter[int | None] = Counter()
        for layer in cache.layers:
            if getattr(layer, "keys", None) is not None:  # else a state that does not grow
                token_nbytes = (layer.keys.nbytes + layer.values.nbytes) // layer.keys.shape[-2]
                found[getattr(layer, "sliding_window", None)] += token_nbytes
        return cls(tuple(found.items()))

    def nbytes(self, tokens: int) -> int:
        return sum(
            token_nbytes * (tokens if window is None else min(tokens, window))
            for window, token_nbytes in self.by_window
        )


def with_room(columns: int) -> int:
    """Columns of a buffer that has just been made for so many."""
    return columns + max(_ROOM, columns // 8)


def growing(cache: DynamicCache) -> DynamicCache:
    """*cache* with its layers replaced; they must be plain `DynamicLayer`s that hold something."""
    cache.layers = [GrowingLayer(layer.keys, layer.values) for layer in cache.layers]
    return cache


def _with_room(states: torch.Tensor, length: int) -> torch.Tensor:
    *outer, used, width = states.shape
    buffer = states.new_empty(*outer, with_room(length), width)
    buffer[..., :used, :] = states
    return buffer
