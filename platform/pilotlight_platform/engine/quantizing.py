"""Quantized weights in a baked directory: written at deploy, taken by a worker's skeleton."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from pilotlight_loader import BakedCheckpoint, CheckpointError
from pilotlight_loader.baked_writer import Progress
from pilotlight_loader.dtypes import torch_dtype
from pilotlight_loader.kernels import chosen
from pilotlight_loader.module_tensors import module_tensors
from pilotlight_loader.quantize import device_layout
from pilotlight_loader.quantize.convert import quantize_baked
from pilotlight_loader.quantize.formats.quantized_source import QuantizedSource
from pilotlight_loader.quantize.formats.source_codes import SourceCodes, kept_schemes
from pilotlight_loader.quantize.layers import accept_quantized
from pilotlight_loader.quantize.matrix import Kind, Scheme
from pilotlight_loader.quantize.rounding import Rounding
from pilotlight_loader.quantize.rule import outer_layers, plan_schemes
from pilotlight_loader.quantize.stored import CODES_SUFFIX, SCALES_SUFFIX, Device
from pilotlight_platform.engine.scratch import in_scratch
from pilotlight_platform.engine.weight_readers import directly_read

# Raise it where the same source and wishes give other codes.
QUANTIZATION_VERSION = 7
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, slots=True)
class Quantizing:
    """What a deploy asks for."""

    kind: Kind
    skip: tuple[str, ...] = ()
    uniform: bool = False  # no more bits for the layers that need them most
    rounding: Literal["auto", "nearest", "gptq"] = "auto"  # auto: gptq where that is possible
    text: str | None = None  # to calibrate with; None: what the model says itself, if it is small

    def shaping(self) -> list[str | list[str] | bool | None]:
        """All that makes the bytes of a bake what they are."""
        digest = None if self.text is None else hashlib.sha256(self.text.encode()).hexdigest()
        return [self.kind, list(self.skip), self.uniform, self.rounding, digest]


def write_quantized(
    module: nn.Module,
    baked: BakedCheckpoint,
    quantizing: Quantizing | None,
    rounding: Rounding,
    progress: Progress,
    source: QuantizedSource | None = None,
    device: Device = "cpu",
) -> BakedCheckpoint:
    """Put a quantized file in the place of *baked*, which *module* was baked to.

    Codes stand as *device* multiplies with them. What *source* has in codes of the kind that is
    wished for keeps them; without a wish only such weights are quantized, and *baked* is returned
    as it is where there is none. Raises LoaderError: QuantizationError where a weight cannot be.
    """
    schemes, kept = schemes_of(module, baked, quantizing, source, device)
    if not schemes:
        if quantizing is None:
            return baked
        raise CheckpointError(baked.path, "no weight is left to quantize: skip fewer")
    if source is not None:
        rounding = SourceCodes(source, kept, rounding)
    part = baked.path.with_name(f"quantized.{baked.path.name}")
    try:
        quantize_baked(baked, part, schemes, rounding, device=device, progress=progress)
        part.replace(baked.path)
    finally:
        part.unlink(missing_ok=True)
    return BakedCheckpoint.open(baked.path)


def schemes_of(
    module: nn.Module,
    baked: BakedCheckpoint,
    quantizing: Quantizing | None,
    source: QuantizedSource | None,
    device: Device = "cpu",
) -> tuple[dict[str, Scheme], dict[str, Scheme]]:
    """How write_quantized() quantizes each weight; and those of them that keep *source*'s codes."""
    weights = {
        name: shape for name, shape in quantizable_weights(module).items() if name in baked.tensors
    }
    kept = {} if source is None else _kept(module, weights, source)
    if quantizing is None:
        return kept, kept
    kind, skip = quantizing.kind, quantizing.skip
    trellis = takes_trellis(kind, {baked.tensors[name].dtype for name in weights}, device)
    schemes = plan_schemes(module, kind, weights, skip, uniform=quantizing.uniform, trellis=trellis)
    # What is rounded already gains nothing from more bits.
    uniform = plan_schemes(module, kind, weights, skip, uniform=True)
    kept = {
        name: scheme
        for name, scheme in kept.items()
        if schemes.get(name) == scheme or (name in uniform and scheme.kind == kind)
    }
    return schemes | kept, kept


