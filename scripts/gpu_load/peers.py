"""Other loaders, each as its own documentation shows it, to a module that can run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from gpu_load.bench import Bench, answer, skeleton, synchronize

HAS_ACCELERATE = find_spec("accelerate") is not None

Peer = Callable[[Bench, nn.Module, ExitStack], nn.Module]  # the stack ends after the answer


def with_load_file(bench: Bench, module: nn.Module, _held: ExitStack) -> nn.Module:
    return assigned(module, load_file(bench.path, device=str(bench.torch_device)))


def with_transformers(bench: Bench, _module: nn.Module, _held: ExitStack) -> nn.Module:
    """It builds a module of its own, which counts; device_map needs accelerate."""
    asked = {"device_map": str(bench.torch_device)} if HAS_ACCELERATE else {}
    found = AutoModelForCausalLM.from_pretrained(bench.directory, dtype=torch.bfloat16, **asked)
    return (found if HAS_ACCELERATE else found.to(bench.torch_device)).eval()


def with_fastsafetensors(bench: Bench, module: nn.Module, held: ExitStack) -> nn.Module:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup  # noqa: PLC0415  # optional

    loader = SafeTensorsFileLoader(SingleGroup(), bench.torch_device, nogds=True)
    held.callback(loader.close)
    loader.add_filenames({0: [str(bench.path)]})
    files = loader.copy_files_to_device()
    held.callback(files.close)
    return assigned(module, {name: files.get_tensor(name) for name in bench.baked.tensors})


def with_instanttensor(bench: Bench, module: nn.Module, _held: ExitStack) -> nn.Module:
    from instanttensor import safe_open  # noqa: PLC0415  # optional

    with safe_open([str(bench.path)], framework="pt", device=bench.torch_device.index or 0) as file:
        return assigned(module, {name: tensor.clone() for name, tensor in file.tensors()})


def with_runai(bench: Bench, module: nn.Module, _held: ExitStack) -> nn.Module:
    from runai_model_streamer import SafetensorsStreamer  # noqa: PLC0415  # optional

    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(bench.path)], device=str(bench.torch_device))
        found = {name: tensor.to(bench.torch_device) for name, tensor in streamer.get_tensors()}
        return assigned(module, found)


def assigned(module: Any, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Put *tensors* in without a copy; the file's pads are no weights, and lm_head is tied."""
    module.load_state_dict(tensors, strict=False, assign=True)
    module.tie_weights()
    return module


def time_peer(bench: Bench, name: str, peer: Peer) -> dict[str, float]:
    """Seconds by figure: the forward pass begins when the last byte is there."""
    module: nn.Module = skeleton(bench.config)
    with ExitStack() as held:
        start_s = time.perf_counter()
        module = peer(bench, module, held)
        synchronize(bench)
        loaded_s = time.perf_counter()
        bench.tokens[name] = answer(bench, module)
        end_s = time.perf_counter()
        del module  # before what holds its memory
    return {f"gpu.{name}_last_byte_s": loaded_s - start_s, f"gpu.{name}_ttft_s": end_s - start_s}


BUILT_IN: dict[str, Peer] = {"load_file": with_load_file, "transformers": with_transformers}
OPTIONAL: dict[str, Peer] = {
    "fastsafetensors": with_fastsafetensors,
    "instanttensor": with_instanttensor,
    "runai_model_streamer": with_runai,
}


def installed() -> dict[str, Peer]:
    """By the name of its figures, which is that of its package."""
    return BUILT_IN | {name: p for name, p in OPTIONAL.items() if find_spec(name) is not None}
