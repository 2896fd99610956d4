"""Codes of a trellis are nearer to weights, and to their products, than equal steps are."""

import subprocess
import sys

import pytest
import torch

from pilotlight_loader.quantize import trellis_rounding as module
from pilotlight_loader.quantize.gptq import gptq
from pilotlight_loader.quantize.inverse_root import inverse_root
from pilotlight_loader.quantize.matrix import INT4, TRELLIS, Scheme, TrellisMatrix
from pilotlight_loader.quantize.nearest import NearestRounding
from pilotlight_loader.quantize.trellis import DEVIATION
from pilotlight_loader.quantize.trellis_rounding import to_trellis

GROUPS = [32, 64, 128]


def gaussian(rows: int = 64, columns: int = 512) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).bfloat16()


def correlated(columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(columns)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    return torch.randn(2048, columns, generator=generator) @ mixing


def left_of(weight: torch.Tensor, scheme: Scheme) -> float:
    """Of the squared norm."""
    exact = weight.double()  # which holds the squares
    off = NearestRounding().matrix("w", weight, scheme).dequantize().double() - exact
    return float(off.square().sum() / exact.square().sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_trellis_leaves_less_of_a_gaussian_than_equal_steps(dtype) -> None:
    weight = gaussian().to(dtype)

    assert left_of(weight, TRELLIS) < 0.0075
    assert left_of(weight, TRELLIS) < 0.8 * left_of(weight, INT4)


@pytest.mark.parametrize("group", GROUPS)
def test_trellis_of_any_group_is_near(group) -> None:
    weight = gaussian()
    matrix = NearestRounding().matrix("w", weight, Scheme("trellis", group))

    assert isinstance(matrix, TrellisMatrix)
    assert (matrix.group, matrix.scales.dtype) == (group, weight.dtype)
    assert left_of(weight, Scheme("trellis", group)) < 0.0085


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("by_inputs", [False, True])
def test_trellis_zero_groups_are_exactly_zero(group, by_inputs) -> None:
    weight = gaussian(64, 256)
    weight[3] = 0
    if not by_inputs:
        weight[5, group : 2 * group] = 0
    root = inverse_root(torch.eye(256)) if by_inputs else None
    restored = to_trellis(weight, Scheme("trellis", group), root).dequantize()

    assert not restored[3].any()
    assert by_inputs or not restored[5, group : 2 * group].any()
    assert restored[:3].any(1).all()


def test_trellis_codes_go_on_over_groups() -> None:
    """A group's first codes are chosen for what those before it make of them."""
    weight, scheme = gaussian(64, 128), Scheme("trellis", 32)
    whole = to_trellis(weight, scheme, None)
    alone = to_trellis(weight[:, 32:].contiguous(), scheme, None)
    off = (whole.dequantize() - weight.float()).view(64, 4, 32)[:, :, :2].square().mean((0, 2))

    assert torch.equal(whole.scales[:, 1:], alone.scales)
    assert not torch.equal(whole.codes[:, 32:34], alone.codes[:, :2])
    assert float(off.max()) < 0.04  # of two columns; as if nothing were before them it is 0.2


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 20])
def test_trellis_rows_in_parts_are_those_of_each_row(rows, monkeypatch) -> None:
    monkeypatch.setattr(module, "_PART_ROWS", 8)
    weight, scheme = gaussian(rows, 64), Scheme("trellis", 32)
    matrix = to_trellis(weight, scheme, None)
    alone = [to_trellis(row[None], scheme, None) for row in weight]

    assert torch.equal(matrix.codes, torch.cat([part.codes for part in alone]))
    assert torch.equal(matrix.scales, torch.cat([part.scales for part in alone]))


def test_trellis_with_gptq_in_parts_is_the_same(monkeypatch) -> None:
    """But for ties, which another order of a sum decides, and what follows from them in a row."""
    weight, x = gaussian(60, 256), correlated(256)
    whole = gptq(weight, inverse_root(x.t() @ x), TRELLIS).dequantize()
    monkeypatch.setattr(module, "_PART_ROWS", 25)
    parts = gptq(weight, inverse_root(x.t() @ x), TRELLIS).dequantize()

    assert float((whole == parts).all(1).float().mean()) > 0.9


