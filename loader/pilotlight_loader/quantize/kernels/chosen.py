"""Which kernels this process multiplies with: compiled ones that passed their trial, or torch's."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from pilotlight_loader.quantize.kernels.byte_product import ByteProduct
from pilotlight_loader.quantize.kernels.byte_rows import ByteKind
from pilotlight_loader.quantize.kernels.compiler import WIDTHS, Compiler
from pilotlight_loader.quantize.kernels.int4_weight import Int4Weight
from pilotlight_loader.quantize.matrix import Kind

logger = logging.getLogger(__name__)

_Product = TypeVar("_Product", ByteProduct, Int4Weight)
_choosing = threading.RLock()
_chosen: dict[str | int, ByteProduct | Int4Weight | None] = {}


def byte_product(kind: ByteKind) -> ByteProduct | None:
    """None: torch's own operators. The first call compiles: see prepare()."""
    if kind not in _chosen:
        _choose(kind, lambda compiler: ByteProduct(compiler, kind))
    found = _chosen[kind]
    assert not isinstance(found, Int4Weight)
    return found


def int4_weight(block: int) -> Int4Weight | None:
    """The same for weights of 4 bits in blocks of so many rows."""
    if block not in _chosen:
        _choose(block, lambda compiler: Int4Weight(compiler, block))
    found = _chosen[block]
    assert not isinstance(found, ByteProduct)
    return found


def prepare(kind: Kind, block: int) -> None:
    """Compile for weights of that kind, off the way of requests. Some tenths of a second."""
    if kind == "int4":
        int4_weight(block)
    else:
        byte_product(kind)


def fits(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> bool:
    """Whether compiled kernels take this product; its weight is as its file's header says."""
    return (
        x.dtype is torch.bfloat16
        and scales.dtype is torch.bfloat16
        and codes.is_cpu
        and x.shape[1] % WIDTHS == 0
        and x.is_contiguous()
        and codes.is_contiguous()
        and scales.is_contiguous()
        and not x.requires_grad
    )


def _choose(key: str | int, make: Callable[[Compiler], _Product]) -> None:
    with _choosing:
        if key in _chosen:
            return
        compiler, product = _compiler(), None
        if compiler is not None:
            try:
                with torch.no_grad(), torch.device("cpu"):
                    product = make(compiler)
                    product.try_out()
            except Exception as error:  # LLVM and the loader of its code raise all kinds
                logger.warning("kernel_refused kernel=%s reason=%r", key, error)
                product = None
        _chosen[key] = product


@functools.cache
def _compiler() -> Compiler | None:
    try:
        return Compiler()
    except ImportError:
        logger.info("kernels_not_compiled reason='llvmlite is not installed'")
    except Exception as error:  # see above
        logger.warning("kernels_not_compiled reason=%r", error)
    return None
