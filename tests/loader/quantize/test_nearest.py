"""Rounding is as near as the grid allows, also for strange weights."""

import pytest
import torch

from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, TRELLIS, QuantizedMatrix, Scheme
from pilotlight_loader.quantize.nearest import NearestRounding

SCHEMES = [INT8, INT4, TRELLIS, FP8]
ROUNDING = NearestRounding()


def gaussian(rows: int = 64, columns: int = 256) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).bfloat16()


def error(weight: torch.Tensor, scheme: Scheme) -> float:
    off = ROUNDING.matrix("w", weight, scheme).dequantize() - weight.float()
    return float(off.norm() / weight.float().norm())


@pytest.mark.parametrize(
    ("scheme", "most"), [(INT8, 0.01), (INT4, 0.1), (TRELLIS, 0.087), (FP8, 0.03)]
)
def test_nearest_error_of_a_gaussian_is_small(scheme, most) -> None:
    assert 0 < error(gaussian(), scheme) < most


def test_nearest_int4_is_better_than_scales_that_reach_every_weight() -> None:
    weight = gaussian()
    groups = weight.float().view(64, 2, 128)
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    step = (high - low) / 15
    plain = ((groups - low) / step).round() * step + low

    assert error(weight, INT4) < 0.97 * float((plain - groups).norm() / groups.norm())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nearest_zeros_are_exactly_zero(scheme) -> None:
    weight = gaussian()
    weight[3] = 0
    weight[:, :128] = 0

    restored = ROUNDING.matrix("w", weight, scheme).dequantize()

    assert not restored[3].any()
    assert scheme.group == 0 or not restored[:, :128].any()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_nearest_extreme_weights_are_as_near(scheme, scale) -> None:
    assert error((gaussian().float() * scale).bfloat16(), scheme) < 0.1


def test_nearest_group_of_equal_weights_is_itself() -> None:
    assert error(torch.full((64, 128), 0.375).bfloat16(), INT4) < 0.01


def test_nearest_chooses_zero_points_where_they_help() -> None:
    both = [ROUNDING.matrix("w", weight, INT4) for weight in (gaussian(), gaussian().abs())]

    assert isinstance(both[1], QuantizedMatrix)
    assert both[1].zeros is not None
    assert error(gaussian().abs(), INT4) < error(gaussian(), INT4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nearest_refuses_what_is_no_number_by_name(scheme, bad) -> None:
    weight = gaussian()
    weight[5, 7] = bad

    with pytest.raises(ValueError, match=r"'up\.weight' has weights that are NaN or infinite"):
        ROUNDING.matrix("up.weight", weight, scheme)


def test_nearest_refuses_no_weights() -> None:
    with pytest.raises(ValueError, match="nothing to quantize"):
        ROUNDING.matrix("w", torch.empty(0, 128), INT8)
