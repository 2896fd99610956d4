"""Tensors that a module keeps in plain containers, as nn.LSTM does in `_flat_weights`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

_MAX_NESTING = 4


def tensors_in(value: object, nesting: int = 0) -> Iterator[torch.Tensor]:
    """*value* itself, or those in a plain container. What is deeper nested is not looked at."""
    if isinstance(value, torch.Tensor):
        yield value
    elif nesting < _MAX_NESTING and isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item, nesting + 1)


def can_be_replaced(value: object, nesting: int = 0) -> bool:
    """Whether replaced() can build it anew: a subclass may want more than its items."""
    if isinstance(value, dict | list | tuple) and nesting < _MAX_NESTING:
        items = value.values() if isinstance(value, dict) else value
        holds = any(True for _ in tensors_in(value, nesting))
        return not holds or (
            type(value) in (dict, list, tuple)
            and all(can_be_replaced(item, nesting + 1) for item in items)
        )
    return True


def replaced(value: Any, by_id: Mapping[int, torch.Tensor]) -> Any:
    """*value* with other tensors in the places of those with these ids, in containers of its own.

    Of its own, because the module may have passed the old one on, and gets it back at the end.
    """
    if isinstance(value, torch.Tensor):
        return by_id.get(id(value), value)
    if type(value) is dict:
        return {key: replaced(item, by_id) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(replaced(item, by_id) for item in value)
    return value
