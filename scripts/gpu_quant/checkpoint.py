"""A quantized checkpoint of random codes, made on the device, and its place in an arena."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from gpu_load.bench import (
    KEY,
    SHAPES,
    Bench,
    execution_order,
    make_device,
    mpt,
    note,
    skeleton,
    some_prompt,
)
from torch import nn
from transformers import MptConfig

from pilotlight_loader import Arena, BakedCheckpoint, fill_from_file
from pilotlight_loader.bake import planned_entries
from pilotlight_loader.baked_writer import write_baked
from pilotlight_loader.dtypes import torch_dtype
from pilotlight_loader.host_bytes import host_bytes
from pilotlight_loader.manifest import Manifest
from pilotlight_loader.module_tensors import module_tensors
from pilotlight_loader.quantize import cuda_products, tile_layout
from pilotlight_loader.quantize.layers import QuantizedLinear, accept_quantized
from pilotlight_loader.quantize.matrix import FP8_MAX, Kind
from pilotlight_loader.quantize.plan import plan_quantized
from pilotlight_loader.quantize.rule import plan_schemes
from pilotlight_loader.quantize.stored import CODES_SUFFIX, SCALES_SUFFIX, Device, StoredMatrix

KINDS: tuple[Kind, ...] = get_args(Kind)
SPREAD = 0.02  # of the weights that the codes stand for
# What a code of 1 is worth then: codes are uniform, e4m3's are normal with a spread of 64.
SCALES = {"int8": SPREAD / 73, "int4": SPREAD / 4.6, "fp8": SPREAD / 64}


@contextmanager
def set_up(asked: argparse.Namespace, kind: Kind) -> Iterator[Bench]:
    """Write the checkpoint and fill the arena; both are removed at the end."""
    with ExitStack() as stack:
        made = tempfile.TemporaryDirectory
        directory = Path(stack.enter_context(made(prefix="gpu-quant-", dir=asked.directory)))
        memory = Path(stack.enter_context(made(prefix="gpu-quant-", dir=asked.memory)))
        config = mpt(*SHAPES[asked.shape])
        torch_device = torch.device("cuda:0" if asked.device == "cuda" else "cpu")
        note(f"{kind}: writing the checkpoint")
        baked = write_checkpoint(config, kind, directory / "model.safetensors", torch_device)
        note(f"{kind}: filling and registering the arena")
        arena = stack.enter_context(Arena.create(memory / "arena", baked.nbytes))
        fill_from_file(arena, KEY, baked.path).close()
        device = make_device(asked.device)
        stack.callback(device.close)
        device.register(arena.pieces())
        module = partial(quantized_skeleton, config, baked, torch_device)
        rehearse(module(), torch_device)
        yield Bench(
            *(config, device, torch_device, some_prompt(torch_device)),
            *(directory, memory, baked, arena, module),
        )


def write_checkpoint(
    config: MptConfig, kind: Kind, path: Path, device: torch.device
) -> BakedCheckpoint:
    module = skeleton(config)
    ties = tied_names(module)
    order = [name for name in execution_order(config) if name not in ties]
    place = {name: at for at, name in enumerate(order)}
    entries = sorted(
        planned_entries(module, path), key=lambda entry: place.get(entry.name, len(place))
    )
    schemes = plan_schemes(module, kind, matrices(module), trellis=False)
    plan = plan_quantized(entries, schemes, path, "cuda")
    generator = torch.Generator(device).manual_seed(0)
    dtypes = {e.name: torch_dtype(e.dtype, e.name, path) for e in plan.entries}
    shapes = {entry.name: entry.shape for entry in plan.entries}

    def read(name: str) -> memoryview:
        weight = name.removesuffix(CODES_SUFFIX).removesuffix(SCALES_SUFFIX)
        stored = plan.stored.get(weight)
        if stored is None:
            noise = torch.randn(shapes[name], generator=generator, device=device).mul_(SPREAD)
            made = noise + 1 if "norm" in name else noise
        elif name.endswith(CODES_SUFFIX):
            made = random_codes(stored, generator)
        else:
            made = some_scales(stored)
        return host_bytes(made.to(dtypes[name]).cpu())

    stored_ties = {
        alias + end: name + end
        for alias, name in ties.items()
        for end in ((CODES_SUFFIX, SCALES_SUFFIX) if name in plan.stored else ("",))
    }
    write_baked(path, plan.entries, Manifest(stored_ties, (), {}, quantized=plan.stored), read)
    return BakedCheckpoint.open(path)


def random_codes(stored: StoredMatrix, generator: torch.Generator) -> torch.Tensor:
    """Any bytes are codes of 4 bits, in any layout."""
    shape, device = stored.codes_shape, generator.device
    if stored.scheme.kind == "fp8":
        noise = torch.randn(shape, generator=generator, device=device)
        return noise.mul_(64).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    if stored.scheme.kind == "int8":
        return torch.randint(-127, 128, shape, generator=generator, device=device, dtype=torch.int8)
    return torch.randint(0, 256, shape, generator=generator, device=device, dtype=torch.uint8)


def some_scales(stored: StoredMatrix) -> torch.Tensor:
    """On the CPU; of 4 bits with the zero points that make the codes' mean 0."""
    scales = torch.full(stored.scales_shape, SCALES[stored.scheme.kind])
    if stored.scheme.kind == "int4":
        scales[..., 1] /= 2  # codes less 8 are -7.5 … 7.5 then
    return scales.bfloat16()


def matrices(module: nn.Module) -> dict[str, tuple[int, int]]:
    """What a deploy would quantize of MPT: all linear layers and embeddings."""
    return {
        f"{name}.weight": (layer.weight.shape[0], layer.weight.shape[1])
        for name, layer in module.named_modules()
        if type(layer) in (nn.Linear, nn.Embedding)
    }


def tied_names(module: nn.Module) -> dict[str, str]:
    """Alias to the name that is stored."""
    first: dict[int, str] = {}
    names = {entry.name: entry.tensor for entry in module_tensors(module)}
    found = {name: first.setdefault(id(tensor), name) for name, tensor in names.items()}
    return {alias: name for alias, name in found.items() if alias != name}


def quantized_skeleton(config: MptConfig, baked: BakedCheckpoint, device: torch.device) -> Any:
    """As a worker has it ready: no weights, layers that take codes."""
    module = skeleton(config)
    named: dict[str, StoredMatrix] = dict(baked.quantized)
    for alias, name in baked.ties.items():
        weight = name.removesuffix(CODES_SUFFIX)
        if name != weight:
            named[alias.removesuffix(CODES_SUFFIX)] = baked.quantized[weight]
    kernels: Device = "cuda" if device.type == "cuda" else "cpu"
    accept_quantized(module, named, dict.fromkeys(named, torch.bfloat16), kernels)
    return module


def layers_by_matrix(module: nn.Module) -> Mapping[StoredMatrix, QuantizedLinear]:
    """One layer of each scheme and shape."""
    layers = [layer for layer in module.modules() if isinstance(layer, QuantizedLinear)]
    return {layer.stored: layer for layer in reversed(layers)}


def rehearse(module: nn.Module, device: torch.device) -> None:
    """What a worker asks of its GPU before there is a request."""
    for stored in layers_by_matrix(module):
        if device.type != "cuda":
            return
        if stored.block == tile_layout.BLOCK:
            tile_layout.has_kernel(device, stored.shape, stored.scheme.group)
        else:
            dtype = torch.int8 if stored.scheme.kind == "int8" else torch.float8_e4m3fn
            cuda_products.byte_kernel_for(device, dtype, stored.shape)
