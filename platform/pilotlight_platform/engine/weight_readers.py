"""Which layers' weights a model's code reads itself, instead of calling the layer.

Mamba multiplies with ``self.dt_proj.weight``, Bloom (on request) with slices of one. Such a weight
must stay an ordinary tensor. Found in the source code, so that branches count that no test takes;
what hides behind another name raises in torch, as no arithmetic takes a packed weight unawares.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterator

from torch import nn

# What a packed weight answers like any other.
_HARMLESS = frozenset({"dtype", "device", "shape", "ndim"})


def directly_read(module: nn.Module) -> frozenset[str]:
    """Last names of the layers, such as ``dt_proj``. Raises OSError where the code is not there."""
    files = {type(layer).__module__ for layer in module.modules()}
    files = {file for file in files if not file.startswith("torch.")}
    return frozenset().union(*map(_read_in, files))


@functools.lru_cache(maxsize=256)
def _read_in(file: str) -> frozenset[str]:
    tree = ast.parse(inspect.getsource(sys.modules[file]))
    harmless = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in _HARMLESS
    }
    return frozenset(
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "weight" and id(node) not in harmless
        for name in _names(node.value)
    )


def _names(owner: ast.expr) -> Iterator[str]:
    """The name by which *owner* is reached: `proj` of self.proj, self.proj[0] and proj."""
    while isinstance(owner, ast.Subscript):
        owner = owner.value
    if isinstance(owner, ast.Attribute):
        yield owner.attr
    elif isinstance(owner, ast.Name):
        yield owner.id
