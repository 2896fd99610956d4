"""Which weights are quantized, and how: decided by name, shape and place in the module."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence

from torch import nn

from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, Kind, Scheme

# Where a small error changes which expert runs. Names of transformers' models.
_ROUTERS = re.compile(r"(^|\.)(router|gate|shared_expert_gate|wg|gate_proj_router)$")
# What int4's kernel takes: rows in whole blocks, and groups that divide the columns.
_INT4_ROWS = 64
_INT4_GROUPS = (128, 64, 32)
_SMALL = 1 << 12  # elements: its scales, alignment and call cost what its bytes save


def plan_schemes(
    module: nn.Module,
    kind: Kind,
    weights: Mapping[str, tuple[int, int]],
    skip: Sequence[str] = (),
) -> dict[str, Scheme]:
    """The scheme of each of these *weights* (name -> [N, K]) of *module*; others stay as they are.

    *weights* are those of plain nn.Linear and nn.Embedding layers. Linear layers get *kind*;
    embeddings and the output layer, in which one wrong row is one wrong token, get 8 bits where
    *kind* is int4, and stay where it has 8. Routers, tiny matrices and whatever matches a pattern
    of *skip* stay.
    """
    outer = outer_layers(module)
    schemes = {}
    for name, (rows, columns) in weights.items():
        layer = name.removesuffix(".weight")
        if rows * columns < _SMALL or _ROUTERS.search(layer) or is_skipped(layer, skip):
            continue
        if layer not in outer:
            schemes[name] = scheme_for(kind, rows, columns)
        elif kind == "int4":
            schemes[name] = INT8
    return schemes


def scheme_for(kind: Kind, rows: int, columns: int) -> Scheme:
    """*kind* for an [N, K] weight; int8 in place of an int4 that the kernel does not take."""
    if kind == "fp8":
        return FP8
    if kind == "int8":
        return INT8
    groups = [group for group in _INT4_GROUPS if columns % group == 0]
    if rows % _INT4_ROWS or not groups:
        return INT8
    return INT4 if groups[0] == INT4.group else Scheme("int4", groups[0])


def outer_layers(module: nn.Module) -> Collection[str]:
    """Names of the embeddings, and of the linear layers outside of every list of layers."""
    return {
        name
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, nn.Embedding)
        or (isinstance(layer, nn.Linear) and not re.search(r"\.\d+\.", f".{name}."))
    }


def is_skipped(layer: str, patterns: Sequence[str]) -> bool:
    """Whether *layer*, or a module that holds it, matches a shell pattern."""
    parts = layer.split(".")
    holders = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(holder, pattern) for pattern in patterns for holder in holders)
