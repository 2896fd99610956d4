"""What a model's baked weights will weigh, from config and headers alone: no weight is read."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from pilotlight_loader import (
    AccessDeniedError,
    Checkpoint,
    LoaderError,
    ObjectMissingError,
    open_checkpoint,
)
from pilotlight_loader.bake import planned_entries
from pilotlight_loader.baked_writer import Entry
from pilotlight_loader.dtypes import torch_dtype
from pilotlight_loader.quantize.plan import data_bytes, plan_quantized
from pilotlight_loader.quantize.rule import plan_schemes
from pilotlight_loader.sources.location import parse_location
from pilotlight_loader.sources.small_read import read_range
from pilotlight_loader.sparse.pattern import COLUMNS_PER_BYTE
from pilotlight_loader.sparse.stored import indices_shape, values_shape
from pilotlight_platform.engine.checked_source import read_config
from pilotlight_platform.engine.quantizing import quantizable_weights, takes_trellis
from pilotlight_platform.errors import SourceError
from pilotlight_platform.schemas.model import ModelSpec, Quantization

_CONFIG_FILES = ("config.json", "tokenizer_config.json")
_MAX_CONFIG_BYTES = 8 << 20
_QUANTIZED_KEYS = ("quantization_config", "compression_config")


@dataclass(frozen=True, slots=True)
class PlannedWeights:
    """Bytes of a model that is not baked yet."""

    plain_nbytes: int  # without quantization
    nbytes: dict[Quantization, int]  # baked, by quantization; "none" as the file has it
    source_nbytes: int  # of the source's weight files
    layers: int
    estimated: bool  # nbytes depends on values that were not read, or on codes that are kept


def plan_weights(spec: ModelSpec, kinds: tuple[Quantization, ...]) -> PlannedWeights:
    """What the source of *spec* comes to in each of *kinds*; reads headers and configs only.

    Raises SourceError where it cannot be served, LoaderErrors where it cannot be opened.
    """
    with open_checkpoint(spec.source) as checkpoint, _configs(spec.source, checkpoint) as folder:
        config = read_config(folder, checkpoint)
        is_quantized = any(getattr(config, key, None) is not None for key in _QUANTIZED_KEYS)
        module = _on_meta(config, _dtype(spec, config, checkpoint), spec.source)
        entries = planned_entries(module, spec.source)
        plain = data_bytes(entries)
        found: dict[Quantization, int] = {}
        for kind in kinds:
            if kind == "none" and is_quantized:
                found[kind] = min(plain, checkpoint.nbytes)
            elif kind == "none" and spec.sparsity != "none":
                found[kind] = plain - _saved_by_sparsity(module, entries)
            else:
                found[kind] = _quantized(module, entries, kind, spec)
        return PlannedWeights(
            plain_nbytes=plain,
            nbytes=found,
            source_nbytes=sum(checkpoint.source(name).version.nbytes for name in checkpoint.files),
            layers=_layers(config),
            estimated=is_quantized or spec.sparsity != "none",
        )


@contextlib.contextmanager
def _configs(source: str, checkpoint: Checkpoint) -> Iterator[Path]:
    """A directory with the config of *checkpoint*: its own, or a copy from elsewhere."""
    where = parse_location(source)
    if where.scheme == "file":
        if where.file_name is not None:
            raise SourceError(f"{source}: one file; name the directory, it needs a config.json too")
        yield Path(where.directory)
        return
    with tempfile.TemporaryDirectory(prefix="pilotlight-plan-") as folder:
        for name in _CONFIG_FILES:
            # S3 says 403 of a missing key to who may not list the bucket.
            with contextlib.suppress(ObjectMissingError, AccessDeniedError):
                (Path(folder) / name).write_bytes(_small(checkpoint, name))
        try:
            yield Path(folder)
        except SourceError as error:
            raise SourceError(error.message.replace(folder, str(where))) from error


def _small(checkpoint: Checkpoint, name: str) -> bytes:
    source = checkpoint.source(name)
    nbytes = source.version.nbytes
    if nbytes > _MAX_CONFIG_BYTES:
        raise SourceError(f"{source.location}: has more than {_MAX_CONFIG_BYTES} bytes")
    return bytes(read_range(source, 0, nbytes))


def _dtype(spec: ModelSpec, config: Any, checkpoint: Checkpoint) -> torch.dtype:
    """As a deploy would choose it: what is asked for, the config's, the checkpoint's."""
    if spec.dtype != "auto":
        found: torch.dtype = getattr(torch, spec.dtype)
        return found
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    for tensor in checkpoint.tensors.values():
        with contextlib.suppress(LoaderError):
            dtype = torch_dtype(tensor.dtype, tensor.name, checkpoint.location)
            if dtype in (torch.float32, torch.bfloat16, torch.float16):
                return dtype
    return torch.float32


def _on_meta(config: Any, dtype: torch.dtype, source: str) -> nn.Module:
    for key in _QUANTIZED_KEYS:
        if hasattr(config, key):
            delattr(config, key)
    try:
        with torch.device("meta"):
            module: nn.Module = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=False
            )
    except Exception as error:  # transformers raises all kinds
        raise SourceError(f"{source}: {type(error).__name__}: {error}") from error
    return module


def _quantized(module: nn.Module, entries: list[Entry], kind: Quantization, spec: ModelSpec) -> int:
    if kind == "none":
        return data_bytes(entries)
    stored = {entry.name for entry in entries}
    weights = {n: shape for n, shape in quantizable_weights(module).items() if n in stored}
    schemes = plan_schemes(
        module,
        kind,
        weights,
        spec.quantization_skip,
        uniform=spec.quantization_uniform,
        trellis=takes_trellis(kind, {e.dtype for e in entries if e.name in weights}),
    )
    try:
        return plan_quantized(entries, schemes, spec.source).nbytes
    except LoaderError as error:
        raise SourceError(f"cannot quantize: {error}") from error


def _saved_by_sparsity(module: nn.Module, entries: list[Entry]) -> int:
    """If every linear weight of 16 bits follows the pattern: whether it does, only values tell."""
    stored = {entry.name: entry for entry in entries}
    saved = 0
    for name, shape in quantizable_weights(module).items():
        entry = stored.get(name)
        if entry is None or entry.dtype not in ("BF16", "F16") or shape[1] % COLUMNS_PER_BYTE:
            continue
        if isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Linear):
            kept = 2 * math.prod(values_shape(shape)) + math.prod(indices_shape(shape))
            saved += entry.nbytes - kept
    return saved


def _layers(config: Any) -> int:
    number = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 1)
    return number if isinstance(number, int) and number > 0 else 1
