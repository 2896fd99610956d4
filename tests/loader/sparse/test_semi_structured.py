"""Which weights go to torch's sparse kernels, and that a wrong one is found out."""

import pytest
import torch
from torch.nn import functional

from pilotlight_loader.sparse import semi_structured
from pilotlight_loader.sparse.pattern import compress, expand


def sparse_weight(rows=128, columns=256):
    weight = torch.randn(rows, columns // 4, 4, generator=torch.Generator().manual_seed(0))
    weight[..., 1] = weight[..., 3] = 0
    return weight.view(rows, columns).bfloat16()


@pytest.fixture
def on_gpu(monkeypatch):
    """As on a GPU of this capability, whose compressed weights are those of *make*."""

    def pretend(make, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr(semi_structured, "to_sparse_semi_structured", make)

    return pretend


def refuse(_weight):
    raise RuntimeError("not supported!")


def test_sparse_kernel_that_multiplies_alike_is_taken(on_gpu) -> None:
    on_gpu(torch.clone)
    weight = sparse_weight()

    assert semi_structured.compressed(weight) is not weight


@pytest.mark.parametrize(
    "make",
    [refuse, torch.zeros_like, lambda weight: weight.roll(1, 1), lambda weight: weight * torch.nan],
)
def test_sparse_kernel_that_fails_or_multiplies_otherwise_is_not(make, on_gpu, caplog) -> None:
    on_gpu(make)
    weight = sparse_weight()

    assert semi_structured.compressed(weight) is weight
    assert "sparse_kernel_refused" in caplog.text


def test_sparse_kernel_without_memory_is_no_reason_to_go_without(on_gpu) -> None:
    def exhausted(_weight):
        raise torch.OutOfMemoryError("CUDA out of memory")

    on_gpu(exhausted)

    with pytest.raises(torch.OutOfMemoryError):
        semi_structured.compressed(sparse_weight())


@pytest.mark.parametrize("shape", [(96, 256), (128, 96)])
def test_sparse_kernel_is_not_asked_for_other_shapes(shape, on_gpu) -> None:
    on_gpu(None)  # would be called, and fail
    weight = sparse_weight(*shape)

    assert semi_structured.compressed(weight) is weight


def test_sparse_kernel_is_not_asked_before_ampere(on_gpu) -> None:
    on_gpu(None, (7, 5))
    weight = sparse_weight()

    assert semi_structured.compressed(weight) is weight


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_sparse_weight_on_this_gpu_multiplies_as_the_dense_one(rows) -> None:
    weight = sparse_weight(1024, 2048).cuda()
    expanded = expand(*(tensor.cuda() for tensor in compress(weight.cpu())))
    x = torch.randn(rows, 2048, device="cuda").bfloat16()
    expected = functional.linear(x, weight).float()
    actual = functional.linear(x, semi_structured.compressed(expanded)).float()

    assert torch.equal(expanded, weight)
    assert (actual - expected).norm() <= 1e-2 * expected.norm()
