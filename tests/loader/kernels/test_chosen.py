"""A compiled kernel serves only where it can be made, and computes what it should."""

import gc
import logging
import re
import sys
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

from pilotlight_loader.kernels import (
    assembly,
    chosen,
    exponential,
    float_rows,
    int4_dense,
    norm_rows,
    rotary_rows,
    short_rows,
    trellis_unit,
)
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
from pilotlight_loader.quantize import products

IS_NARROW, COMPILER = chosen._is_narrow, chosen._compiler


@pytest.fixture(autouse=True)
def unchosen(monkeypatch):
    """As in a process that has not multiplied yet, on a CPU with wide registers."""
    pytest.importorskip("llvmlite")
    monkeypatch.setattr(chosen, "_chosen", {})
    monkeypatch.setattr(chosen, "_is_narrow", lambda: False)
    for cached in (COMPILER, IS_NARROW):
        cached.cache_clear()
    yield
    for cached in (COMPILER, IS_NARROW):
        cached.cache_clear()


def some_product():
    codes = torch.arange(48 * 64).remainder(251).sub(125).to(torch.int8).view(48, 64)
    scales = torch.linspace(0.1, 1.0, 48).bfloat16()
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = (x.double() @ codes.double().t()) * scales.double()
    actual = products.int8_linear(x, codes, scales).double()
    return float((actual - expected).norm() / expected.norm())


def test_product_is_compiled_once(monkeypatch) -> None:
    first = chosen.byte_product("int8")
    chosen.prepare("int8", 0)

    assert first is not None
    assert chosen.byte_product("int8") is first


def test_product_that_is_chosen_waits_for_no_other_to_be_compiled(monkeypatch) -> None:
    monkeypatch.setattr(chosen, "_is_narrow", IS_NARROW)
    first, found = chosen.int8_product(), []
    asking = threading.Thread(target=lambda: found.append(chosen.int8_product()))
    with chosen._choosing:  # as the thread does that compiles
        asking.start()
        asking.join(10)
        assert found == [first]


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(chosen, "_is_narrow", lambda: True)


@pytest.mark.parametrize(
    "make",
    [
        lambda compiler: ByteProduct(compiler, "fp8"),
        lambda compiler: Int4Weight(compiler, 64),
        lambda compiler: Int4Product(compiler, 64),
        TrellisProduct,
        TrellisWeight,
        Int8Product,
        BfloatProduct,
        BfloatNorm,
        BfloatRotary,
        BfloatAttention,
    ],
    ids=[
        *("bytes", "int4 weight", "int4", "trellis", "trellis weight", "int8", "bf16"),
        *("norm", "rotary", "attention"),
    ],
)
def test_kernel_keeps_its_code(make) -> None:
    """LLVM frees what it compiled with the compiler: a call would end the process."""
    compiler = Compiler()
    kernel, owner = make(compiler), weakref.ref(compiler)
    del compiler
    gc.collect()

    assert owner() is not None
    kernel.try_out()


def test_product_without_llvmlite_is_torchs(monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    caplog.set_level(logging.INFO, chosen.__name__)

    assert chosen.byte_product("int8") is None
    assert chosen.int4_weight(64) is None
    assert chosen.trellis_product() is None
    assert chosen.trellis_weight() is None
    assert some_product() < 6e-3
    assert [record.getMessage() for record in caplog.records] == [
        "kernels_not_compiled reason='llvmlite is not installed'"
    ]


def test_product_on_a_cpu_that_lacks_instructions_is_torchs(monkeypatch) -> None:
    import llvmlite.binding  # noqa: PLC0415  # the optional part

    features = llvmlite.binding.get_host_cpu_features()
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: features)
    features["f16c"] = False

    assert chosen.byte_product("fp8") is None
    assert some_product() < 6e-3


def test_wrong_kernel_never_serves(monkeypatch, caplog) -> None:
    real = float_rows._int8

    def doubled(write, codes):
        value = real(write, codes)
        return write.let(f"fadd {write.floats} {value}, {value}")

    monkeypatch.setattr(float_rows, "_int8", doubled)

    assert some_product() < 6e-3
    assert some_product() < 6e-3
    (record,) = caplog.records
    assert "kernel=int8" in record.getMessage()
    assert "wrong by" in record.getMessage()


def test_wrong_int4_kernel_is_refused(monkeypatch) -> None:
    real = int4_dense.codes_of
    monkeypatch.setattr(int4_dense, "codes_of", lambda *args: real(*args)[::-1])

    assert chosen.int4_weight(64) is None
    assert chosen.byte_product("int8") is not None


def test_wrong_trellis_kernels_are_refused(monkeypatch, caplog) -> None:
    """By each trial of its own."""
    monkeypatch.setattr(trellis_unit, "_TABLES", trellis_unit._TABLES[::-1])

    assert chosen.trellis_product() is None
    assert chosen.trellis_weight() is None
    assert [record.args[0] for record in caplog.records] == ["trellis", "trellis_weight"]
    assert all("wrong by" in record.getMessage() for record in caplog.records)


