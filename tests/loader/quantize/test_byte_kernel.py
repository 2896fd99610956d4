"""Triton's kernel for one-byte codes: interpreted where Triton is, compiled where a GPU is."""

import importlib.util
import os
import subprocess
import sys
import types

import pytest
import torch

from pilotlight_loader import quantize
from pilotlight_loader.quantize import cuda_products, device_layout
from pilotlight_loader.quantize.matrix import FP8, INT8
from pilotlight_loader.quantize.nearest import NearestRounding

CPU = torch.device("cpu")
DTYPES = [torch.int8, torch.float8_e4m3fn]
SHAPES = [(70, 130), (32, 128), (1, 1), (129, 300)]

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton, as CUDA builds of torch do"
)
_INTERPRETED = f"""
import torch
import triton.language as tl
from pilotlight_loader.quantize import byte_kernel
byte_kernel._MULTIPLIED_IN = tl.float32
for dtype in {DTYPES}:
    for shape in {SHAPES}:
        byte_kernel.check(torch.device("cpu"), dtype, shape)
"""


@needs_triton
def test_byte_kernel_interpreted_is_the_dequantized_product() -> None:
    subprocess.run(
        [sys.executable, "-c", _INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=True,
        timeout=150,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@needs_triton
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_byte_kernel_of_this_gpu_is_the_dequantized_product(dtype, shape) -> None:
    from pilotlight_loader.quantize import byte_kernel  # noqa: PLC0415  # needs Triton

    byte_kernel.check(torch.device("cuda:0"), dtype, shape)


def test_byte_kernel_that_is_not_there_leaves_dequantizing(caplog) -> None:
    cuda_products._byte_kernel_for.cache_clear()

    assert cuda_products.byte_kernel_for(CPU, torch.int8, (64, 128)) is None
    assert "byte_cuda_kernel_unsupported" in caplog.text


def test_byte_kernel_is_tried_once_on_part_of_the_rows(monkeypatch) -> None:
    tried = []
    kernel = types.ModuleType("byte_kernel")  # as where Triton is
    kernel.check = lambda *asked: tried.append(asked)
    kernel.linear = object()
    monkeypatch.setattr(quantize, "byte_kernel", kernel, raising=False)
    gpu = torch.device("cuda:7")  # of which no other test asks
    found = [
        cuda_products.byte_kernel_for(gpu, torch.int8, (rows, 300)) for rows in (70, 4096, 8192)
    ]

    assert found == [kernel.linear] * 3
    assert tried == [(gpu, torch.int8, (rows, 300)) for rows in (70, 1024)]


@pytest.mark.parametrize("scheme", [INT8, FP8], ids=str)
def test_gpu_takes_the_byte_kernel_for_few_rows_only(scheme, monkeypatch) -> None:
    """By a tensor that says it is on a GPU: which product is chosen."""

    class OnGpu(torch.Tensor):
        is_cuda = True

    taken = []

    def kernel_for(_device, dtype, shape):
        return lambda x, *_: taken.append((len(x), dtype, shape)) or x.new_zeros(len(x), 64)

    monkeypatch.setattr(cuda_products, "byte_kernel_for", kernel_for)
    weight = torch.randn(64, 128).bfloat16()
    matrix = NearestRounding().matrix("w", weight, scheme)
    codes, scales = device_layout.tensors(
        matrix, device_layout.plan(scheme, (64, 128)), torch.bfloat16
    )
    for dtype in (torch.bfloat16, torch.float32):  # it is for bfloat16
        for rows in (1, cuda_products.BYTE_KERNEL_ROWS, cuda_products.BYTE_KERNEL_ROWS + 1):
            x = torch.randn(rows, 128).to(dtype).as_subclass(OnGpu)
            cuda_products.byte_linear(x, codes, scales.to(dtype))

    assert taken == [(rows, codes.dtype, (64, 128)) for rows in (1, 16)]
