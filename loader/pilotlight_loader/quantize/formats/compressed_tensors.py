"""compressed-tensors, as llm-compressor writes it: int4, int8 and fp8 of many shapes of scales.

``w = (code - zero) * scale``. Packed codes and zero points are stored plus 2 ** (bits - 1).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pilotlight_loader.quantize.formats.compressed_config import CompressedConfig, Storage
from pilotlight_loader.quantize.formats.config import Config
from pilotlight_loader.quantize.formats.float8 import CODES, block_grid, block_scaled, row_scaled
from pilotlight_loader.quantize.formats.format import StoredWeight, refuse_left_over
from pilotlight_loader.quantize.formats.integers import (
    WORD_BITS,
    affine,
    are_neighbours,
    scattered,
    unpack,
)
from pilotlight_loader.quantize.formats.source_tensors import FLOATS, SourceTensors
from pilotlight_loader.quantize.matrix import FP8, Matrix, Scheme

_SIDE_KEYS = frozenset(
    {"weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"}
)
# Inputs are not quantized when we multiply: a smaller error than the one that was calibrated for.
_INPUT_KEYS = ("input_scale", "input_zero_point")
_MIDDLE_OF_8_BITS = 0x80


class CompressedTensors:
    """Codes are kept, but for fp8 in blocks or groups and int4 in scattered groups: those are
    read dense, as no grid of ours has such scales."""

    def __init__(self, config: Config) -> None:
        self._config = CompressedConfig(config)

    @property
    def name(self) -> str:
        return f"compressed-tensors, {self._config.name}"

    def plan(self, tensors: SourceTensors) -> Mapping[str, StoredWeight]:
        weights = {}
        for name in tensors.infos:
            layer, _, key = name.rpartition(".")
            if key == "weight_scale":
                weights[f"{layer}.weight"] = self._weight(layer, tensors)
        refuse_left_over(tensors, weights, _SIDE_KEYS)
        return weights

    def _weight(self, layer: str, tensors: SourceTensors) -> StoredWeight:
        storage = self._storage(layer, tensors)
        parts = {"scales": f"{layer}.weight_scale"}
        parts |= {key: f"{layer}.{key}" for key in _INPUT_KEYS if f"{layer}.{key}" in tensors.infos}
        if storage.is_packed:
            parts |= {"codes": f"{layer}.weight_packed", "shape": f"{layer}.weight_shape"}
            rows, columns = _packed_shape(parts, storage, tensors)
        else:
            parts["codes"] = f"{layer}.weight"
            dtypes = CODES if storage.kind == "float" else ("I8",)
            rows, columns = tensors.info(parts["codes"], dtypes, dims=2).shape
        if storage.group and columns % storage.group:
            raise tensors.problem(
                parts["codes"], f"groups of {storage.group} do not divide {columns} columns"
            )
        grids = _grids(storage, (rows, columns))
        tensors.info(parts["scales"], FLOATS, *grids)
        groups = columns // storage.group if storage.group else 1
        _add_zeros(layer, parts, storage, (rows, groups), grids, tensors)
        is_regular = _add_group_index(layer, parts, storage, (columns, groups), tensors)
        scheme = _scheme(storage) if is_regular else None
        return StoredWeight(
            f"{layer}.weight", (rows, columns), parts, scheme, not storage.is_symmetric
        )

    def read(self, weight: StoredWeight, tensors: SourceTensors) -> Matrix | torch.Tensor:
        parts, (rows, columns) = weight.parts, weight.shape
        storage = self._storage(weight.name.removesuffix(".weight"), tensors)
        if storage.kind == "float":
            if weight.scheme is not None:
                return row_scaled(parts["codes"], parts["scales"], tensors)
            block = storage.block or (1, storage.group)
            return block_scaled(parts["codes"], parts["scales"], block, tensors)
        raw = tensors.read(parts["codes"])
        if storage.is_packed:
            codes, bits = unpack(raw, storage.bits)[:, :columns], storage.bits
        else:  # 4 bits too are stored in one byte each
            codes, bits = raw.view(torch.uint8) ^ _MIDDLE_OF_8_BITS, 8
        scales = tensors.read_finite(parts["scales"]).reshape(
            -1, columns // storage.group if storage.group else 1
        )
        zeros = _zeros(parts, bits, scales, rows, tensors)
        scales, zeros = (part.expand(rows, scales.shape[1]) for part in (scales, zeros))
        if weight.scheme is not None:
            return affine(codes, zeros, scales, bits)
        index = tensors.read(parts["group index"])
        return scattered(codes, zeros, scales, index)

    def _storage(self, layer: str, tensors: SourceTensors) -> Storage:
        name = f"{layer}.weight_scale"
        if self._config.ignores(layer):
            raise tensors.problem(name, "is there, although its config ignores the layer")
        storage = self._config.storage(layer)
        if storage is None:
            raise tensors.problem(name, "is there, although no group of its config names the layer")
        return storage


def _packed_shape(
    parts: Mapping[str, str], storage: Storage, tensors: SourceTensors
) -> tuple[int, int]:
    tensors.info(parts["shape"], ("I64", "I32"), (2,))
    rows, columns = tensors.read(parts["shape"]).tolist()
    per_word = WORD_BITS // storage.bits
    stored = tensors.info(parts["codes"], ("I32",), dims=2).shape
    if rows < 1 or columns < 1 or stored != (rows, -(-columns // per_word)):
        raise tensors.problem(
            parts["codes"], f"is {list(stored)}, which does not hold {[rows, columns]}"
        )
    return rows, columns


def _grids(storage: Storage, shape: tuple[int, int]) -> list[tuple[int, ...]]:
    """The shapes that the scales of a weight of *shape* may have."""
    if storage.strategy == "tensor":
        return [(), (1,), (1, 1)]
    if storage.strategy == "channel":
        return [(shape[0], 1), (shape[0],)]
    if storage.block is not None:
        return [block_grid(shape, storage.block)]
    return [(shape[0], shape[1] // storage.group)]


def _add_zeros(
    layer: str,
    parts: dict[str, str],
    storage: Storage,
    shape: tuple[int, int],
    grids: list[tuple[int, ...]],
    tensors: SourceTensors,
) -> None:
    """Zero points, [N, groups] in *shape*; of symmetric weights they are there in old files."""
    name = f"{layer}.weight_zero_point"
    if storage.is_symmetric:
        if name in tensors.infos:
            if bool(tensors.read(name).float().any()):
                raise tensors.problem(name, "is not 0, although its config says symmetric")
            parts["no zeros"] = name
        return
    words = -(-shape[0] * storage.bits // WORD_BITS), shape[1]
    if storage.is_packed and name in tensors.infos and tensors.infos[name].dtype == "I32":
        tensors.info(name, ("I32",), words)
        parts["packed zeros"] = name
    else:
        tensors.info(name, ("I8",), *grids)
        parts["zeros"] = name


def _zeros(
    parts: Mapping[str, str], bits: int, scales: torch.Tensor, rows: int, tensors: SourceTensors
) -> torch.Tensor:
    """As unsigned as the codes are."""
    middle = 1 << (bits - 1)
    if "packed zeros" in parts:
        return unpack(tensors.read(parts["packed zeros"]).t(), bits)[:, :rows].t()
    if "zeros" in parts:
        return tensors.read(parts["zeros"]).reshape(scales.shape).int() + middle
    return torch.full(scales.shape, middle)


def _add_group_index(
    layer: str,
    parts: dict[str, str],
    storage: Storage,
    shape: tuple[int, int],
    tensors: SourceTensors,
) -> bool:
    """Whether groups are neighbouring columns; *shape* is [columns, groups]."""
    name = f"{layer}.weight_g_idx"
    if name not in tensors.infos and not (storage.has_act_order and storage.group):
        return True
    columns, groups = shape
    tensors.info(name, ("I32", "I64"), (columns,))
    index = tensors.read(name)
    parts["group index"] = name
    if bool((index == -1).all()):  # never filled in: the columns stand in order
        return True
    if int(index.min()) < 0 or int(index.max()) >= groups:
        raise tensors.problem(
            name, f"names groups {int(index.min())} to {int(index.max())} of {groups}"
        )
    return are_neighbours(index, columns // groups)


def _scheme(storage: Storage) -> Scheme | None:
    if storage.kind == "float":
        return FP8 if storage.strategy in ("tensor", "channel") else None
    is_int4 = storage.is_packed and storage.bits == 4
    return Scheme("int4" if is_int4 else "int8", storage.group)
