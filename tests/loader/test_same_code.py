"""Code is the same if it does the same, whatever is said about it."""

import types

import torch

from pilotlight_loader.same_code import same_code


def ours(x, scale=2):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1) * scale


def documented(x: torch.Tensor, scale: int = 2) -> torch.Tensor:
    """Says what it does."""
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1) * scale


def test_same_code_stands_elsewhere_with_annotations() -> None:
    def elsewhere(x: torch.Tensor, scale: int = 2) -> torch.Tensor:
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1) * scale

    assert same_code(elsewhere, ours)


def test_same_code_has_the_same_documentation_or_another() -> None:
    def other(x, scale=2):
        """Says something else."""
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1) * scale

    assert same_code(other, documented)


def test_same_code_is_not_what_differs_in_anything() -> None:
    def constant(x, scale=2):
        half = x.shape[-1] // 3
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1) * scale

    def kind_of_constant(x, scale=2):
        half = x.shape[-1] // 2.0
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1) * scale

    def name(x, scale=2):
        half = x.shape[-1] // 2
        return torch.stack((-x[..., half:], x[..., :half]), dim=-1) * scale

    def order(scale, x=2):
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1) * scale

    def instruction(x, scale=2):
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1) + scale

    def default(x, scale=3):
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1) * scale

    def keyword_only(x, *, scale=2):
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1) * scale

    others = (constant, kind_of_constant, name, order, instruction, default, keyword_only)
    assert not any(same_code(other, ours) for other in others)


def test_same_code_means_the_same_torch() -> None:
    def copied(torch_):
        return types.FunctionType(ours.__code__, {"torch": torch_}, "copied", ours.__defaults__)

    assert same_code(copied(torch), ours)
    assert not same_code(copied(types.SimpleNamespace(cat=torch.stack)), ours)


def test_same_code_is_a_functions() -> None:
    assert not same_code(torch.cat, ours)
    assert not same_code(None, ours)
