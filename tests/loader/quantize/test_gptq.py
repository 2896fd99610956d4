"""GPTQ's products are nearer than those of the nearest codes, on the inputs that it was shown."""

import pytest
import torch

from pilotlight_loader.quantize.gptq import gptq
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
    matrices = [NearestRounding().matrix("w", weight, scheme), gptq(weight, x.t() @ x, scheme)]
    nearest, ours = (float((x @ m.dequantize().t() - exact).norm()) for m in matrices)

    assert ours < 0.75 * nearest


def test_gptq_takes_inputs_that_are_always_zero_or_too_few() -> None:
    weight, x = weight_and_inputs()
    x[:, 7] = 0
    few = x[:4]

    off = gptq(weight, few.t() @ few, INT4).dequantize() - weight.float()
    assert float(off.norm() / weight.float().norm()) < 0.3


def test_gptq_refuses_activations_that_are_no_numbers() -> None:
    weight, _ = weight_and_inputs()

    with pytest.raises(ValueError, match="NaN or infinite"):
        gptq(weight, torch.full((256, 256), torch.nan), INT4)
