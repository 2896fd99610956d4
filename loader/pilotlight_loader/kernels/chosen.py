"""Which kernels this process multiplies with: compiled ones that passed their trial, or torch's."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from pilotlight_loader.kernels import short_rows
from pilotlight_loader.kernels.bfloat_attention import BfloatAttention
from pilotlight_loader.kernels.bfloat_norm import BfloatNorm
from pilotlight_loader.kernels.bfloat_product import BfloatProduct
from pilotlight_loader.kernels.bfloat_rotary import BfloatRotary
from pilotlight_loader.kernels.byte_product import ByteKind, ByteProduct
from pilotlight_loader.kernels.compiler import WIDTHS, Compiler
from pilotlight_loader.kernels.int4_product import Int4Product, TrellisProduct
from pilotlight_loader.kernels.int4_weight import Int4Weight
from pilotlight_loader.kernels.int8_product import Int8Product
from pilotlight_loader.kernels.trellis_weight import TrellisWeight
from pilotlight_loader.quantize.matrix import Coding

logger = logging.getLogger(__name__)


class _Tried(Protocol):
    def try_out(self) -> None: ...


_Product = TypeVar("_Product", bound=_Tried)
_choosing = threading.RLock()
_chosen: dict[str, _Tried | None] = {}


def byte_product(kind: ByteKind) -> ByteProduct | None:
    """None: torch's own operators. The first call compiles: see prepare()."""
    return _choose(kind, ByteProduct, lambda compiler: ByteProduct(compiler, kind))


def bfloat_product() -> BfloatProduct | None:
    """For few rows and a plain weight; None also on CPUs with wider registers."""
    return _choose("bf16", BfloatProduct, BfloatProduct) if _is_narrow() else None


def bfloat_norm() -> BfloatNorm | None:
    """On CPUs with registers of any width."""
    return _choose("norm", BfloatNorm, BfloatNorm)


def bfloat_rotary() -> BfloatRotary | None:
    """On CPUs with registers of any width."""
    return _choose("rotary", BfloatRotary, BfloatRotary)


def bfloat_attention() -> BfloatAttention | None:
    """For one query; None also on CPUs with wider registers, for which torch has a kernel."""
    return _choose("attention", BfloatAttention, BfloatAttention) if _is_narrow() else None


def int8_product() -> Int8Product | None:
    """For any number of rows; None also on CPUs with wider registers, where others are sooner."""
    return _choose("int8_short", Int8Product, Int8Product) if _is_narrow() else None


def int4_product(block: int) -> Int4Product | None:
    """The same for weights of 4 bits in blocks of so many rows."""
    if not _is_narrow():
        return None
    return _choose(
        f"int4_short_{block}", Int4Product, lambda compiler: Int4Product(compiler, block)
    )


def int4_weight(block: int) -> Int4Weight | None:
    """What makes numbers of them, where int4_product() is None."""
    return _choose(f"int4_{block}", Int4Weight, lambda compiler: Int4Weight(compiler, block))


def trellis_product() -> TrellisProduct | None:
    """For any number of rows and a trellis' weight, on any CPU."""
    return _choose("trellis", TrellisProduct, TrellisProduct)


def trellis_weight() -> TrellisWeight | None:
    """What makes numbers of one, for many rows, on CPUs with wider registers; else None."""
    return None if _is_narrow() else _choose("trellis_weight", TrellisWeight, TrellisWeight)


def prepare(kind: Coding, block: int) -> None:
    """Compile for weights of that kind, off the way of requests. Some tenths of a second."""
    if kind == "int4":
        _ = int4_product(block) or int4_weight(block)
    elif kind == "int8":
        _ = int8_product() or byte_product(kind)
    elif kind == "trellis":
        trellis_product()
        trellis_weight()
    else:
        byte_product(kind)


def fits(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> bool:
    """Whether compiled kernels take x [..., K]; its weight is as its file's header says."""
    return (
        x.dtype is torch.bfloat16
        and scales.dtype is torch.bfloat16
        and x.is_cpu
        and codes.is_cpu
        and x.shape[-1] % WIDTHS == 0
        and x.is_contiguous()
        and codes.is_contiguous()
        and scales.is_contiguous()
        and not x.requires_grad
    )


def _choose(
    key: str, kind: type[_Product], make: Callable[[Compiler], _Product]
) -> _Product | None:
    if key not in _chosen:
        with _choosing:
            if key not in _chosen:
                _chosen[key] = _tried(key, make)
    found = _chosen[key]
    assert found is None or isinstance(found, kind)
    return found


def _tried(key: str, make: Callable[[Compiler], _Product]) -> _Product | None:
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        with torch.no_grad(), torch.device("cpu"):
            product = make(compiler)
            product.try_out()
            return product
    except Exception as error:  # LLVM and the loader of its code raise all kinds
        logger.warning("kernel_refused kernel=%s reason=%r", key, error)
        return None


@functools.cache  # each product asks, and must not wait while another kernel is compiled
def _is_narrow() -> bool:
    with _choosing:  # that only one compiler is made
        compiler = _compiler()
    return compiler is not None and compiler.target.lanes == short_rows.TARGET.lanes


@functools.cache
def _compiler() -> Compiler | None:
    try:
        return Compiler()
    except ImportError:
        logger.info("kernels_not_compiled reason='llvmlite is not installed'")
    except Exception as error:  # see above
        logger.warning("kernels_not_compiled reason=%r", error)
    return None
