"""Which norms of transformers are compiled, and what these still leave to torch."""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from pilotlight_loader.kernels import chosen
from pilotlight_loader.kernels.bfloat_norm import BfloatNorm
from pilotlight_loader.kernels.compiler import Compiler
from pilotlight_loader.square_norm import SquareNorm, is_plain

WIDTH = 48


def _norm(dtype: torch.dtype = torch.bfloat16) -> LlamaRMSNorm:
    norm = LlamaRMSNorm(WIDTH, 1e-3).to(dtype).requires_grad_(False)
    norm.weight.data.copy_(torch.linspace(-2, 2, WIDTH))
    return norm


def _hastened(norm: LlamaRMSNorm) -> SquareNorm:
    copied = LlamaRMSNorm(WIDTH, norm.variance_epsilon)
    copied.weight = norm.weight
    copied.__class__ = SquareNorm
    assert isinstance(copied, SquareNorm)
    return copied


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that the kernel was given."""
    pytest.importorskip("llvmlite")
    kernel, shapes = BfloatNorm(Compiler()), []
    rows = kernel.rows

    def noting(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        shapes.append(x.shape)
        return rows(x, weight, epsilon)

    monkeypatch.setattr(kernel, "rows", noting)
    monkeypatch.setattr(chosen, "bfloat_norm", lambda: kernel)
    return shapes


@pytest.mark.parametrize("kind", [LlamaRMSNorm, MistralRMSNorm, Qwen3RMSNorm])
def test_norm_is_known_by_its_code(kind: type[torch.nn.Module]) -> None:
    assert is_plain(kind(WIDTH).bfloat16())


@pytest.mark.parametrize("kind", [GemmaRMSNorm, GptOssRMSNorm, Olmo2RMSNorm, T5LayerNorm])
def test_norm_that_computes_something_else_is_not_taken(kind: type[torch.nn.Module]) -> None:
    """1 + weight; a weight in float32; one that is multiplied before it rounds; other branches."""
    assert not is_plain(kind(WIDTH).bfloat16())


def test_norm_of_other_numbers_is_not_taken() -> None:
    assert not is_plain(_norm(torch.float32))
    assert not is_plain(_norm(torch.float16))
    assert not is_plain(_hastened(_norm()))
    assert not is_plain(torch.nn.Linear(4, 4).bfloat16())


def test_norm_is_compiled_for_rows_of_any_rank(asked: list[torch.Size]) -> None:
    norm = _norm()
    for shape in ((WIDTH,), (1, 1, WIDTH), (2, 5, WIDTH), (2, 5, 3, WIDTH)):
        x = torch.full(shape, -3.0).bfloat16()
        assert torch.equal(_hastened(norm)(x), norm(x))

    assert [len(shape) for shape in asked] == [1, 3, 3, 4]


def test_norm_takes_its_input_by_name(asked: list[torch.Size]) -> None:
    x = torch.ones(2, WIDTH).bfloat16()

    assert torch.equal(_hastened(_norm())(hidden_states=x), _norm()(x))
    assert asked == [x.shape]


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, WIDTH),
        torch.ones(2, WIDTH).half(),
        torch.ones(2, 2 * WIDTH).bfloat16()[:, ::2],
        torch.ones(0, WIDTH).bfloat16(),
        torch.ones(2, 1).bfloat16(),  # torch repeats it
        torch.ones(2, WIDTH).bfloat16().requires_grad_(),
    ],
    ids=["float32", "float16", "strides", "no rows", "one column", "gradient"],
)
def test_norm_leaves_the_rest_to_torch(asked: list[torch.Size], x: torch.Tensor) -> None:
    norm = _norm()
    actual, expected = _hastened(norm)(x), norm(x)

    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)
    assert actual.requires_grad == expected.requires_grad
    assert not asked


def test_norm_of_a_weight_that_is_float32_is_torchs(asked: list[torch.Size]) -> None:
    """As a weight may be given to the module afterwards."""
    norm, x = _norm(torch.float32), torch.ones(2, WIDTH).bfloat16()

    assert _hastened(norm)(x).dtype == torch.float32
    assert not asked


def test_norm_keeps_a_weights_gradient(asked: list[torch.Size]) -> None:
    norm = _hastened(_norm().requires_grad_())
    norm(torch.ones(2, WIDTH).bfloat16()).sum().backward()

    assert norm.weight.grad is not None
    assert not asked


def test_norm_can_be_rehearsed_without_weights(asked: list[torch.Size]) -> None:
    norm = _hastened(_norm()).to("meta")

    assert norm(torch.ones(2, WIDTH, dtype=torch.bfloat16, device="meta")).shape == (2, WIDTH)
    assert not asked


def test_norm_without_a_kernel_has_the_bits_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "bfloat_norm", lambda: None)
    norm, x = _norm(), torch.randn(3, WIDTH).bfloat16()

    assert torch.equal(_hastened(norm)(x), norm(x))
