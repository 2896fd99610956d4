"""Layers that other packages quantized, and checkpoints made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pilotlight_loader import open_checkpoint
from pilotlight_loader.quantize.formats.quantized_source import QuantizedSource
from pilotlight_loader.quantize.formats.recognize import recognize

GOLDEN = Path(__file__).parent.parent / "loader" / "quantize" / "formats" / "golden"
LAYER = "model.layers.0.mlp.up_proj"
WEIGHT = f"{LAYER}.weight"

Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]


def golden_names() -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob("*.safetensors"))


def golden(name: str) -> tuple[Tensors, Config, torch.Tensor]:
    """Of one case: the stored tensors, the config, and the weight as its package reads it."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    expected = tensors.pop("expected")
    return tensors, config, expected


def quantized_source(directory: Path, tensors: Tensors, config: Config) -> QuantizedSource:
    """A checkpoint of these *tensors* and a norm beside them, planned."""
    stored = {"model.norm.weight": torch.ones(4), **tensors}
    save_file({k: v.contiguous() for k, v in stored.items()}, directory / "model.safetensors")
    return QuantizedSource(open_checkpoint(directory), recognize(config, str(directory)))
