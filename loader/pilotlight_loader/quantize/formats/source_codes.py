"""A checkpoint's own codes, in the place of rounding its weights a second time."""

from __future__ import annotations

from collections.abc import Collection

import torch

from pilotlight_loader.quantize.device_layout import plan
from pilotlight_loader.quantize.formats.quantized_source import QuantizedSource
from pilotlight_loader.quantize.matrix import Matrix, Scheme
from pilotlight_loader.quantize.rounding import Rounding


def kept_schemes(source: QuantizedSource, weights: Collection[str]) -> dict[str, Scheme]:
    """Those of *weights* that *source* holds in codes that a worker can multiply with, and how."""
    schemes = {}
    for name in weights:
        stored = source.weights.get(name)
        if stored is None or stored.scheme is None:
            continue
        scheme = _storable(stored.scheme, stored.shape)
        if scheme is not None and not (scheme.kind == "int8" and stored.has_zeros):
            schemes[name] = scheme
    return schemes


class SourceCodes:
    """A Rounding that gives the source's codes for the weights *kept*; *other* does the rest."""

    def __init__(self, source: QuantizedSource, kept: Collection[str], other: Rounding) -> None:
        self._source = source
        self._kept = frozenset(kept)
        self._other = other

    def matrix(self, name: str, weight: torch.Tensor, scheme: Scheme) -> Matrix:
        """As Rounding has it. Raises QuantizedFormatError for codes that are broken."""
        if name not in self._kept:
            return self._other.matrix(name, weight, scheme)
        matrix = self._source.matrix(name)
        if matrix is None:
            raise ValueError(f"{name!r} is not kept in codes by its source")
        return matrix


def _storable(scheme: Scheme, shape: tuple[int, int]) -> Scheme | None:
    """*scheme*, or one with smaller groups that holds the same codes; None where there is none."""
    groups: tuple[int, ...] = (scheme.group,)
    if scheme.kind == "int4":
        group = scheme.group or shape[1]
        groups = tuple(size for size in (group, 256, 128, 64, 32) if group % size == 0)
    for size in groups:
        smaller = Scheme(scheme.kind, size)
        try:
            plan(smaller, shape)
        except ValueError:
            continue
        return smaller
    return None
