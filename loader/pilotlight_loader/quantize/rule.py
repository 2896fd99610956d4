"""Which weights are quantized, and how: decided by name, shape and place in the module."""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import nn

from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, TRELLIS, Kind, Scheme

# Where a small error changes which expert runs. Names of transformers' models.
_ROUTERS = re.compile(r"(^|\.)(router|gate|shared_expert_gate|wg|gate_proj_router)$")
# What int4's kernel takes: rows in whole blocks, and groups that divide the columns.
_INT4_ROWS = 64
_INT4_GROUPS = (128, 64, 32)
_SMALL = 1 << 12  # elements: its scales, alignment and call cost what its bytes save
_IN_STACK = re.compile(r"^(.*?)\.(\d+)\.")  # the first list of layers, and the place in it
_STACK_WITH_ENDS = 4  # layers: of fewer, the first and the last are most of the model
_ATTENDED = re.compile(
    r"(^|\.)(self_attn|attn|attention|self_attention)\.(o_proj|out_proj|dense|wo)\.weight$"
)
_GROUPED_HEADS = re.compile(r"(^|\.)[kv]_proj\.weight$")


def plan_schemes(
    module: nn.Module,
    kind: Kind,
    weights: Mapping[str, tuple[int, int]],
    skip: Sequence[str] = (),
    *,
    uniform: bool = False,
    trellis: bool = True,
) -> dict[str, Scheme]:
    """The scheme of each of these *weights* (name -> [N, K]) of *module*; others stay as they are.

    *weights* are those of plain nn.Linear and nn.Embedding layers. Linear layers get *kind*, where
    errors cost most something better: 8 bits for int4, nothing for kinds of 8 bits. That is so for
    embeddings and output layers, in which one wrong row is one wrong token, and unless *uniform*
    for sensitive_weights(). Routers, tiny matrices and whatever matches a pattern of *skip* stay.
    *trellis*: whether 4 bits are those of one, which want a CPU's compiled kernels, or equal steps.
    """
    outer = outer_layers(module)
    sensitive = set() if uniform else sensitive_weights(kind, weights)
    schemes = {}
    for name, (rows, columns) in weights.items():
        layer = name.removesuffix(".weight")
        if rows * columns < _SMALL or _ROUTERS.search(layer) or is_skipped(layer, skip):
            continue
        if layer not in outer and name not in sensitive:
            schemes[name] = scheme_for(kind, rows, columns, trellis=trellis)
        elif kind == "int4":
            schemes[name] = INT8
    return schemes


def sensitive_weights(kind: Kind, weights: Mapping[str, tuple[int, int]]) -> set[str]:
    """Which of *weights* would cost more of a model's quality than their share of its bytes.

    The first and the last layer (as Megatron-LM's ``first_last_layers_bf16`` has it for fp8), and
    for int4 what attention puts out, and the keys and values that several heads share:
    docs/quantization.md has figures. None for int8, whose errors are small anywhere.
    """
    if kind == "int8":
        return set()
    found = _end_layers(weights)
    if kind == "int4":
        found |= {name for name in weights if _ATTENDED.search(name)}
        found |= {name for name in weights if _is_grouped(name, weights)}
    return found


def _end_layers(names: Iterable[str]) -> set[str]:
    """Those of *names* in the first or the last layer of a stack."""
    stacks: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        match = _IN_STACK.match(name)
        if match:
            stacks[match.group(1)][int(match.group(2))].add(name)
    return {
        name
        for layers in stacks.values()
        if len(layers) >= _STACK_WITH_ENDS
        for end in (min(layers), max(layers))
        for name in layers[end]
    }


def _is_grouped(name: str, weights: Mapping[str, tuple[int, int]]) -> bool:
    """Whether *name* makes keys or values for more than one head of queries each."""
    queries = weights.get(_GROUPED_HEADS.sub(r"\1q_proj.weight", name), (0, 0))
    return _GROUPED_HEADS.search(name) is not None and weights[name][0] < queries[0]


def scheme_for(kind: Kind, rows: int, columns: int, *, trellis: bool = True) -> Scheme:
    """*kind* for an [N, K] weight; int8 in place of an int4 that the kernels do not take."""
    if kind == "fp8":
        return FP8
    if kind == "int8":
        return INT8
    groups = [group for group in _INT4_GROUPS if columns % group == 0]
    if rows % _INT4_ROWS or not groups:
        return INT8
    whole = TRELLIS if trellis else INT4
    return whole if groups[0] == whole.group else Scheme(whole.kind, groups[0])


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
