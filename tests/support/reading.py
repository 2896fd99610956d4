"""Bytes to read, and reading them through a source."""

import json
import random
from contextlib import ExitStack, closing

import torch
from safetensors.torch import save

from pilotlight_loader.sources.source import ByteSource, Reader

DATA = random.Random(0).randbytes(300_000)


def reader_of(source: ByteSource, owned: ExitStack) -> Reader:
    return owned.enter_context(closing(source.reader()))


def read_with(reader: Reader, start: int, nbytes: int) -> bytes:
    into = bytearray(nbytes)
    reader.read_into(start, memoryview(into))
    return bytes(into)


def read(source: ByteSource, start: int, nbytes: int) -> bytes:
    """With a reader of its own."""
    with closing(source.reader()) as reader:
        return read_with(reader, start, nbytes)


def checkpoint_files() -> dict[str, bytes]:
    """Two shards, their index, a config, and a file that is none of the checkpoint's."""
    index = {
        "metadata": {"total_size": 1},  # wrong on purpose: it often is
        "weight_map": {"a": "one.safetensors", "b": "weights/two.safetensors"},
    }
    return {
        "one.safetensors": save({"a": torch.arange(4.0)}),
        "weights/two.safetensors": save({"b": torch.ones(3)}),
        "consolidated.safetensors": save({"a": torch.zeros(4), "b": torch.zeros(3)}),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": b"{}",
    }