@pytest.mark.parametrize("group", GROUPS)
def test_trellis_errors_reach_the_groups_that_follow(group) -> None:
    """As without those parts of the factor they do not."""
    weight, x, scheme = gaussian(64, 256), correlated(256), Scheme("trellis", group)
    exact, root = x @ weight.float().t(), inverse_root(x.t() @ x)
    within = torch.block_diag(*torch.ones(256 // group, group, group))
    whole, cut = (
        float((x @ to_trellis(weight, scheme, factor).dequantize().t() - exact).norm())
        for factor in (root, root * within)
    )

    assert whole < 0.95 * cut


def test_trellis_with_gptq_tries_scales_and_takes_the_best_of_each_row(monkeypatch) -> None:
    weight, x = gaussian(64, 128), correlated(128)
    exact, left, scales = x @ weight.float().t(), [], []
    every = module._FACTORS
    for factors in (every, *((factor,) for factor in every)):
        monkeypatch.setattr(module, "_FACTORS", factors)
        found = to_trellis(weight, TRELLIS, inverse_root(x.t() @ x))
        left.append((x @ found.dequantize().t() - exact).norm(dim=0))
        scales.append(found.scales)
    chosen = torch.cat([scales[0] == one for one in scales[1:]], 1)

    assert chosen.any(1).all()
    assert chosen.any(0).all()
    assert all(float(left[0].norm()) < float(one.norm()) for one in left[1:])


@pytest.mark.parametrize("group", GROUPS)
def test_trellis_with_gptq_has_nearer_products_than_the_nearest(group) -> None:
    weight, x, scheme = gaussian(64, 256), correlated(256), Scheme("trellis", group)
    exact = x @ weight.float().t()
    matrices = [
        NearestRounding().matrix("w", weight, scheme),
        gptq(weight, inverse_root(x.t() @ x), scheme),
    ]
    nearest, ours = (float((x @ m.dequantize().t() - exact).norm()) for m in matrices)

    assert isinstance(matrices[1], TrellisMatrix)
    assert ours < 0.75 * nearest


def test_trellis_with_gptq_has_nearer_products_than_equal_steps_have() -> None:
    weight, x = gaussian(64, 256), correlated(256)
    exact = x @ weight.float().t()
    ours, theirs = (
        float((x @ gptq(weight, inverse_root(x.t() @ x), s).dequantize().t() - exact).norm())
        for s in (TRELLIS, INT4)
    )

    assert ours < 0.9 * theirs


def test_trellis_with_gptq_of_inputs_alike_is_as_near_as_the_nearest() -> None:
    """No column can make up for another's error: with more survivors it is nearer."""
    weight = gaussian(64, 256)
    by_inputs = gptq(weight, inverse_root(torch.eye(256).mul_(1000.0)), TRELLIS).dequantize()
    off = float((by_inputs - weight.float()).square().sum() / weight.float().square().sum())

    assert off < left_of(weight, TRELLIS)


def test_trellis_with_gptq_does_not_change_the_weight() -> None:
    weight, x = gaussian(64, 256).float(), correlated(256)
    before = weight.clone()
    gptq(weight, inverse_root(x.t() @ x), TRELLIS)

    assert torch.equal(weight, before)


@pytest.mark.parametrize("freedom", [3, 5])
def test_trellis_of_heavy_tails_is_near(freedom) -> None:
    """Student's distribution: a few weights are many times as large as most."""
    generator = torch.Generator().manual_seed(0)
    chi = torch.randn(freedom, 128, 512, generator=generator).square().mean(0).sqrt()
    weight = (torch.randn(128, 512, generator=generator) / chi).bfloat16()

    assert left_of(weight, TRELLIS) < 1.1 * left_of(weight, INT4)
    assert left_of(weight, TRELLIS) < 0.025


@pytest.mark.parametrize("size", [10.0, 100.0])
def test_trellis_outlier_is_kept(size) -> None:
    """The scale grows until the tables reach it."""
    weight = gaussian(64, 128)
    weight[:, 40] = size
    restored = NearestRounding().matrix("w", weight, TRELLIS).dequantize()

    off = restored[:, 40] - size

    assert float(off.square().mean().sqrt()) < 0.12 * size
    assert float(off.abs().max()) < 0.5 * size


@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1e-15, 1e15, 1e25, 1e37])
def test_trellis_of_extreme_weights_is_as_near(scale) -> None:
    """Whose squares float32 does not hold."""
    assert left_of((gaussian().float() * scale).bfloat16(), TRELLIS) < 0.0075


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15, 1e25])
def test_trellis_of_extreme_weights_with_gptq_is_as_near(scale) -> None:
    weight, x = gaussian(64, 256).float(), correlated(256)
    off = {}
    for size in (1.0, scale):
        sized = (weight * size).bfloat16()
        found = gptq(sized, inverse_root(x.t() @ x), TRELLIS).dequantize().double()
        off[size] = float((found / size - sized.double() / size).norm())

    assert off[scale] < 1.1 * off[1.0]


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_trellis_of_extreme_inputs_is_as_near(size) -> None:
    weight, x = gaussian(64, 256), correlated(256)
    off = [
        gptq(weight, inverse_root((x * s).t() @ (x * s)), TRELLIS).dequantize() - weight.float()
        for s in (1.0, size)
    ]

    assert float(off[1].norm()) < 1.1 * float(off[0].norm())


