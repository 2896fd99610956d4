"""One compute thread runs requests of several replicas, batched where a model allows it."""

from __future__ import annotations

import pytest
import torch

from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    ReplicaGoneError,
)

CONTEXT = 128  # of every model in conftest
ARCHITECTURES = ["llama", "qwen2", "qwen3", "gpt2", "mpt", "mistral", "gemma2"]
PROMPTS = [[5, 9, 44], [7] * 15, [100, 200, 300, 12, 13, 14, 15], [42], list(range(20, 50))]


def generated(model, prompt, tokens):
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_request_equals_generate_token_for_token(name, attach, reference, submit):
    replica = attach(name)
    model = reference(name)

    for prompt in PROMPTS:
        expected = generated(model, prompt, 24)
        answer = submit(replica, prompt, max_tokens=24).finish()

        ended = expected[-1] == 1
        assert answer.tokens == (expected[:-1] if ended else expected)
        assert answer.finish_reason == ("stop" if ended else "length")
        assert answer.count == len(expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batched_rows_answer_as_if_alone(name, attach, reference, submit):
    """Rows of different lengths join and leave at different times, and change nothing."""
    replica = attach(name)
    model = reference(name)
    lengths = [21, 3, 12, 30, 7]

    answers = [
        submit(replica, prompt, max_tokens=count, ignore_eos=True)
        for prompt, count in zip(PROMPTS, lengths, strict=True)
    ]

    model.generation_config.eos_token_id = None
    for prompt, count, answer in zip(PROMPTS, lengths, answers, strict=True):
        assert answer.finish().tokens == generated(model, prompt, count)


@pytest.mark.parametrize("name", ["llama", "mpt", "mistral"])
def test_end_of_sequence_stops_where_generate_stops(name, attach, reference, submit):
    replica = attach(name)
    model = reference(name)
    free = submit(replica, PROMPTS[0], max_tokens=12, ignore_eos=True).finish().tokens
    end = next(token for at, token in enumerate(free) if at >= 3 and token not in free[:at])
    replica.skeleton.eos_ids = frozenset({end})
    model.generation_config.eos_token_id = [end]

    answer = submit(replica, PROMPTS[0], max_tokens=12).finish()

    expected = generated(model, PROMPTS[0], 12)
    assert expected[-1] == end
    assert answer.tokens == expected[:-1]
    assert answer.finish_reason == "stop"
    assert answer.count == len(expected)


def test_end_of_sequence_on_the_first_token_is_one_chunk(attach, submit):
    replica = attach("llama")
    first = submit(replica, PROMPTS[0], max_tokens=1).finish().tokens[0]
    replica.skeleton.eos_ids = frozenset({first})

    answer = submit(replica, PROMPTS[0]).finish()

    [chunk] = answer.chunks
    assert (chunk.text, chunk.tokens, chunk.finish_reason) == ("", 1, "stop")
    assert chunk.prompt_tokens == len(PROMPTS[0])
    assert [span.name for span in chunk.spans] == ["prefill", "decode"]


def test_two_replicas_take_turns(attach, reference, submit):
    llama, gpt2 = attach("llama"), attach("gpt2")

    answers = [
        (name, submit(replica, PROMPTS[1], max_tokens=20, ignore_eos=True))
        for name, replica in (("llama", llama), ("gpt2", gpt2), ("llama", llama))
    ]

    for name, answer in answers:
        model = reference(name)
        model.generation_config.eos_token_id = None
        assert answer.finish().tokens == generated(model, PROMPTS[1], 20)


def test_first_answer_after_attach_carries_the_cold_spans(attach, submit):
    replica = attach("llama")
    assert replica.wait_staged(60)

    cold = submit(replica, PROMPTS[0]).finish()
    warm = submit(replica, PROMPTS[0]).finish()

    assert [span.name for span in cold.chunks[0].spans] == ["attach", "stage", "prefill"]
    assert {span.tier for span in cold.chunks[0].spans} == {"host", None}
    assert cold.chunks[0].spans[0].nbytes == replica.nbytes
    assert [span.name for span in warm.chunks[0].spans] == ["prefill"]
    assert [span.name for span in warm.chunks[-1].spans] == ["decode"]
    assert all(span.end_s >= span.start_s for span in cold.chunks[0].spans)


def test_seeded_sampling_is_reproducible_beside_any_neighbour(attach, submit):
    replica = attach("llama")
    sampled = {"temperature": 1.0, "seed": 11, "max_tokens": 20, "ignore_eos": True}

    alone = submit(replica, PROMPTS[0], **sampled).finish().tokens
    neighbours = [
        submit(replica, prompt, temperature=1.5, seed=3, max_tokens=15) for prompt in PROMPTS[1:3]
    ]
    crowded = submit(replica, PROMPTS[0], **sampled).finish().tokens
    other_seed = submit(replica, PROMPTS[0], **{**sampled, "seed": 12}).finish().tokens

    assert crowded == alone
    assert other_seed != alone
    assert all(neighbour.finish() for neighbour in neighbours)


def test_logprobs_are_the_log_softmax_of_the_reference(attach, reference, submit):
    replica = attach("qwen2")
    model = reference("qwen2")

    answer = submit(replica, PROMPTS[2], max_tokens=5, logprobs=3, ignore_eos=True).finish()

    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[2] + answer.tokens])).logits[0]
    expected = logits.log_softmax(-1)[len(PROMPTS[2]) - 1 : -1]
    for row, logprob in zip(expected, answer.logprobs, strict=True):
        top = row.topk(3)
        assert logprob.logprob == pytest.approx(float(row[logprob.token_id]), abs=1e-4)
        assert [token for token, *_ in logprob.top] == top.indices.tolist()
        assert [value for *_, value in logprob.top] == pytest.approx(top.values.tolist(), abs=1e-4)


