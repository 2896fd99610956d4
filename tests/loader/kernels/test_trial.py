"""A trial runs each kernel as most products do: by threads."""

import ctypes

import pytest

from pilotlight_loader.kernels import compiler
from pilotlight_loader.kernels.bfloat_attention import BfloatAttention
from pilotlight_loader.kernels.bfloat_norm import BfloatNorm
from pilotlight_loader.kernels.bfloat_product import BfloatProduct
from pilotlight_loader.kernels.bfloat_rotary import BfloatRotary
from pilotlight_loader.kernels.byte_product import ByteProduct
from pilotlight_loader.kernels.compiler import Compiler
from pilotlight_loader.kernels.int4_product import Int4Product, TrellisProduct
from pilotlight_loader.kernels.int4_weight import Int4Weight
from pilotlight_loader.kernels.int8_product import Int8Product
from pilotlight_loader.kernels.trellis_weight import TrellisWeight

ALONE_BELOW = compiler._ALONE_BELOW
ALONE = 1  # which word


@pytest.mark.parametrize(
    "make",
    [
        lambda compiler: ByteProduct(compiler, "int8"),
        lambda compiler: ByteProduct(compiler, "fp8"),
        lambda compiler: Int4Weight(compiler, 32),
        lambda compiler: Int4Weight(compiler, 64),
        lambda compiler: Int4Product(compiler, 32),
        lambda compiler: Int4Product(compiler, 64),
        TrellisWeight,
        TrellisProduct,
        Int8Product,
        BfloatProduct,
        BfloatNorm,
        BfloatRotary,
        BfloatAttention,
    ],
    ids=[
        *("int8", "fp8", "int4 weight 32", "int4 weight 64", "int4 32", "int4 64"),
        *("trellis weight", "trellis", "int8 in 16 bits", "bf16"),
        *("norm", "rotary", "attention"),
    ],
)
def test_trial_runs_every_kernel_by_threads(make, monkeypatch) -> None:
    pytest.importorskip("llvmlite")
    monkeypatch.setattr(compiler, "_ALONE_BELOW", ALONE_BELOW)
    made, by_threads = Compiler(), {}
    compiled = made.compile

    def noting(kernel):
        number = len(by_threads)
        by_threads[number] = False

        def run(words):
            alone = ctypes.c_int64.from_address(words + ALONE * ctypes.sizeof(ctypes.c_int64))
            by_threads[number] |= alone.value == 0
            kernel(words)

        return run

    monkeypatch.setattr(made, "compile", lambda kernels: [*map(noting, compiled(kernels))])
    make(made).try_out()

    assert by_threads
    assert all(by_threads.values())