def takes_trellis(kind: Kind, dtypes: Collection[str], device: Device = "cpu") -> bool:
    """Whether *kind* is a trellis for weights of these *dtypes*, as safetensors spells them.

    Only with compiled kernels, which are for bfloat16: others dequantize a trellis for each
    product, where equal steps have a kernel of torch's.
    """
    if kind != "int4" or device != "cpu" or set(dtypes) != {"BF16"}:
        return False
    return chosen.trellis_product() is not None


def _kept(
    module: nn.Module, weights: Mapping[str, tuple[int, int]], source: QuantizedSource
) -> dict[str, Scheme]:
    """Weights of linear layers inside of *module* that *source* has in codes of ours."""
    outer = outer_layers(module)  # an embedding of 4 bits cannot be looked up
    inner = [
        name
        for name, shape in weights.items()
        if name.removesuffix(".weight") not in outer
        and name in source.weights
        and source.weights[name].shape == shape
    ]
    return kept_schemes(source, inner)


def quantization_name(
    module: nn.Module,
    baked: BakedCheckpoint,
    quantizing: Quantizing | None,
    source: QuantizedSource | None,
) -> str:
    """What write_quantized() made of *baked*: ``none``, ``int8``, or ``int4 (gptq)`` where codes
    are those of the source. Of several kinds that which most elements have."""
    kinds: Counter[str] = Counter()
    for stored in baked.quantized.values():
        kinds[stored.scheme.kind] += math.prod(stored.shape)
    if not kinds:
        return "none"
    kind = kinds.most_common(1)[0][0] if quantizing is None else quantizing.kind
    if source is None:
        return kind
    kept = _kept(module, {name: stored.shape for name, stored in baked.quantized.items()}, source)
    if not any(s.kind == kind and baked.quantized[n].scheme == s for n, s in kept.items()):
        return kind
    return kind if source.method == kind else f"{kind} ({source.method})"


def restore_quantized(module: nn.Module, baked: BakedCheckpoint) -> None:
    """Give *module*, which has all its weights, those that the codes in *baked* stand for.

    They are many times the codes, and only compared with: they stay on the disk. Raises
    DiskFullError.
    """
    with baked.map() as mapped:
        tensors = mapped.tensors()

        def dequantized() -> Iterator[tuple[str, torch.Tensor]]:
            for name, stored in baked.quantized.items():
                codes, scales = tensors[name + CODES_SUFFIX], tensors[name + SCALES_SUFFIX]
                matrix = device_layout.matrix(stored, codes, scales)
                yield name, matrix.dequantize(module.get_parameter(name).dtype)

        for name, weight in in_scratch(dequantized(), baked.path.parent):
            module.get_parameter(name).data = weight  # tied layers share it, and see its new data


def take_quantized(module: nn.Module, baked: BakedCheckpoint) -> None:
    """Make *module*, without weights, take those of *baked*. Raises ValueError if it cannot."""
    named = dict(baked.quantized)
    for alias, name in baked.ties.items():
        weight = name.removesuffix(CODES_SUFFIX)
        if name != weight and weight in baked.quantized:
            named[alias.removesuffix(CODES_SUFFIX)] = baked.quantized[weight]
    dtypes = {name: _scale_dtype(baked, name) for name in named}
    accept_quantized(module, named, dtypes)


def quantizable_weights(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Shapes of matrices that only plain linear layers and embeddings read, by all their names."""
    read = directly_read(module)
    users: dict[int, list[Any]] = defaultdict(list)
    for entry in module_tensors(module):
        users[id(entry.tensor)].append(entry)
    found: dict[str, tuple[int, int]] = {}
    for entries in users.values():
        tensor = entries[0].tensor
        if tensor.dim() != 2 or tensor.dtype not in _FLOATS or not tensor.numel():
            continue
        if all(
            type(entry.module) in (nn.Linear, nn.Embedding)
            and entry.key == "weight"
            and read.isdisjoint(entry.name.split(".")[:-1])
            for entry in entries
        ):
            found |= {entry.name: (tensor.shape[0], tensor.shape[1]) for entry in entries}
    return found


def _scale_dtype(baked: BakedCheckpoint, name: str) -> torch.dtype:
    scales = name + SCALES_SUFFIX
    info = baked.tensors[baked.ties.get(scales, scales)]
    return torch_dtype(info.dtype, info.name, baked.path)
