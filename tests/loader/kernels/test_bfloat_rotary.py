"""The compiled rotary embedding has the bits of transformers'."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.product_checks import (
    assert_right_for_each_of_several,
    assert_same_bits_by_any_threads,
)
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from pilotlight_loader.kernels.bfloat_rotary import BfloatRotary


@pytest.fixture(scope="module", params=["ours", "narrow", "wide"])
def rotary(request, compilers):
    return BfloatRotary(compilers[request.param])


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def some_states(rows, tokens, heads, key_heads, width, tables=1, seed=0):
    query = some(rows, tokens, heads, width, seed=seed).transpose(1, 2)
    key = some(rows, tokens, key_heads, width, seed=seed + 1).transpose(1, 2)
    return query, key, some(tables, tokens, width, seed=2), some(tables, tokens, width, seed=3)


def assert_same(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))


@settings(deadline=None, max_examples=80)
@given(
    rows=st.integers(1, 3),
    tokens=st.integers(1, 5),
    heads=st.integers(1, 5),
    key_heads=st.integers(1, 3),
    half=st.integers(1, 70),
    is_each=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rotary_has_the_bits_of_transformers(
    rotary, rows, tokens, heads, key_heads, half, is_each, seed
) -> None:
    states = some_states(rows, tokens, heads, key_heads, 2 * half, rows if is_each else 1, seed)

    assert_same(rotary.turn(*states), apply_rotary_pos_emb(*states))


@pytest.mark.parametrize("number", [0.0, 1e-40, 3e38, -torch.inf, torch.nan])
def test_rotary_has_the_bits_of_transformers_for_extremes(rotary, number) -> None:
    query, key, cosines, sines = some_states(2, 3, 4, 2, 20)
    query[:, :, 1, 3], cosines[0, 1, 17], sines[0, 0, 5] = number, number, number

    assert_same(
        rotary.turn(query, key, cosines, sines), apply_rotary_pos_emb(query, key, cosines, sines)
    )


def test_rotary_keeps_the_strides(rotary) -> None:
    """What follows makes a view of it."""
    states = some_states(2, 3, 4, 2, 16)
    turned = rotary.turn(*states)

    assert [part.stride() for part in turned] == [part.stride() for part in states[:2]]


def test_rotary_has_the_same_bits_with_any_number_of_threads(rotary) -> None:
    states = some_states(2, 19, 4, 2, 64)

    assert_same_bits_by_any_threads(lambda: torch.cat(rotary.turn(*states), 1))


def test_rotary_may_be_asked_for_by_several_threads(rotary) -> None:
    tables = some(1, 4, 64, seed=2), some(1, 4, 64, seed=3)
    queries = [some(rows, 4, 6, 64, seed=rows).transpose(1, 2) for rows in (1, 2, 9)]

    assert_right_for_each_of_several(
        lambda query: torch.cat(rotary.turn(query, query, *tables), 1), queries
    )
