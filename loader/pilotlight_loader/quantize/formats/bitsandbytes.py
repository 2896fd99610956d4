"""bitsandbytes, as QLoRA and LLM.int8() publish it.

4 bits: codes in row-major order, the first in the high half of a byte, look up ``quant_map``
(NF4 or FP4); a block of 64 has one ``absmax``, which may itself be 8 bits that look up
``nested_quant_map``, with a ``nested_absmax`` for 256 and an offset. https://arxiv.org/abs/2305.14314
8 bits: ``w = code * SCB / 127``, a row each. https://arxiv.org/abs/2208.07339
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pilotlight_loader.dtypes import DTYPE_BITS
from pilotlight_loader.quantize.formats.config import Config
from pilotlight_loader.quantize.formats.format import StoredWeight, refuse_left_over
from pilotlight_loader.quantize.formats.source_tensors import SourceTensors
from pilotlight_loader.quantize.matrix import INT8, Matrix, QuantizedMatrix
from pilotlight_loader.strict_json import StrictJsonError, parse_object

_TYPES = ("nf4", "fp4")
_STATE_KEYS = {f".quant_state.bitsandbytes__{kind}": kind for kind in _TYPES}
_MAX_STATE_BYTES = 64 * 1024  # they have some 200
_SIDE_KEYS = frozenset({"absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB"})
_STORAGE = ("U8", "BF16", "F16", "F32")  # bnb_4bit_quant_storage: the same bytes under other names
_INT8_STEPS = 127.0


class BitsAndBytes:
    """4 bits are read dense: their values stand on no grid with equal steps, and every other grid
    would round them a second time. 8 bits keep their codes."""

    def __init__(self, config: Config) -> None:
        self._four = config.flag("load_in_4bit", config.flag("_load_in_4bit"))
        eight = config.flag("load_in_8bit", config.flag("_load_in_8bit"))
        if self._four == eight:
            raise config.problem("load_in_4bit", "or load_in_8bit must be true, and one of them")
        if self._four:
            config.one_of("bnb_4bit_quant_type", _TYPES, "fp4")

    @property
    def name(self) -> str:
        return "bitsandbytes, 4 bits" if self._four else "bitsandbytes, 8 bits"

    def plan(self, tensors: SourceTensors) -> Mapping[str, StoredWeight]:
        weights = {}
        for name in tensors.infos:
            for ending in _STATE_KEYS:
                if name.endswith(ending):
                    weight = name.removesuffix(ending)
                    weights[weight] = _four_bits(weight, name, tensors)
            layer, _, key = name.rpartition(".")
            if key == "SCB":
                weights[f"{layer}.weight"] = _eight_bits(layer, tensors)
        refuse_left_over(tensors, weights, _SIDE_KEYS)
        return weights

    def read(self, weight: StoredWeight, tensors: SourceTensors) -> Matrix | torch.Tensor:
        parts = weight.parts
        if "SCB" in parts:
            scales = tensors.read_finite(parts["SCB"]) / _INT8_STEPS
            return QuantizedMatrix(8, tensors.read(parts["codes"]), scales[:, None].contiguous())
        state = _state(parts["state"], tensors)
        octets = tensors.read(parts["codes"]).view(-1).view(torch.uint8)
        codes = torch.stack((octets >> 4, octets & 0xF), dim=-1).view(-1)
        rows, columns = weight.shape
        values = tensors.read_finite(parts["quant_map"])[codes[: rows * columns].int()]
        largest = _absmax(parts, state, tensors)
        _scale_blocks(values, largest, state.integer("blocksize"))
        return values.view(rows, columns)


def _eight_bits(layer: str, tensors: SourceTensors) -> StoredWeight:
    parts = {"codes": f"{layer}.weight", "SCB": f"{layer}.SCB"}
    rows, columns = tensors.info(parts["codes"], ("I8",), dims=2).shape
    tensors.info(parts["SCB"], ("F32", "F16", "BF16"), (rows,), (rows, 1))
    if f"{layer}.weight_format" in tensors.infos:
        parts["format"] = f"{layer}.weight_format"
        tensors.info(parts["format"], ("U8",), (), (1,))
        if int(tensors.read(parts["format"])) != 0:  # others were for GPUs of 2018
            raise tensors.problem(parts["format"], "is not 0 (row), the one layout that is read")
    return StoredWeight(f"{layer}.weight", (rows, columns), parts, INT8)


def _four_bits(weight: str, state_name: str, tensors: SourceTensors) -> StoredWeight:
    parts = {"codes": weight, "state": state_name}
    state = _state(state_name, tensors)
    rows, columns = _shape(state, state_name, tensors)
    count = rows * columns
    stored = tensors.info(weight, _STORAGE)
    padding = DTYPE_BITS[stored.dtype] // 8 - 1  # the last element may hold fewer than all
    if not 0 <= stored.nbytes - -(-count // 2) <= padding:
        raise tensors.problem(weight, f"{stored.nbytes} bytes do not hold {count} codes of 4 bits")
    blocks = -(-count // _positive(state, "blocksize"))
    for key in ("absmax", "quant_map"):
        parts[key] = f"{weight}.{key}"
    tensors.info(parts["quant_map"], ("F32",), (16,))
    if f"{weight}.nested_absmax" not in tensors.infos:
        tensors.info(parts["absmax"], ("F32",), (blocks,))
        return StoredWeight(weight, (rows, columns), parts, None)
    for key in ("nested_absmax", "nested_quant_map"):
        parts[key] = f"{weight}.{key}"
    tensors.info(parts["absmax"], ("U8",), (blocks,))
    tensors.info(parts["nested_quant_map"], ("F32",), (256,))
    outer = -(-blocks // _positive(state, "nested_blocksize"))
    tensors.info(parts["nested_absmax"], ("F32",), (outer,))
    _offset(state)
    return StoredWeight(weight, (rows, columns), parts, None)


def _absmax(parts: Mapping[str, str], state: Config, tensors: SourceTensors) -> torch.Tensor:
    """The scale of each block, float32."""
    if "nested_absmax" not in parts:
        return tensors.read_finite(parts["absmax"])
    codes = tensors.read(parts["absmax"]).int()
    values = tensors.read_finite(parts["nested_quant_map"])[codes]
    outer = tensors.read_finite(parts["nested_absmax"])
    _scale_blocks(values, outer, state.integer("nested_blocksize"))
    return values + _offset(state)


def _scale_blocks(values: torch.Tensor, scales: torch.Tensor, size: int) -> None:
    """Multiply each block of *size* values in place; the last one may be shorter."""
    whole = len(values) // size * size
    values[:whole].view(-1, size).mul_(scales[: whole // size, None])
    if whole < len(values):
        values[whole:].mul_(scales[-1])


def _state(name: str, tensors: SourceTensors) -> Config:
    info = tensors.info(name, ("U8",), dims=1)
    if info.nbytes > _MAX_STATE_BYTES:
        raise tensors.problem(name, f"{info.nbytes} bytes; at most {_MAX_STATE_BYTES} are read")
    try:
        values = parse_object(bytes(tensors.read(name).tolist()))
    except StrictJsonError as error:
        raise tensors.problem(name, f"is no state: {error}") from error
    state = Config(values, tensors.location, f"{name}: ")
    kind = state.one_of("quant_type", _TYPES)
    if not name.endswith(f"__{kind}"):
        raise tensors.problem(name, f"says {kind}")
    return state


def _shape(state: Config, name: str, tensors: SourceTensors) -> tuple[int, int]:
    shape = state.values.get("shape")
    if isinstance(shape, list) and len(shape) == 2:
        rows, columns = shape
        if type(rows) is int and type(columns) is int and rows > 0 and columns > 0:
            return rows, columns
    raise tensors.problem(name, f"its shape is {repr(shape)[:64]}, must be [N, K]")


def _positive(state: Config, key: str) -> int:
    value = state.integer(key)
    if value < 1:
        raise state.problem(key, f"is {value}, must be at least 1")
    return value


def _offset(state: Config) -> float:
    value = state.values.get("nested_offset")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise state.problem("nested_offset", f"is {repr(value)[:64]}, must be a number")
    return float(value)