def test_streamed_text_is_what_the_tokenizer_decodes(attach, submit, tokenizer):
    replica = attach("gpt2")

    answer = submit(replica, "the quick", max_tokens=40, ignore_eos=True, temperature=0.7, seed=5)
    answer.finish()

    whole = tokenizer.decode(answer.tokens, skip_special_tokens=True)
    assert answer.text.rstrip("�") == whole.rstrip("�")


def test_stop_string_ends_the_answer_before_it(attach, submit):
    replica = attach("llama")
    free = submit(replica, "a pilot", max_tokens=30, ignore_eos=True, temperature=1.0, seed=2)
    text = free.finish().text
    stop = text[8:12]

    answer = submit(
        replica, "a pilot", max_tokens=30, ignore_eos=True, temperature=1.0, seed=2, stop=(stop,)
    ).finish()

    assert answer.text == text[: text.index(stop)]
    assert answer.finish_reason == "stop"


def test_cancelled_request_frees_its_row_and_stays_silent(attach, engine, submit):
    replica = attach("llama")
    endless = submit(replica, PROMPTS[0], max_tokens=None, ignore_eos=True)
    endless.next()

    endless.ticket.cancel()
    endless.ticket.cancel()
    other = submit(replica, PROMPTS[1]).finish()

    assert other.count > 0
    assert engine.ongoing(replica) == 0
    assert all(item.finish_reason is None for item in drain(endless))


def test_waiting_request_can_be_cancelled(attach, engine, submit):
    replica = attach("llama")
    running = [submit(replica, PROMPTS[0], max_tokens=40, ignore_eos=True) for _ in range(4)]
    waiting = submit(replica, PROMPTS[0])

    waiting.ticket.cancel()

    for answer in running:
        assert answer.finish().count == 40
    assert submit(replica, PROMPTS[0]).finish()
    assert drain(waiting) == []
    assert engine.ongoing(replica) == 0


def test_full_batch_makes_the_next_request_wait(attach, submit):
    replica = attach("llama")

    answers = [submit(replica, PROMPTS[0], max_tokens=10, ignore_eos=True) for _ in range(9)]

    assert len({tuple(answer.finish().tokens) for answer in answers}) == 1


def test_failing_request_leaves_its_neighbours(attach, submit):
    replica = attach("llama")
    neighbour = submit(replica, PROMPTS[0], max_tokens=30, ignore_eos=True)

    with pytest.raises(InvalidRequestError, match="999"):
        submit(replica, [5, 999]).finish()

    assert neighbour.finish().count == 30


def test_failing_forward_fails_its_batch_and_nothing_else(attach, submit):
    """The rows that ran are lost with a clear error; the thread and the waiting live on."""
    replica, other = attach("llama"), attach("gpt2")
    rows = [submit(replica, prompt, max_tokens=None, ignore_eos=True) for prompt in PROMPTS[:2]]
    for row in rows:
        row.next()
    module = replica.skeleton.module
    broken = module.model.layers[1].register_forward_pre_hook(explode)

    for row in rows:
        with pytest.raises(EngineError, match=r"RuntimeError: boom"):
            row.finish()
    broken.remove()

    assert submit(other, PROMPTS[0]).finish().count > 0
    assert submit(replica, PROMPTS[0]).finish().count > 0


