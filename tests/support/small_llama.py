"""A random Llama with its baked file; loads of it that are held, and forward passes beside them."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import torch
from support.file_source import FileReader, FileSource, until_aborted
from support.sourced_checkpoint import SourcedCheckpoint
from support.waiting import until
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from pilotlight_loader import bake, record_execution_order
from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.pipeline.options import TransferOptions

PROMPT = torch.arange(3, 19).view(1, -1)
PART = 4096
OPTIONS = TransferOptions(part_bytes=PART, staging_bytes=4 * PART, range_bytes=32768, hedge=None)


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(PROMPT).logits


def is_weightless(module: nn.Module) -> bool:
    return all(t.is_meta for t in itertools.chain(module.parameters(), module.buffers()))


def is_plain(module: nn.Module) -> bool:
    """No gate is left."""
    return all(
        type(vars(owner)[registry]) is dict and not owner._forward_pre_hooks
        for owner in module.modules()
        for registry in ("_parameters", "_buffers")
    )


class SmallLlama:
    """Three layers with random weights, their answer and its baked file."""

    def __init__(self, directory: Path, *, tied: bool) -> None:
        self.config = LlamaConfig(
            vocab_size=128,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=tied,
        )
        torch.manual_seed(0)
        self.model = AutoModelForCausalLM.from_config(self.config, dtype=torch.bfloat16).eval()
        self.logits = answer(self.model)
        self.order = record_execution_order(self.model, lambda: answer(self.model))
        self.path = directory / f"llama-{tied}.safetensors"
        self.baked = bake(self.model, self.path, order=self.order, metadata={})

    def skeleton(self) -> nn.Module:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config, dtype=torch.bfloat16).eval()

    def open(self, **options) -> tuple[SourcedCheckpoint, FileSource]:
        source = FileSource(self.path, **options)
        return SourcedCheckpoint(self.baked, lambda _path: source), source

    def start_of(self, name: str) -> int:
        return self.baked.tensors[name].start


def running() -> SimulatedDevice:
    device = SimulatedDevice()
    device.run()
    return device


class Held:
    """A hook that lets reads below an offset pass, and the others when it is released."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.released = threading.Event()
        self.reached = threading.Event()

    def __call__(self, reader: FileReader, start: int, into: memoryview) -> None:
        if start + len(into) > self.limit:
            self.reached.set()
            until(lambda: self.released.is_set() or reader.aborted.is_set())
            if reader.aborted.is_set():
                until_aborted(reader)


class Forward:
    """One forward pass in a thread of its own; notes the modules whose turn has come."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.logits: torch.Tensor | None = None
        self.error: BaseException | None = None
        self.ran: list[str] = []
        self._hooks = [
            owner.register_forward_hook(lambda _m, _i, _o, name=name: self.ran.append(name))
            for name, owner in module.named_modules()
        ]
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.logits = answer(self.module)
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        for hook in self._hooks:
            hook.remove()
