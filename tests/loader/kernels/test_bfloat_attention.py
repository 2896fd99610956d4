"""The compiled attention is softmax(q K^T) V, whatever the shapes and strides."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.product_checks import (
    assert_right_for_each_of_several,
    assert_same_bits_by_any_threads,
)

from pilotlight_loader.kernels.bfloat_attention import BfloatAttention, fits

SCALE = 0.2


@pytest.fixture(scope="module", params=["ours", "narrow", "wide"])
def attention(request, compilers):
    return BfloatAttention(compilers[request.param])


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def some_states(rows, key_heads, sharing, columns, width, value_width=None, seed=0):
    """Keys and values are views of buffers with room, as a cache has them."""
    query = some(rows, key_heads * sharing, 1, width, seed=seed)
    room = columns + 3
    key = some(rows, key_heads, room, width, seed=seed + 1)[:, :, :columns]
    value = some(rows, key_heads, room, value_width or width, seed=seed + 2)[:, :, :columns]
    return query, key, value


def reference(query, key, value, scale=SCALE):
    sharing = query.shape[1] // key.shape[1]
    key, value = (part.double().repeat_interleave(sharing, 1) for part in (key, value))
    shares = (query.double() @ key.transpose(2, 3) * scale).softmax(-1)
    return (shares @ value).transpose(1, 2)


def assert_near(actual, query, key, value, scale=SCALE):
    expected = reference(query, key, value, scale)
    largest = float(value.double().abs().max())

    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.double(), expected, rtol=1 / 256, atol=2e-6 * largest)


@settings(deadline=None, max_examples=80)
@given(
    rows=st.integers(1, 3),
    key_heads=st.integers(1, 3),
    sharing=st.integers(1, 4),
    columns=st.integers(1, 70),
    width=st.integers(1, 8).map(lambda n: 16 * n),
    value_width=st.integers(1, 8).map(lambda n: 16 * n),
    seed=st.integers(0, 99),
)
@example(rows=1, key_heads=1, sharing=1, columns=1, width=16, value_width=16, seed=0)
@example(rows=2, key_heads=2, sharing=2, columns=259, width=64, value_width=64, seed=0)
def test_attention_is_the_reference_for_any_shape(
    attention, rows, key_heads, sharing, columns, width, value_width, seed
) -> None:
    states = some_states(rows, key_heads, sharing, columns, width, value_width, seed)
    assert fits(*states)

    assert_near(attention.attend(*states, SCALE), *states)


@pytest.mark.parametrize("sharing", [1, 2])
def test_attention_takes_keys_that_lie_by_columns(attention, sharing) -> None:
    """As a product leaves them, before any cache."""
    query, key, value = some_states(2, 3, sharing, 9, 32)
    key, value = (part.transpose(1, 2).contiguous().transpose(1, 2) for part in (key, value))
    assert fits(query, key, value)

    assert_near(attention.attend(query, key, value, SCALE), query, key, value)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, -30.0])
@pytest.mark.parametrize("sharing", [1, 2])
def test_attention_of_scores_of_any_size(attention, scale, sharing) -> None:
    """From all alike to one that counts alone, whose others are less than a float can be."""
    states = some_states(1, 2, sharing, 40, 64)

    assert_near(attention.attend(*states, scale), *states, scale)


def test_attention_of_huge_scores_is_the_value_of_the_largest(attention) -> None:
    query, key, value = some_states(1, 1, 2, 11, 16)
    query.fill_(1e18)
    key.fill_(-1e18)
    key[:, :, 7] = 1e18

    assert torch.equal(
        attention.attend(query, key, value, SCALE)[0, 0], value[0, :, 7].expand(2, 16)
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_attention_without_numbers_stays_by_itself(attention, bad) -> None:
    query, key, value = some_states(2, 2, 2, 9, 32)
    key = key.abs().contiguous()
    query = query.abs()
    key[1, 0, 4, 3] = bad
    value = value.contiguous()
    value[0, 1, 8, 5] = torch.nan
    actual = attention.attend(query, key, value, SCALE)

    assert actual[1, 0, :2].isnan().all()
    assert actual[0, 0, 2:, 5].isnan().all()
    actual[1, 0, :2] = 0
    actual[0, 0, 2:, 5] = 0
    assert actual.isfinite().all()


@pytest.mark.parametrize("sharing", [1, 2, 3])
def test_attention_has_the_same_bits_with_any_number_of_threads(attention, sharing) -> None:
    states = some_states(2, 5, sharing, 77, 64)

    assert_same_bits_by_any_threads(lambda: attention.attend(*states, SCALE))


def test_attention_may_be_asked_for_by_several_threads(attention) -> None:
    _, key, value = some_states(1, 4, 1, 200, 64)
    queries = [some(1, heads, 1, 64, seed=heads) for heads in (4, 8, 12)]

    assert_right_for_each_of_several(
        lambda query: attention.attend(query, key, value, SCALE), queries
    )


def test_attention_fits_only_what_the_kernel_reads() -> None:
    query, key, value = some_states(2, 2, 2, 9, 32)

    assert fits(query, key, value)
    assert not fits(query.float(), key.float(), value.float())
    assert not fits(query, key.float(), value)
    assert not fits(query.expand(2, 4, 2, 32), key, value)
    assert not fits(query[:, :3], key, value)
    assert not fits(query[..., :16].contiguous(), key, value)
    assert not fits(query[..., ::2], key[..., ::2], value)
    assert not fits(*(part[..., :24].contiguous() for part in (query, key, value)))
    assert not fits(query, key, value[..., :24])
    assert not fits(query, key[:1], value[:1])
    assert not fits(query, key, value[:, :, :8])
    assert not fits(query, key[:, :, :0], value[:, :, :0])
    assert not fits(query, key.mT.contiguous().mT, value)
    assert not fits(query, key, value.mT.contiguous().mT)
    assert not fits(query.to("meta"), key, value)
    assert not fits(query.requires_grad_(), key, value)
