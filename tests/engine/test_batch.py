import pytest
import torch

from pilotlight_platform.engine.batch import Batch, mergeable, prefill
from pilotlight_platform.engine.sequence import Sequence
from pilotlight_platform.schemas.generation import GenerationRequest, SamplingParams


@pytest.fixture
def start():
    """Prefill a prompt of some length; the sequence and its cache."""

    def start(skeleton, length):
        params = SamplingParams(temperature=0.0)
        request = GenerationRequest("r", "rev", params, prompt_tokens=(5,) * length)
        sequence = Sequence(skeleton, request)
        with torch.inference_mode():
            logits, cache = prefill(skeleton, sequence)
        sequence.accept(logits)
        return sequence, cache

    return start


def columns(batch):
    return {layer.keys.shape for layer in batch._cache.layers}


@pytest.mark.parametrize(
    ("name", "expected"), [("llama", True), ("mpt", True), ("mistral", False), ("gemma2", False)]
)
def test_only_full_attention_is_merged(name, expected, attach, start):
    skeleton = attach(name).skeleton

    assert mergeable(skeleton, start(skeleton, 3)[1]) is expected


def test_positions_that_depend_on_the_longest_row_are_not_merged(attach, start):
    skeleton = attach("llama").skeleton
    skeleton.batchable = False

    assert not mergeable(skeleton, start(skeleton, 3)[1])


def test_columns_that_only_pad_are_given_back(attach, start):
    skeleton = attach("llama").skeleton
    batch = Batch(skeleton, *start(skeleton, 30))
    for length in (4, 9):
        batch.join(Batch(skeleton, *start(skeleton, length)))
    assert columns(batch) == {(3, 2, 30, 16)}

    batch.keep([1, 2])

    assert columns(batch) == {(2, 2, 9, 16)}
    assert [row.length for row in batch.rows] == [4, 9]


def test_steps_append_in_place(attach, start):
    skeleton = attach("llama").skeleton
    batch = Batch(skeleton, *start(skeleton, 3))
    with torch.inference_mode():
        batch.step()
        buffer = batch._cache.layers[0].keys.data_ptr()
        for _ in range(50):
            batch.step()

    assert batch._cache.layers[0].keys.data_ptr() == buffer
    assert columns(batch) == {(1, 2, 54, 16)}


def test_output_embedding_reads_plain_strides(attach, start):
    """Otherwise torch copies its whole weight at every prefill."""
    skeleton = attach("llama").skeleton
    strides = []
    skeleton.module.lm_head.register_forward_pre_hook(
        lambda _module, args: strides.append(args[0].stride())
    )

    start(skeleton, 10)

    assert strides == [(64, 64, 1)]
