"""The tensors of a checkpoint, checked against what a format says of them, read one by one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pilotlight_loader.dtypes import torch_dtype, torch_shape
from pilotlight_loader.errors import QuantizedFormatError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.pipeline.readable import ReadableCheckpoint
from pilotlight_loader.sources.small_read import read_range

FLOATS = ("F16", "BF16", "F32")  # what scales are stored in
_NAN_E4M3 = 0x7F  # without the sign; e4m3fn has one NaN and no infinity


class SourceTensors:
    """Reads single tensors; holds none of them."""

    def __init__(self, checkpoint: ReadableCheckpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def location(self) -> str:
        """For messages."""
        return self._checkpoint.location

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """By name, in file order."""
        return self._checkpoint.tensors

    def problem(self, name: str, reason: str) -> QuantizedFormatError:
        """The error to raise about the tensor *name*."""
        return QuantizedFormatError(self.location, f"{name!r}: {reason}")

    def info(
        self, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...], dims: int | None = None
    ) -> TensorInfo:
        """The header of *name*, of one of *dtypes* and, where any is given, of one of *shapes*.

        Raises QuantizedFormatError, also where it is missing or has no element.
        """
        info = self.infos.get(name)
        if info is None:
            raise self.problem(name, "is missing, its weight is quantized")
        if info.dtype not in dtypes:
            raise self.problem(name, f"is {info.dtype}, must be {' or '.join(dtypes)}")
        if shapes and info.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise self.problem(name, f"is {list(info.shape)}, must be {wanted}")
        if dims is not None and len(info.shape) != dims:
            raise self.problem(name, f"is {list(info.shape)}, must have {dims} dimensions")
        if not info.nbytes:
            raise self.problem(name, f"is {list(info.shape)}: it is empty")
        return info

    def read(self, name: str) -> torch.Tensor:
        """All of *name*, in its own memory. Raises SourceReadErrors and UnsupportedDtypeError."""
        info = self.infos[name]
        dtype = torch_dtype(info.dtype, name, self.location)
        shape = torch_shape(info.dtype, info.shape, name, self.location)
        if not info.nbytes:
            return torch.empty(shape, dtype=dtype)
        source = self._checkpoint.source(self._checkpoint.file_of(name))
        raw = read_range(source, info.start, info.nbytes)
        return torch.frombuffer(raw, dtype=torch.uint8).view(dtype).view(shape)

    def read_finite(self, name: str) -> torch.Tensor:
        """*name* in float32. Raises QuantizedFormatError where it has a NaN or infinity."""
        values = self.read(name)
        if values.dtype == torch.float8_e4m3fn:
            is_finite = not bool((values.view(torch.uint8) & _NAN_E4M3 == _NAN_E4M3).any())
        else:
            is_finite = bool(torch.isfinite(values.float()).all())
        if not is_finite:
            raise self.problem(name, "has values that are NaN or infinite")
        return values.float()
