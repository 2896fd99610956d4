"""Keys that a file may not have: what was meant, or why there is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from pilotlight_autoscaler.foreign_keys import instead_of, plain_key


def unknown_key(root: type[BaseModel], path: tuple[str | int, ...]) -> str:
    """What to say of the key at *path* of a file of *root*, which has none of that name."""
    allowed = _allowed(root, path[:-1])
    wrong = str(path[-1])
    instead = instead_of(wrong, top=len(path) == 1)
    if instead is not None:
        return f"unknown key; {instead}"
    normal = plain_key(wrong)
    near = difflib.get_close_matches(normal, allowed, n=1)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    elsewhere = [key for key in _everywhere(root) if key.rpartition(".")[2] == normal]
    if elsewhere:
        return f"unknown key here; {elsewhere[0]} is the one"
    return f"unknown key; there are {', '.join(allowed)}"


def _allowed(root: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    model = root
    for part in path:
        if isinstance(part, int):
            continue  # an item of a list, whose model was taken at the list
        field = model.model_fields.get(part)
        inner = None if field is None else _model_in(field.annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _everywhere(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = _model_in(field.annotation)
        if inner is not None:
            yield from _everywhere(inner, f"{prefix}{name}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds: itself, one or nothing, or a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(each) for each in get_args(annotation))
    return next((each for each in found if each is not None), None)
