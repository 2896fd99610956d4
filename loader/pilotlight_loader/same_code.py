"""Does a function of somebody else's do what is written here? Then it may have another's place.

Names prove nothing: of transformers' norms that are called the same some round elsewhere.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch


def same_code(function: object, ours: Callable[..., Any]) -> bool:
    """Whether *function* is *ours*, instruction by instruction, and means the same torch."""
    assert isinstance(ours, types.FunctionType)
    return (
        isinstance(function, types.FunctionType)
        and _said(function.__code__) == _said(ours.__code__)
        and function.__defaults__ == ours.__defaults__
        and function.__globals__.get("torch") is torch
    )


def _said(code: types.CodeType) -> tuple[object, ...]:
    """All of it but where it stands, and what its documentation says."""
    first, *rest = code.co_consts or (None,)  # the first is the documentation, where there is one
    constants = [(type(value), value) for value in (isinstance(first, str) or first, *rest)]
    arguments = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    names = (code.co_names, code.co_varnames, code.co_freevars)
    return code.co_code, constants, arguments, names
