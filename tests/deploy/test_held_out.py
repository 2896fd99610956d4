"""Perplexity and agreement, on models whose answers are known."""

import math

import pytest
import torch

from pilotlight_deploy.held_out import predict, windows

VOCAB = 8
IDS = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]


def uniform(ids):
    return torch.zeros(1, ids.shape[1], VOCAB)


def successor(ids):
    """Sure that each token is followed by the next number."""
    return 20.0 * torch.nn.functional.one_hot((ids + 1) % VOCAB, VOCAB)


@pytest.mark.parametrize("length", [1, 3, 9, 100])
def test_windows_score_every_token_but_the_first_once(length):
    parts = windows(IDS, length)

    assert torch.cat([part[1:] for part in parts]).tolist() == IDS[1:]
    assert max(len(part) for part in parts) <= length + 1
    assert [int(part[0]) for part in parts] == IDS[:-1][::length]


def test_perplexity_of_a_model_that_knows_nothing_is_its_vocabulary():
    found = predict(uniform, windows(IDS, 4))

    assert found.perplexity == pytest.approx(VOCAB)
    assert found.bits_per_byte(2 * len(found.nats)) == pytest.approx(math.log2(VOCAB) / 2)


def test_perplexity_of_a_model_that_knows_all_is_one():
    found = predict(successor, windows(IDS, 4))

    assert found.perplexity == pytest.approx(1.0, abs=1e-6)
    assert found.choices.tolist() == IDS[1:]


def test_perplexity_does_not_depend_on_the_windows_of_a_model_without_memory():
    whole, cut = (predict(successor, windows(IDS, length)) for length in (100, 2))

    assert torch.equal(whole.nats, cut.nats)


def test_agreement_counts_equal_choices():
    sure, flat = (predict(model, windows(IDS, 4)) for model in (successor, uniform))

    assert sure.top1_agreement(sure) == 1.0
    assert sure.top1_agreement(flat) == pytest.approx(1 / 9)  # only one successor is token 0


def test_agreement_of_two_texts_is_refused():
    one, other = predict(successor, windows(IDS, 4)), predict(successor, windows(IDS[:-1], 4))

    with pytest.raises(ValueError, match="9 and 8 tokens"):
        one.top1_agreement(other)