def test_rows_that_share_no_cache_fail_alone(attach, submit):
    replica = attach("mistral")
    rows = [submit(replica, prompt, max_tokens=60, ignore_eos=True) for prompt in PROMPTS[:2]]
    for row in rows:
        row.next()
    once = []

    def explode_once(*_):
        if not once:
            once.append(True)
            raise RuntimeError("boom")

    replica.skeleton.module.model.layers[0].register_forward_pre_hook(explode_once)
    ends = []
    for row in rows:
        try:
            ends.append(row.finish().count)
        except EngineError:
            ends.append("failed")

    assert sorted(map(str, ends)) == ["60", "failed"]


def test_not_a_number_is_an_error(attach, submit):
    replica = attach("llama")
    replica.skeleton.module.lm_head.register_forward_hook(
        lambda _module, _args, logits: logits * float("nan")
    )

    with pytest.raises(EngineError, match="NaN"):
        submit(replica, PROMPTS[0]).finish()


def test_sink_that_raises_counts_as_cancelled(attach, engine, submit):
    replica = attach("llama")
    calls = []

    def sink(item):
        calls.append(item)
        raise ValueError("nobody listens")

    submit(replica, PROMPTS[0], max_tokens=None, ignore_eos=True, sink=sink)
    submit(replica, PROMPTS[1]).finish()

    assert len(calls) == 1
    assert engine.ongoing(replica) == 0


@pytest.mark.parametrize("prompt", [[5] * CONTEXT, [5] * (CONTEXT + 40), "the " * 200])
def test_prompt_that_fills_the_context_is_refused(prompt, attach, submit):
    with pytest.raises(ContextLengthError, match=rf"\d+ tokens.*{CONTEXT}"):
        submit(attach("llama"), prompt).finish()


@pytest.mark.parametrize("name", ["llama", "gpt2", "mpt", "mistral"])
def test_answer_ends_when_the_context_is_full(name, attach, submit):
    """Also in a batch: padding takes no room from the longest row."""
    replica = attach(name)

    answers = [
        submit(replica, [5] * length, max_tokens=None, ignore_eos=True) for length in (120, 2, 127)
    ]

    assert [answer.finish().count for answer in answers] == [8, 126, 1]
    assert {answer.finish_reason for answer in answers} == {"length"}


def test_empty_prompt_begins_with_bos(attach, submit):
    replica = attach("llama")

    empty = submit(replica, "").finish()

    assert empty.chunks[0].prompt_tokens == 1
    assert empty.tokens == submit(replica, [0]).finish().tokens


def test_empty_token_prompt_is_refused(attach, submit):
    with pytest.raises(InvalidRequestError, match="empty"):
        submit(attach("llama"), []).finish()


def test_dropped_replica_fails_what_is_left(attach, engine, submit):
    replica = attach("llama")
    rows = [submit(replica, PROMPTS[0], max_tokens=None, ignore_eos=True) for _ in range(4)]
    waiting = submit(replica, PROMPTS[0])
    for row in rows:
        row.next()

    engine.drop(replica)
    replica.detach()

    with pytest.raises(EngineError, match="dropped"):
        rows[0].finish()
    with pytest.raises(ReplicaGoneError):
        waiting.finish()
    with pytest.raises(ReplicaGoneError):
        submit(replica, PROMPTS[0]).finish()
    assert engine.ongoing(replica) == 0


def test_detach_without_drop_is_an_error_not_a_crash(attach, submit):
    replica, other = attach("llama"), attach("gpt2")
    running = submit(replica, PROMPTS[0], max_tokens=None, ignore_eos=True)
    running.next()

    replica.detach()

    with pytest.raises(EngineError, match="dropped"):
        running.finish()
    assert submit(other, PROMPTS[0]).finish().count > 0


def test_close_fails_what_is_left(attach, submit):
    replica = attach("llama")
    engine = Engine(threads=1)
    engine.start()
    answer = submit(replica, PROMPTS[0], max_tokens=None, ignore_eos=True, to=engine)
    answer.next()

    assert engine.close()
    assert engine.close()

    with pytest.raises(EngineError, match="closed"):
        answer.finish()
    with pytest.raises(EngineError, match="closed"):
        submit(replica, PROMPTS[0], to=engine).finish()
    assert not engine.alive


def drain(answer):
    items = []
    while not answer.items.empty():
        items.append(answer.items.get_nowait())
    return items


def explode(*_):
    raise RuntimeError("boom")
