"""The factor of a Hessian's inverse against float64, and what it is made in."""

import pytest
import torch

from pilotlight_loader.quantize import inverse_root as module
from pilotlight_loader.quantize.inverse_root import inverse_root


def a_hessian(columns: int, tokens: int, always_zero: tuple[int, ...] = ()) -> torch.Tensor:
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(columns))
    x[:, list(always_zero)] = 0
    return x.t() @ x


def damped(hessian: torch.Tensor, share: float = 0.01) -> torch.Tensor:
    wide = hessian.double()
    diagonal = wide.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += share * diagonal.mean()
    return wide


def off_from(root: torch.Tensor, exact: torch.Tensor) -> float:
    """Of the inverse of *exact* times itself, from what it should be."""
    upper = root.triu().double()
    identity = upper.t() @ upper @ exact
    return float((identity - torch.eye(len(exact))).abs().max())


@pytest.mark.parametrize("columns", [1, 8, 256, 300, 512, 700])  # blocks of 256, whole and not
def test_inverse_root_is_that_of_the_damped_hessian(columns) -> None:
    hessian = a_hessian(columns, 4 * columns)
    exact = damped(hessian)
    root = inverse_root(hessian)

    assert off_from(root, exact) < 1e-4
    assert bool((root.diagonal() > 0).all())


@pytest.mark.parametrize(
    ("tokens", "always_zero"), [(5, ()), (2000, (0, 299, 699)), (0, ())], ids=str
)
def test_inverse_root_of_a_singular_hessian_is_that_of_the_damped_one(tokens, always_zero) -> None:
    hessian = a_hessian(700, tokens, always_zero)
    exact = damped(hessian)
    reference = torch.linalg.cholesky(torch.linalg.inv(exact), upper=True)
    root = inverse_root(hessian).triu().double()

    assert float((root - reference).norm() / reference.norm()) < 1e-4


def test_inverse_root_is_damped_more_until_there_is_one() -> None:
    hessian = a_hessian(700, 350)
    hessian -= 0.05 * hessian.diagonal().mean() * torch.eye(700)
    tries = [damped(hessian), damped(hessian, 0.11)]
    root = inverse_root(hessian)

    assert float(torch.linalg.eigvalsh(tries[0])[0]) < 0 < float(torch.linalg.eigvalsh(tries[1])[0])
    assert off_from(root, tries[1]) < 1e-3


def test_inverse_root_is_made_in_the_hessians_memory() -> None:
    hessian = a_hessian(300, 600)

    assert inverse_root(hessian).data_ptr() == hessian.data_ptr()


def test_inverse_root_gives_up_on_what_is_no_hessian() -> None:
    with pytest.raises(ValueError, match="too short"):
        inverse_root(torch.full((300, 300), 10.0).fill_diagonal_(0.1))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_inverse_root_refuses_what_is_no_number(bad) -> None:
    hessian = a_hessian(300, 600)
    hessian[299, 0] = bad

    with pytest.raises(ValueError, match="NaN or infinite"):
        inverse_root(hessian)


def test_inverse_root_by_other_blocks_is_the_same(monkeypatch) -> None:
    hessian = a_hessian(300, 600)
    whole = inverse_root(hessian.clone()).triu()
    monkeypatch.setattr(module, "_BLOCK", 7)

    assert torch.allclose(inverse_root(hessian).triu(), whole, atol=1e-5)
