"""The model, its checkpoint on every tier, and the device: what all cases share."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import copyfile, disk_usage
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, MptConfig

from pilotlight_loader import (
    Arena,
    BakedCheckpoint,
    CpuDevice,
    SimulatedDevice,
    bake,
    fill_from_file,
    record_execution_order,
)
from pilotlight_loader.devices.cuda import CudaDevice
from pilotlight_loader.devices.device import Device

# Width, layers, heads, vocabulary: 6.65e9 parameters, 13.3 GB; and a model of seconds.
SHAPES = {"7b": (4096, 32, 32, 50432), "tiny": (64, 2, 4, 128)}
PROMPT_TOKENS = 16
KEY = "gpu-load"  # in the arena


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cases share."""

    config: MptConfig
    device: Device
    torch_device: torch.device
    prompt: torch.Tensor  # [1, tokens]
    directory: Path  # config.json and model.safetensors, on disk
    memory: Path  # the same file on tmpfs
    baked: BakedCheckpoint
    arena: Arena
    module: Callable[[], Any]  # as a worker has it: no weights
    tokens: dict[str, int] = field(default_factory=dict)  # what each case answered

    @property
    def path(self) -> Path:
        return self.baked.path

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.baked.tensors.values())


@contextmanager
def set_up(asked: argparse.Namespace) -> Iterator[Bench]:
    """Write the checkpoint to every tier; all of it is removed at the end."""
    with ExitStack() as stack:
        made = tempfile.TemporaryDirectory
        directory = Path(stack.enter_context(made(prefix="gpu-load-", dir=asked.directory)))
        memory = Path(stack.enter_context(made(prefix="gpu-load-", dir=asked.memory)))
        config = mpt(*SHAPES[asked.shape])
        check_room(config, memory)
        torch_device = torch.device("cuda:0" if asked.device == "cuda" else "cpu")
        note("writing the checkpoint")
        baked = write_checkpoint(config, directory, torch_device)
        copyfile(baked.path, memory / baked.path.name)
        note("filling and registering the arena")
        arena = stack.enter_context(Arena.create(memory / "arena", baked.nbytes))
        fill_from_file(arena, KEY, baked.path).close()
        device = make_device(asked.device)
        stack.callback(device.close)
        device.register(arena.pieces())
        prompt = some_prompt(torch_device)
        module = partial(skeleton, config)
        yield Bench(config, device, torch_device, prompt, directory, memory, baked, arena, module)


def check_room(config: MptConfig, memory: Path) -> None:
    """Before anything is written: the arena and a file stand in *memory* beside each other."""
    stored = {id(parameter): parameter.numel() for parameter in skeleton(config).parameters()}
    needed, free = 2 * 2 * sum(stored.values()), disk_usage(memory).free
    if free < needed:
        raise SystemExit(f"{memory.parent}: {free} bytes are free, {needed} needed: --memory")


def write_checkpoint(config: MptConfig, directory: Path, device: torch.device) -> BakedCheckpoint:
    """Random weights, baked in execution order."""
    module = skeleton(config).to_empty(device="cpu")
    module.tie_weights()
    torch.manual_seed(0)
    for parameter in module.parameters():  # made on the GPU: the CPU would take a minute
        noise = torch.randn(parameter.shape, dtype=parameter.dtype, device=device)
        parameter.data.copy_(noise.mul_(0.02))
    order = execution_order(config)
    config.save_pretrained(directory)
    path = directory / "model.safetensors"
    return bake(module, path, order=order, metadata={})


def execution_order(config: MptConfig) -> list[str]:
    """That of a narrow model of as many layers."""
    narrow = AutoModelForCausalLM.from_config(mpt(64, config.n_layers, 4, 128)).eval()
    return list(record_execution_order(narrow, lambda: narrow(torch.tensor([[1, 2]]))))


def mpt(width: int, layers: int, heads: int, vocabulary: int) -> MptConfig:
    return MptConfig(
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        vocab_size=vocabulary,
        expansion_ratio=4,
        no_bias=True,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def skeleton(config: MptConfig) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def make_device(kind: str) -> Device:
    if kind == "cuda":
        return CudaDevice(0)
    if kind == "cpu":
        return CpuDevice()
    device = SimulatedDevice()
    device.run()
    return device


def some_prompt(device: torch.device) -> torch.Tensor:
    return torch.arange(1, PROMPT_TOKENS + 1, device=device).view(1, -1)


def answer(bench: Bench, module: nn.Module) -> int:
    with torch.no_grad():
        return int(module(bench.prompt, use_cache=False).logits[0, -1].argmax().item())


def synchronize(bench: Bench) -> None:
    if bench.torch_device.type == "cuda":
        torch.cuda.synchronize(bench.torch_device)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
