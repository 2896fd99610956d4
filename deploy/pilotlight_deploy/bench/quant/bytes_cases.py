"""How many bytes are left: of files that were written, and of a 7B shape by the plan."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import nn
from transformers import AutoModelForCausalLM, MptConfig

from pilotlight_deploy.bench.load.models import BenchModel
from pilotlight_deploy.bench.report import Figure, figure
from pilotlight_loader.bake import planned_entries
from pilotlight_loader.quantize.matrix import Kind
from pilotlight_loader.quantize.plan import data_bytes, plan_quantized
from pilotlight_loader.quantize.rule import plan_schemes
from pilotlight_platform.engine.quantizing import quantizable_weights, takes_trellis

_GOALS = {"int8": 0.56, "int4": 0.36}
_GOALS_7B = {"int8": 0.52, "int4": 0.30}
_SEVEN_B = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432}


def bytes_figures(models: dict[str, BenchModel]) -> tuple[list[Figure], list[dict[str, Any]]]:
    """*models*: the same one as `bf16` and in each kind."""
    figures, cases = [], []
    sizes = {kind: model.path.stat().st_size for kind, model in models.items()}
    for kind, goal in _GOALS.items():
        name = f"quant.{kind}.bytes_ratio"
        figures.append(figure(name, [sizes[kind] / sizes["bf16"]], "x", goal=goal))
    cases.append({"case": "bytes", "nbytes": sizes})
    planned = planned_bytes(mpt(**_SEVEN_B))
    for kind, goal in _GOALS_7B.items():
        name = f"quant.{kind}.bytes_ratio_7b"
        figures.append(figure(name, [planned[kind] / planned["bf16"]], "x", goal=goal))
    cases.append({"case": "bytes_7b_planned", "nbytes": planned})
    return figures, cases


def planned_bytes(module: nn.Module) -> dict[str, int]:
    """Bytes of *module*, on the meta device, as it is (`bf16`) and in each kind."""
    entries = planned_entries(module, "the plan")
    weights = quantizable_weights(module)
    stored = {entry.name for entry in entries}
    weights = {name: shape for name, shape in weights.items() if name in stored}
    found = {"bf16": data_bytes(entries)}
    for kind in get_args(Kind):
        trellis = takes_trellis(kind, {e.dtype for e in entries if e.name in weights})
        schemes = plan_schemes(module, kind, weights, trellis=trellis)
        found[kind] = plan_quantized(entries, schemes, "the plan").nbytes
    return found


def mpt(**shape: int) -> nn.Module:
    """An MPT of this shape in bfloat16, without weights."""
    with torch.device("meta"):
        module: nn.Module = AutoModelForCausalLM.from_config(
            MptConfig(**shape), dtype=torch.bfloat16
        )
    return module
