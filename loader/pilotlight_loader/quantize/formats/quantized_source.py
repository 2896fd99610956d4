"""A checkpoint that others quantized, as the weights that a module has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from pilotlight_loader.errors import QuantizedFormatError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.pipeline.readable import ReadableCheckpoint
from pilotlight_loader.quantize.formats.config import read_config
from pilotlight_loader.quantize.formats.format import Format, StoredWeight
from pilotlight_loader.quantize.formats.recognize import recognize
from pilotlight_loader.quantize.formats.source_tensors import SourceTensors
from pilotlight_loader.quantize.matrix import Matrix

# Raise it where the same checkpoint is read as other weights.
READERS_VERSION = 1


def open_quantized(directory: Path, checkpoint: ReadableCheckpoint) -> QuantizedSource | None:
    """The weights of *checkpoint*, as the config in *directory* says; None if it says nothing.

    Raises QuantizedFormatError for a kind that is not read, or a tensor that is broken.
    """
    config = read_config(directory)
    if config is None:
        return None
    return QuantizedSource(checkpoint, recognize(config, str(directory)))


class QuantizedSource:
    """Planned once from headers; each weight is read when it is asked for, and none is kept."""

    def __init__(self, checkpoint: ReadableCheckpoint, quantized_as: Format) -> None:
        """Raises QuantizedFormatError that names the tensor; also where nothing is quantized."""
        self._tensors = SourceTensors(checkpoint)
        self._format = quantized_as
        self.weights: Mapping[str, StoredWeight] = quantized_as.plan(self._tensors)
        if not self.weights:
            raise QuantizedFormatError(
                checkpoint.location, f"no tensor is quantized, its config says {quantized_as.name}"
            )
        made_of = {part: w.name for w in self.weights.values() for part in w.parts.values()}
        self.plain = tuple(name for name in checkpoint.tensors if name not in made_of)
        # In file order; a weight stands where the first of its parts does.
        self.names = tuple(dict.fromkeys(made_of.get(name, name) for name in checkpoint.tensors))
        for name in self.plain:
            if name in self.weights:
                raise self._tensors.problem(name, "stands there both quantized and not")

    @property
    def name(self) -> str:
        """How it is quantized, for messages."""
        return self._format.name

    @property
    def method(self) -> str:
        """What quantized it, without the bits: ``gptq``."""
        return self._format.name.partition(",")[0]

    @property
    def location(self) -> str:
        """For messages."""
        return self._tensors.location

    def info(self, name: str) -> TensorInfo:
        """The header of a plain tensor."""
        return self._tensors.infos[name]

    def matrix(self, name: str) -> Matrix | None:
        """A quantized weight with the codes of the source; None where no grid of ours has them."""
        weight = self.weights[name]
        if weight.scheme is None:
            return None
        read = self._format.read(weight, self._tensors)
        return None if isinstance(read, torch.Tensor) else read

    def dense(self, name: str) -> torch.Tensor:
        """A quantized weight [N, K] in float32, or a plain tensor as it is."""
        if name not in self.weights:
            return self._tensors.read(name)
        read = self._format.read(self.weights[name], self._tensors)
        return read if isinstance(read, torch.Tensor) else read.dequantize()
