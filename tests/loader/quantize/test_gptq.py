"""GPTQ's products are nearer than those of the nearest codes, on the inputs that it was shown."""

import subprocess
import sys

import pytest
import torch

from pilotlight_loader.quantize import gptq as module
from pilotlight_loader.quantize import grids
from pilotlight_loader.quantize.gptq import gptq
from pilotlight_loader.quantize.inverse_root import inverse_root
from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, Scheme
from pilotlight_loader.quantize.nearest import NearestRounding


def weight_and_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 256, generator=generator).bfloat16()
    mixing = torch.randn(256, 256, generator=generator) / 16
    return weight, torch.randn(2048, 256, generator=generator) @ mixing


@pytest.mark.parametrize("scheme", [INT4, INT8, FP8], ids=lambda scheme: scheme.kind)
def test_gptq_has_a_smaller_error_of_the_product(scheme: Scheme) -> None:
    weight, x = weight_and_inputs()
    exact = x @ weight.float().t()
    matrices = [
        NearestRounding().matrix("w", weight, scheme),
        gptq(weight, inverse_root(x.t() @ x), scheme),
    ]
    nearest, ours = (float((x @ m.dequantize().t() - exact).norm()) for m in matrices)

    assert ours < 0.75 * nearest


def test_gptq_takes_inputs_that_are_always_zero_or_too_few() -> None:
    weight, x = weight_and_inputs()
    x[:, 7] = 0
    few = x[:4]

    off = gptq(weight, inverse_root(few.t() @ few), INT4).dequantize() - weight.float()
    assert float(off.norm() / weight.float().norm()) < 0.3


def test_gptq_refuses_activations_that_are_no_numbers() -> None:
    weight, _ = weight_and_inputs()

    with pytest.raises(ValueError, match="NaN or infinite"):
        gptq(weight, inverse_root(torch.full((256, 256), torch.nan)), INT4)


def by_the_book(weight: torch.Tensor, hessian: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Dequantized; float64, one column after the other, the factor by inverting the Hessian."""
    damped = hessian.double()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += 0.01 * diagonal.mean()
    root = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    left, rounded = weight.double(), torch.empty(weight.shape, dtype=torch.float64)
    group = weight.shape[1] // scheme.groups(weight.shape[1])
    for at in range(weight.shape[1]):
        if at % group == 0:
            block = left[:, at : at + group].float()
            zero = torch.zeros(len(weight), 1)
            if scheme.kind == "int4":
                scale, zero, _ = grids.int4_grid(block, weight.dtype, asymmetric=False)
            elif scheme.kind == "int8":
                scale = grids.int8_scale(block, weight.dtype)
            else:
                scale = grids.fp8_scale(block, weight.dtype)
        column = left[:, at : at + 1]
        if scheme.kind == "int4":
            code = grids.int4_codes(column, scale, zero)
        elif scheme.kind == "int8":
            code = grids.int8_codes(column, scale)
        else:
            code = grids.fp8_codes(column, scale).double()
        rounded[:, at : at + 1] = code * scale
        left[:, at:] -= (column - code * scale) / root[at, at] * root[at, at:]
    return rounded


@pytest.mark.parametrize("tokens", [2048, 40], ids=["regular", "singular"])
@pytest.mark.parametrize("scheme", [INT4, Scheme("int4", 32), INT8, FP8], ids=str)
def test_gptq_rounds_as_float64_does(scheme, tokens, monkeypatch) -> None:
    """But for ties, which another order of a sum decides, and what follows from them in a row."""
    monkeypatch.setattr(module, "prefers_asymmetric", lambda *_: False)
    monkeypatch.setattr(module, "_PART_ROWS", 25)  # rows in three parts
    weight, x = weight_and_inputs()
    x[:, [0, 7, 255]] = 0
    hessian = x[:tokens].t() @ x[:tokens]
    expected = by_the_book(weight, hessian, scheme)
    same = gptq(weight, inverse_root(hessian), scheme).dequantize().double() == expected

    assert float(same.all(1).float().mean()) > 0.9


_MEASURED = """
import sys
from pathlib import Path
import torch
from pilotlight_loader.quantize.gptq import gptq
from pilotlight_loader.quantize.inverse_root import inverse_root
from pilotlight_loader.quantize.matrix import FP8, INT4, INT8

torch.set_num_threads(1)
scheme = {"int4": INT4, "int8": INT8, "fp8": FP8}[sys.argv[1]]

def memory(line):
    status = Path("/proc/self/status").read_text()
    return int(status.partition(line + ":")[2].split()[0]) * 1024

def some(rows, columns):
    return torch.randn(rows, columns).bfloat16(), torch.eye(columns).mul_(3.0)

def rounded(weight, hessian):
    gptq(weight, inverse_root(hessian), scheme)

rounded(*some(64, 512))  # what torch takes at its first use
weight, hessian = some(1024, 4096)
Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins here
before = memory("VmRSS")
rounded(weight, hessian)
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize("kind", ["int4", "int8", "fp8"])
def test_gptq_takes_less_memory_than_its_hessian(kind) -> None:
    hessian_bytes = 4096 * 4096 * 4
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, kind],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
    )

    assert int(done.stdout) < 0.9 * hessian_bytes  # 0.68 seen, a quarter for the weight
