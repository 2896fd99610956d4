"""GPTQ as AutoGPTQ and GPTQModel write it: codes packed along K, zero points packed along N.

``w[n, k] = (code[k, n] - zero[g, n]) * scale[g, n]`` with ``g = g_idx[k]``. AutoGPTQ stores the
zero point less one, and adds the one within its bits (15 is stored for 0); GPTQModel's
``gptq_v2`` stores it as it is. https://arxiv.org/abs/2210.17323
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pilotlight_loader.quantize.formats.config import Config
from pilotlight_loader.quantize.formats.format import StoredWeight, refuse_left_over
from pilotlight_loader.quantize.formats.integers import (
    WORD_BITS,
    affine,
    are_neighbours,
    scattered,
    unpack,
)
from pilotlight_loader.quantize.formats.source_tensors import FLOATS, SourceTensors
from pilotlight_loader.quantize.matrix import Matrix, Scheme

_SIDE_KEYS = frozenset({"qweight", "qzeros", "scales", "g_idx"})


class Gptq:
    """Where act-order scatters a group over all columns the weight is read dense: permuting the
    columns would need permuted inputs, and rounding a second time other answers."""

    def __init__(self, config: Config) -> None:
        self._bits = int(str(config.one_of("bits", (4, 8))))
        self._group = config.integer("group_size", -1)
        if self._group < 1 and self._group != -1:
            raise config.problem("group_size", f"is {self._group}, must be -1 or at least 1")
        self._act_order = config.flag("desc_act")
        default = "marlin" if config.flag("is_marlin_format") else "gptq"
        stored = config.one_of("checkpoint_format", ("gptq", "gptq_v2"), default)
        self._less_one = stored == "gptq"
        config.one_of("pack_dtype", ("int32",), "int32")
        dynamic = config.mapping("dynamic") if config.values.get("dynamic") else {}
        other = [pattern for pattern in dynamic if not pattern.startswith("-:")]
        if other:
            raise config.problem("dynamic", f"changes {other[0][:64]!r}: one grid is read for all")

    @property
    def name(self) -> str:
        return f"gptq, {self._bits} bits"

    def plan(self, tensors: SourceTensors) -> Mapping[str, StoredWeight]:
        weights = {}
        for name in tensors.infos:
            layer, _, key = name.rpartition(".")
            if key == "qweight":
                weights[f"{layer}.weight"] = self._weight(layer, tensors)
        refuse_left_over(tensors, weights, _SIDE_KEYS)
        return weights

    def _weight(self, layer: str, tensors: SourceTensors) -> StoredWeight:
        parts = {key: f"{layer}.{key}" for key in _SIDE_KEYS if key != "g_idx"}
        per_word = WORD_BITS // self._bits
        words, rows = tensors.info(parts["qweight"], ("I32",), dims=2).shape
        columns = words * per_word
        if rows % per_word:
            raise tensors.problem(parts["qweight"], f"{rows} zero points fill no whole words")
        size = columns if self._group == -1 else self._group
        groups = -(-columns // size)
        tensors.info(parts["scales"], FLOATS, (groups, rows))
        tensors.info(parts["qzeros"], ("I32",), (groups, rows // per_word))
        if self._act_order or f"{layer}.g_idx" in tensors.infos:
            parts["g_idx"] = f"{layer}.g_idx"
            tensors.info(parts["g_idx"], ("I32", "I64"), (columns,))
            regular = are_neighbours(_group_index(parts["g_idx"], groups, tensors), size)
        else:
            regular = columns % size == 0
        scheme = Scheme("int4" if self._bits == 4 else "int8", 0 if groups == 1 else size)
        return StoredWeight(
            f"{layer}.weight", (rows, columns), parts, scheme if regular else None, has_zeros=True
        )

    def read(self, weight: StoredWeight, tensors: SourceTensors) -> Matrix | torch.Tensor:
        codes = unpack(tensors.read(weight.parts["qweight"]).t(), self._bits)
        zeros = unpack(tensors.read(weight.parts["qzeros"]), self._bits).t()
        if self._less_one:
            zeros = (zeros + 1) & ((1 << self._bits) - 1)
        scales = tensors.read_finite(weight.parts["scales"]).t()
        if weight.scheme is not None:
            return affine(codes, zeros, scales, self._bits)
        if "g_idx" in weight.parts:
            index = _group_index(weight.parts["g_idx"], scales.shape[1], tensors)
        else:
            index = torch.arange(weight.shape[1]) // self._group
        return scattered(codes, zeros, scales, index)


def _group_index(name: str, groups: int, tensors: SourceTensors) -> torch.Tensor:
    """Of each column the group. Raises QuantizedFormatError for one that is not there."""
    index = tensors.read(name)
    if int(index.min()) < 0 or int(index.max()) >= groups:
        raise tensors.problem(
            name, f"names groups {int(index.min())} to {int(index.max())} of {groups}"
        )
    return index
