"""What a baked file says of its 2:4 sparse weights, checked before a layer sees their bytes.

A weight ``a.weight`` is stored as ``a.weight_values`` and ``a.weight_indices``: plain tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pilotlight_loader.errors import HeaderError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.sparse.pattern import COLUMNS_PER_BYTE, KEPT
from pilotlight_loader.strict_json import StrictJsonError, parse_object

VALUES_SUFFIX = "_values"
INDICES_SUFFIX = "_indices"
INDEX_DTYPE = "U8"
_PATTERN = "2:4"
_VALUE_DTYPES = frozenset({"BF16", "F16"})

Shape = tuple[int, int]  # [N, K] of the weight


def values_shape(shape: Shape) -> Shape:
    return shape[0], shape[1] // KEPT


def indices_shape(shape: Shape) -> Shape:
    return shape[0], shape[1] // COLUMNS_PER_BYTE


def encode(shapes: Mapping[str, Shape]) -> str:
    """As text for the header's metadata."""
    weights = {name: list(shape) for name, shape in shapes.items()}
    return json.dumps({"sparsity": _PATTERN, "weights": weights}, separators=(",", ":"))


def parse(text: str, key: str, path: Path | str) -> dict[str, Shape]:
    """The inverse of encode(). Raises HeaderError, naming the weight."""
    try:
        parsed = parse_object(text.encode("utf-8", "surrogatepass"))
    except StrictJsonError as error:
        raise HeaderError(path, f"broken metadata {key}: {error}") from error
    weights = parsed.get("weights")
    if parsed.get("sparsity") != _PATTERN or not isinstance(weights, dict):
        raise HeaderError(path, f"broken metadata {key}: not of weights that are {_PATTERN} sparse")
    return {name: _shape(name, value, key, path) for name, value in weights.items()}


def check(tensors: Mapping[str, TensorInfo], shapes: Mapping[str, Shape], path: Path | str) -> None:
    """Raises HeaderError where values or indices are missing, or others than *shapes* says."""
    for name, shape in shapes.items():
        if name in tensors:
            raise HeaderError(path, f"{name!r} is said to be sparse, and is there")
        values, indices = tensors.get(name + VALUES_SUFFIX), tensors.get(name + INDICES_SUFFIX)
        if values is None or indices is None:
            raise HeaderError(path, f"{name!r} is said to be sparse, and has no values or indices")
        if values.dtype not in _VALUE_DTYPES or values.shape != values_shape(shape):
            raise HeaderError(path, f"{values.name!r} is {values.dtype}{list(values.shape)}")
        if (indices.dtype, indices.shape) != (INDEX_DTYPE, indices_shape(shape)):
            raise HeaderError(path, f"{indices.name!r} is {indices.dtype}{list(indices.shape)}")


def _shape(name: str, value: object, key: str, path: Path | str) -> Shape:
    if isinstance(value, list) and len(value) == 2:
        rows, columns = value
        is_size = type(rows) is int and type(columns) is int and rows > 0 and columns > 0
        if is_size and columns % COLUMNS_PER_BYTE == 0:
            return rows, columns
    raise HeaderError(path, f"broken metadata {key}: {name!r}: its shape is {value!r:.64}")
