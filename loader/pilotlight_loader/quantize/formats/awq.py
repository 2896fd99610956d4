"""AWQ as AutoAWQ's ``gemm`` layout has it: codes packed along N, eight in a word, interleaved.

``w[n, k] = (code[k, n] - zero[g, n]) * scale[g, n]``. Nibble i of a word is its column
[0, 2, 4, 6, 1, 3, 5, 7][i], an order that suited a GPU's registers. https://arxiv.org/abs/2306.00978
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pilotlight_loader.quantize.formats.config import Config
from pilotlight_loader.quantize.formats.format import StoredWeight, refuse_left_over
from pilotlight_loader.quantize.formats.integers import WORD_BITS, affine, unpack
from pilotlight_loader.quantize.formats.source_tensors import FLOATS, SourceTensors
from pilotlight_loader.quantize.matrix import Matrix, Scheme

_KEYS = ("qweight", "qzeros", "scales")
_BITS = 4
_PER_WORD = WORD_BITS // _BITS
_NIBBLE_OF_COLUMN = (0, 4, 1, 5, 2, 6, 3, 7)  # the inverse of the interleaving above


class Awq:
    """Every weight keeps its codes. ``gemv`` and ``gemv_fast`` pack in other ways: refused."""

    def __init__(self, config: Config) -> None:
        older = "bits" not in config.values
        config.one_of("w_bit" if older else "bits", (_BITS,))
        key = "q_group_size" if "group_size" not in config.values else "group_size"
        self._group = config.integer(key, 128)
        if self._group < 1 and self._group != -1:
            raise config.problem(key, f"is {self._group}, must be -1 or at least 1")
        version = config.text("version", "gemm").lower()
        if version != "gemm":
            raise config.problem("version", f"is {version[:64]!r}, supported: gemm")
        if not config.flag("zero_point", True):
            raise config.problem("zero_point", "is false: the gemm layout has zero points")

    @property
    def name(self) -> str:
        return f"awq, {_BITS} bits"

    def plan(self, tensors: SourceTensors) -> Mapping[str, StoredWeight]:
        weights = {}
        for name in tensors.infos:
            layer, _, key = name.rpartition(".")
            if key == "qweight":
                weights[f"{layer}.weight"] = self._weight(layer, tensors)
        refuse_left_over(tensors, weights, frozenset(_KEYS))
        return weights

    def _weight(self, layer: str, tensors: SourceTensors) -> StoredWeight:
        parts = {key: f"{layer}.{key}" for key in _KEYS}
        columns, words = tensors.info(parts["qweight"], ("I32",), dims=2).shape
        rows = words * _PER_WORD
        group = columns if self._group == -1 else self._group
        if columns % group:
            raise tensors.problem(
                parts["qweight"], f"groups of {group} do not divide {columns} columns"
            )
        tensors.info(parts["qzeros"], ("I32",), (columns // group, words))
        tensors.info(parts["scales"], FLOATS, (columns // group, rows))
        scheme = Scheme("int4", 0 if group == columns else group)
        return StoredWeight(f"{layer}.weight", (rows, columns), parts, scheme, has_zeros=True)

    def read(self, weight: StoredWeight, tensors: SourceTensors) -> Matrix | torch.Tensor:
        codes = _columns(tensors.read(weight.parts["qweight"])).t()
        zeros = _columns(tensors.read(weight.parts["qzeros"])).t()
        return affine(codes, zeros, tensors.read_finite(weight.parts["scales"]).t(), _BITS)


def _columns(words: torch.Tensor) -> torch.Tensor:
    """int32 [R, C] -> uint8 [R, 8 C], each in its place."""
    nibbles = unpack(words, _BITS).view(*words.shape, _PER_WORD)
    return nibbles[:, :, list(_NIBBLE_OF_COLUMN)].view(len(words), -1)
