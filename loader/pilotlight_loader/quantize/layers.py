"""Layers whose weight is quantized; they stand where the plain ones stood."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from pilotlight_loader import wide_product
from pilotlight_loader.kernels import chosen
from pilotlight_loader.quantize import cuda_products, products, tile_layout, trellis_product
from pilotlight_loader.quantize.stored import (
    CODES_SUFFIX,
    HALVES,
    SCALES_SUFFIX,
    Device,
    StoredMatrix,
)

_CODES, _SCALES = "weight" + CODES_SUFFIX, "weight" + SCALES_SUFFIX
_TORCH_DTYPES = {"I8": torch.int8, "U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn}


class QuantizedLinear(nn.Linear):
    """nn.Linear, with buffers `weight_codes` and `weight_scales` in place of `weight`."""

    stored: StoredMatrix
    weight_codes: torch.Tensor
    weight_scales: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # nn.Linear's name
        if input.is_meta:  # a rehearsal without arithmetic
            return input.new_empty(*input.shape[:-1], self.out_features)
        if input.shape[-1] != self.in_features:  # a kernel would read beyond its end
            raise ValueError(f"the input has {input.shape[-1]} columns, not {self.in_features}")
        x = input.contiguous()
        # Not as attributes, which nn.Module looks for in three places: 10 µs a call, not 13.
        buffers, bias = self._buffers, self._parameters["bias"]
        codes, scales = buffers[_CODES], buffers[_SCALES]
        assert codes is not None
        assert scales is not None
        kind, block = self.stored.scheme.kind, self.stored.block
        if x.is_cuda or block == tile_layout.BLOCK:
            flat = x.view(-1, x.shape[-1])
            if kind == "trellis":
                product = trellis_product.linear(flat, codes, scales)
            elif kind == "int4":
                product = cuda_products.int4_linear(flat, codes, scales, block)
            else:
                product = cuda_products.byte_linear(flat, codes, scales)
            product = product.view(*x.shape[:-1], self.out_features)
        elif kind == "int8":
            product = products.int8_linear(x, codes, scales)
        elif kind == "int4":
            product = products.int4_linear(x, codes, scales, block)
        elif kind == "trellis":
            product = products.trellis_linear(x, codes, scales)
        else:
            product = products.fp8_linear(x, codes, scales)
        if bias is not None:
            product += bias
        return product


class QuantizedEmbedding(nn.Embedding):
    """nn.Embedding for 8-bit rows of one scale each; looks up and scales what was asked for."""

    stored: StoredMatrix
    weight_codes: torch.Tensor
    weight_scales: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # nn.Embedding's name
        codes = functional.embedding(input, self.weight_codes.view(torch.int8))
        scales = self.weight_scales[input][..., None]
        return codes.view(self.weight_codes.dtype).to(scales.dtype) * scales


def accept_quantized(
    module: nn.Module,
    matrices: Mapping[str, StoredMatrix],
    dtypes: Mapping[str, torch.dtype],
    device: Device = "cpu",
) -> None:
    """Let the layers that own these weights take their codes; they stay the same objects.

    Compiles the kernels that they multiply with if *device*, where the weights will be, is a CPU:
    before a request, not by one. *dtypes*: of the scales. A tied weight is named by each of its
    layers. Raises ValueError for the weight of anything but a plain nn.Linear or nn.Embedding, or
    one of another shape.
    """
    layers = {name: _layer(module, name, matrix) for name, matrix in matrices.items()}
    if device == "cpu":
        for kind, block in {(matrix.scheme.kind, matrix.block) for matrix in matrices.values()}:
            if block != tile_layout.BLOCK:  # that of CUDA's kernel: torch multiplies it on a CPU
                chosen.prepare(kind, block)
                if kind == "fp8":  # many rows are multiplied as bf16
                    wide_product.prepare()
    weights = {name: layer.weight for name, layer in layers.items()}  # kept: ids are used below
    shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # so that ties stay ties
    for name, layer in layers.items():
        matrix = matrices[name]
        codes, scales = shared.setdefault(id(weights[name]), _meta(matrix, dtypes[name]))
        del layer._parameters["weight"]
        layer.stored = matrix  # type: ignore[assignment]
        is_linear = isinstance(layer, nn.Linear)
        layer.__class__ = QuantizedLinear if is_linear else QuantizedEmbedding
        layer.register_buffer(_CODES, codes)
        layer.register_buffer(_SCALES, scales)


def _layer(module: nn.Module, name: str, matrix: StoredMatrix) -> nn.Linear | nn.Embedding:
    owner, _, key = name.rpartition(".")
    layer = module.get_submodule(owner)
    if type(layer) not in (nn.Linear, nn.Embedding) or key != "weight":
        raise ValueError(f"{name!r} is not the weight of a plain nn.Linear or nn.Embedding")
    assert isinstance(layer, nn.Linear | nn.Embedding)
    if type(layer) is nn.Embedding and matrix.scheme.kind in HALVES:
        raise ValueError(f"{name!r}: an embedding of 4 bits cannot be looked up")
    if tuple(layer.weight.shape) != matrix.shape:
        raise ValueError(f"{name!r} is {list(layer.weight.shape)}, not {list(matrix.shape)}")
    return layer


def _meta(matrix: StoredMatrix, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.empty(matrix.codes_shape, dtype=_TORCH_DTYPES[matrix.code_dtype], device="meta")
    return codes, torch.empty(matrix.scales_shape, dtype=dtype, device="meta")
