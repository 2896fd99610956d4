"""Plain FP8, as DeepSeek, FBGEMM and ModelOpt publish it: e4m3 weights with scales beside them.

``w = code * scale``, also where the scale is called ``weight_scale_inv``. Scales are one, one for
each row, or one for each block of 128 x 128 (``weight_block_size``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pilotlight_loader.quantize.formats.config import Config
from pilotlight_loader.quantize.formats.float8 import (
    CODES,
    SCALES,
    block_grid,
    block_scaled,
    row_scaled,
)
from pilotlight_loader.quantize.formats.format import StoredWeight, refuse_left_over
from pilotlight_loader.quantize.formats.source_tensors import SourceTensors
from pilotlight_loader.quantize.matrix import FP8, Matrix

_SCALE_KEYS = ("weight_scale", "weight_scale_inv")
_INPUT_KEYS = ("input_scale", "activation_scale")  # inputs are not quantized when we multiply


class Fp8:
    """Scales by row keep their codes; block-scaled weights are read dense."""

    def __init__(self, config: Config) -> None:
        method = config.text("quant_method")
        if method == "modelopt":
            config.one_of("quant_algo", ("FP8",))
        if method == "fp8":
            config.one_of("fmt", ("e4m3",), "e4m3")
            config.one_of("expert_dtype", ("fp8",), "fp8")
        self._block = block_size(config, "weight_block_size")

    @property
    def name(self) -> str:
        return "fp8" if self._block is None else f"fp8, blocks of {list(self._block)}"

    def plan(self, tensors: SourceTensors) -> Mapping[str, StoredWeight]:
        weights = {
            name: self._weight(name, tensors)
            for name, info in tensors.infos.items()
            if name.rpartition(".")[2] == "weight" and info.dtype in CODES
        }
        refuse_left_over(tensors, weights, frozenset(_SCALE_KEYS))
        return weights

    def _weight(self, name: str, tensors: SourceTensors) -> StoredWeight:
        layer = name.removesuffix("weight")
        rows, columns = tensors.info(name, CODES, dims=2).shape
        found = [layer + key for key in _SCALE_KEYS if layer + key in tensors.infos]
        if len(found) != 1:
            raise tensors.problem(name, f"has {len(found)} of {' and '.join(_SCALE_KEYS)}, not one")
        parts = {key: layer + key for key in _INPUT_KEYS if layer + key in tensors.infos}
        parts |= {"codes": name, "scales": found[0]}
        by_row = [(), (1,), (1, 1), (rows,), (rows, 1)]
        by_block = [] if self._block is None else [block_grid((rows, columns), self._block)]
        info = tensors.info(found[0], SCALES, *by_row, *by_block)
        scheme = None if info.shape in by_block else FP8
        return StoredWeight(name, (rows, columns), parts, scheme)

    def read(self, weight: StoredWeight, tensors: SourceTensors) -> Matrix | torch.Tensor:
        codes, scales = weight.parts["codes"], weight.parts["scales"]
        if weight.scheme is not None or self._block is None:
            return row_scaled(codes, scales, tensors)
        return block_scaled(codes, scales, self._block, tensors)


def block_size(config: Config, key: str) -> tuple[int, int] | None:
    """[rows, columns] of a block; None where there is none."""
    value = config.values.get(key)
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2:
        rows, columns = value
        if type(rows) is int and type(columns) is int and rows > 0 and columns > 0:
            return rows, columns
    raise config.problem(key, f"is {repr(value)[:64]}, must be [rows, columns]")