def test_trellis_of_equal_weights_is_near() -> None:
    assert left_of(torch.full((64, 128), 0.375).bfloat16(), TRELLIS) < 0.01


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_trellis_of_no_numbers_is_refused_by_name(bad) -> None:
    weight = gaussian()
    weight[5, 7] = bad

    with pytest.raises(ValueError, match=r"'up\.weight' has weights that are NaN or infinite"):
        NearestRounding().matrix("up.weight", weight, TRELLIS)


def test_trellis_group_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="do not divide 200"):
        NearestRounding().matrix("w", gaussian(64, 200), TRELLIS)


def test_scale_is_that_of_the_deviation_or_reaches_the_largest() -> None:
    block = torch.ones(2, 64)
    block[1] = 0.5
    block[1, 3] = 28
    scale = module.scale_of(block, torch.float32)

    assert torch.allclose(scale, torch.tensor([1.0, 10.0]) / DEVIATION)


_MEASURED = """
from pathlib import Path
import torch
from pilotlight_loader.quantize.gptq import gptq
from pilotlight_loader.quantize.inverse_root import inverse_root
from pilotlight_loader.quantize.matrix import TRELLIS

torch.set_num_threads(1)

def memory(line):
    status = Path("/proc/self/status").read_text()
    return int(status.partition(line + ":")[2].split()[0]) * 1024

def some(rows, columns):
    return torch.randn(rows, columns).bfloat16(), torch.eye(columns).mul_(3.0)

def rounded(weight, hessian):
    gptq(weight, inverse_root(hessian), TRELLIS)

rounded(*some(64, 512))  # what torch takes at its first use
weight, hessian = some(600, 1024)
Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins here
before = memory("VmRSS")
rounded(weight, hessian)
print(memory("VmHWM") - before)
"""


def test_trellis_with_gptq_searches_in_bounded_memory() -> None:
    """Of one part of the rows: 64 MiB seen, of which the weight in float32 is 2."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True, timeout=150
    )

    assert int(done.stdout) < 96 << 20


def test_trellis_with_gptq_takes_rows_of_nearly_nothing() -> None:
    """Whose scales are so small that one over them is infinite."""
    weight, x = gaussian(64, 256), correlated(256)
    weight[3] = weight[3] * 1e-38
    restored = gptq(weight, inverse_root(x.t() @ x), TRELLIS).dequantize()

    assert torch.isfinite(restored).all()
    assert float(restored[3].abs().max()) < 1e-36