def test_wrong_numbers_of_x_are_refused(narrow, monkeypatch, caplog) -> None:
    """What all products in 16-bit integers begin with."""
    monkeypatch.setattr(short_rows, "_LARGEST", 33000.0)

    assert chosen.int8_product() is None
    assert chosen.int4_product(32) is None
    assert chosen.trellis_product() is None
    assert some_product() < 6e-3
    refused = [record.args[0] for record in caplog.records]
    assert refused == ["int8_short", "int4_short_32", "trellis"]


@pytest.mark.parametrize(
    ("kernel", "module", "name", "wrong"),
    [
        ("bfloat_norm", norm_rows, "_mean_square", lambda *_: "1.0"),
        ("bfloat_rotary", rotary_rows, "_times", lambda _write, left, _right: left),
        ("bfloat_attention", exponential, "_LN2", (0.6, 0.0)),
    ],
)
def test_wrong_kernel_beside_products_is_refused(
    narrow, monkeypatch, caplog, kernel, module, name, wrong
) -> None:
    monkeypatch.setattr(module, name, wrong)

    assert getattr(chosen, kernel)() is None
    (record,) = caplog.records
    assert "wrong by" in record.getMessage()


@pytest.mark.parametrize("kernel", [chosen.bfloat_product, chosen.bfloat_attention])
def test_kernel_of_what_torch_has_for_wide_registers_is_for_narrow_ones(
    monkeypatch, kernel
) -> None:
    assert kernel() is None
    monkeypatch.setattr(chosen, "_is_narrow", lambda: True)

    assert kernel() is not None


@pytest.mark.parametrize("kernel", [chosen.bfloat_norm, chosen.bfloat_rotary])
@pytest.mark.parametrize("is_narrow", [True, False])
def test_kernel_of_what_takes_many_operators_is_for_any_registers(
    monkeypatch, kernel, is_narrow
) -> None:
    monkeypatch.setattr(chosen, "_is_narrow", lambda: is_narrow)

    assert kernel() is not None


@pytest.mark.parametrize(("lanes", "narrow"), [(8, True), (16, False), (None, False)])
def test_narrow_are_registers_of_eight_floats(monkeypatch, lanes, narrow) -> None:
    monkeypatch.setattr(chosen, "_is_narrow", IS_NARROW)
    compiler = None if lanes is None else SimpleNamespace(target=assembly.Target(lanes, False))
    monkeypatch.setattr(chosen, "_compiler", lambda: compiler)

    assert chosen._is_narrow() is narrow


def test_registers_decide_which_products_are_compiled(narrow, monkeypatch) -> None:
    weights = ("int8", 0), ("int4", 32), ("trellis", 32)
    for kind, block in weights:
        chosen.prepare(kind, block)
    of_narrow = set(chosen._chosen)
    monkeypatch.setattr(chosen, "_is_narrow", lambda: False)
    for kind, block in weights:
        chosen.prepare(kind, block)

    assert of_narrow == {"int8_short", "int4_short_32", "trellis"}
    assert set(chosen._chosen) - of_narrow == {"int8", "int4_32", "trellis_weight"}


def test_code_that_calls_what_is_not_there_is_refused(monkeypatch) -> None:
    real = assembly.Function.run_by_threads

    def calling(function, body):
        function.do("call void @nowhere()")
        real(function, body)

    monkeypatch.setattr(assembly.Function, "run_by_threads", calling)
    monkeypatch.setattr(assembly, "DECLARED", (*assembly.DECLARED, "declare void @nowhere()"))

    assert chosen.byte_product("int8") is None
    assert some_product() < 6e-3


def test_fits_only_what_kernels_read() -> None:
    x = torch.randn(2, 128).bfloat16()
    codes, scales = torch.ones(4, 64, dtype=torch.int8), torch.ones(4).bfloat16()

    assert not chosen.fits(x[:, :64], codes, scales)
    x = x[:, :64].contiguous()
    assert chosen.fits(x, codes, scales)
    assert not chosen.fits(x.float(), codes, scales.float())
    assert not chosen.fits(x[:, :63].contiguous(), codes[:, :63].contiguous(), scales)
    assert not chosen.fits(x, codes, scales.float())
    assert not chosen.fits(x, codes, torch.ones(8).bfloat16()[::2])
    assert not chosen.fits(x, torch.ones(64, 4, dtype=torch.int8).t(), scales)
    assert not chosen.fits(x.requires_grad_(), codes, scales)
    assert not chosen.fits(x.to("meta"), codes, scales)


def test_threads_are_those_of_torch() -> None:
    openmp = Compiler()._openmp["GOMP_parallel"]
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps if re.search(r"/lib(g|i)?omp\d*\b.*\.so", line)]
    libraries = {line[-1] for line in lines}
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in lines]

    assert len(libraries) == 1
    assert any(start <= openmp < end for start, end in ranges)


def test_product_is_on_the_cpu_whatever_the_default_device_is() -> None:
    """A kernel writes where it is told: a pointer of another device would end the process."""
    kernel = chosen.byte_product("int8")
    assert kernel is not None
    x, codes, scales = (torch.ones(1, 64), torch.ones(48, 64), torch.ones(48))
    given = (x.bfloat16(), codes.to(torch.int8), scales.bfloat16())
    with torch.device("meta"):
        product = kernel.rows(*given)

    assert product.device.type == "cpu"
    assert product.eq(64).all()
