"""The config of compressed-tensors: which layers are stored in which way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pilotlight_loader.quantize.formats.config import Config
from pilotlight_loader.quantize.formats.fp8 import block_size
from pilotlight_loader.quantize.formats.layer_targets import PatternError, matcher

_PACKED = "pack-quantized"
FORMATS = (_PACKED, "int-quantized", "float-quantized", "naive-quantized")
_MIXED = "mixed-precision"  # each group says its own
_NOT_FOR = {"float": (_PACKED, "int-quantized"), "int": ("float-quantized",)}
_STRATEGIES = ("tensor", "channel", "group", "block")


@dataclass(frozen=True, slots=True)
class Storage:
    """How the weights of one group of layers are stored."""

    kind: Literal["int", "float"]
    bits: int
    strategy: str  # what shares a scale: tensor, channel, group or block
    group: int  # columns, of strategy group; else 0
    block: tuple[int, int] | None  # of strategy block
    is_symmetric: bool
    is_packed: bool
    has_act_order: bool


class CompressedConfig:
    """Raises QuantizedFormatError for what is not read, and says what is."""

    def __init__(self, config: Config) -> None:
        config.one_of("quantization_status", ("compressed",), "compressed")
        if config.values.get("sparsity_config"):
            config.inner("sparsity_config").one_of("format", ("dense",), "dense")
        if config.values.get("transform_config"):
            raise config.problem("transform_config", "rotates weights, which is not read")
        default = config.one_of("format", (*FORMATS, _MIXED), _MIXED)
        self._ignores = _matcher(config, "ignore")
        groups = config.inner("config_groups")
        self._groups: list[tuple[Callable[[str], int | None], Storage]] = []
        for name in groups.values:
            group = groups.inner(name)
            if group.values.get("weights") is not None:
                stored = group.one_of("format", FORMATS, default)
                self._groups.append((_matcher(group, "targets"), _storage(group, str(stored))))
        if not self._groups:
            raise config.problem("config_groups", "quantize no weights")

    @property
    def name(self) -> str:
        """For messages: ``int4, float8``."""
        kinds = {f"{storage.kind}{storage.bits}" for _, storage in self._groups}
        return ", ".join(sorted(kinds))

    def ignores(self, layer: str) -> bool:
        """Whether *layer* is said not to be quantized."""
        return self._ignores(layer) is not None

    def storage(self, layer: str) -> Storage | None:
        """Of the group that names *layer* most closely; None: of none."""
        found: list[tuple[int, Storage]] = []
        for match, storage in self._groups:
            closeness = match(layer)
            if closeness is not None:
                found.append((closeness, storage))
        return min(found, key=lambda pair: pair[0])[1] if found else None


def _matcher(config: Config, key: str) -> Callable[[str], int | None]:
    try:
        return matcher(config.texts(key))
    except PatternError as error:
        raise config.problem(key, f"{error}") from error


def _storage(group: Config, stored: str) -> Storage:
    weights = group.inner("weights")
    kind: Literal["int", "float"] = (
        "float" if weights.one_of("type", ("int", "float"), "int") == "float" else "int"
    )
    if stored in _NOT_FOR[kind]:
        raise weights.problem("type", f"is {kind}, which {stored} does not hold")
    bits = weights.one_of("num_bits", (8,) if kind == "float" else (4, 8), 8)
    if weights.flag("dynamic"):
        raise weights.problem("dynamic", "is true: weights have their scales in the file")
    size = weights.integer("group_size", -1) if weights.values.get("group_size") is not None else -1
    implied = "group" if size > 0 else "channel" if "group_size" in weights.values else "tensor"
    strategy = str(weights.one_of("strategy", _STRATEGIES, implied))
    if strategy == "group" and size < 1:
        raise weights.problem("group_size", f"is {size}, must be at least 1")
    block = block_size(weights, "block_structure") if strategy == "block" else None
    if strategy == "block" and (block is None or kind == "int"):
        raise weights.problem("strategy", "is block: read for floats with a block_structure")
    is_symmetric = weights.flag("symmetric", True)
    if kind == "float" and not is_symmetric:
        raise weights.problem("symmetric", "is false: floats have no zero points here")
    order = weights.values.get("actorder")
    if isinstance(order, str) and order not in ("group", "weight", "static", "dynamic"):
        raise weights.problem("actorder", f"is {order[:64]!r}, supported: group, weight")
    return Storage(
        kind=kind,
        bits=int(str(bits)),
        strategy=strategy,
        group=size if strategy == "group" else 0,
        block=block,
        is_symmetric=is_symmetric,
        is_packed=stored == _PACKED,
        has_act_order=order in ("group", "dynamic", True),
    )
