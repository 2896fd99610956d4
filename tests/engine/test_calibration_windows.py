"""Which tokens calibrate: parts of a text, or what the model makes up."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pilotlight_platform.engine import calibration_windows
from pilotlight_platform.engine.calibration_windows import (
    CalibrationError,
    own_windows,
    text_windows,
)


def by_character(text: str, **_wishes: Any) -> dict[str, list[int]]:
    return {"input_ids": [ord(character) for character in text]}


def test_windows_come_from_all_over_a_long_text() -> None:
    text = "".join(chr(0x100 + at // 1000) for at in range(500_000))

    windows = text_windows(text, by_character, 128)

    assert len(windows) == 64
    assert {tuple(window.shape) for window in windows} == {(1, 128)}
    assert windows[0][0, 0] == 0x100
    assert windows[-1][0, 0] > 0x100 + 490


def test_windows_come_from_all_over_a_text_that_is_not_long() -> None:
    """It is encoded at once, and has more tokens than the windows take."""
    text = "".join(chr(0x100 + at // 100) for at in range(20_000))

    windows = text_windows(text, by_character, 128)

    assert len(windows) == 64
    assert windows[0][0, 0] == 0x100
    assert windows[-1][0, -1] == 0x100 + 199


def test_text_windows_a_short_text_do_not_overlap() -> None:
    windows = text_windows("".join(chr(0x100 + at) for at in range(1000)), by_character, 256)

    assert [int(window[0, 0]) for window in windows] == [0x100, 0x200, 0x300]


def test_windows_refuse_a_text_that_says_too_little() -> None:
    with pytest.raises(CalibrationError, match="gptq needs 512"):
        text_windows("short", by_character, 256)


def test_windows_refuse_a_text_without_a_tokenizer() -> None:
    with pytest.raises(CalibrationError, match="needs a tokenizer"):
        text_windows("text", None, 256)


VOCABULARY = 40


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=7,
    )
    return LlamaForCausalLM(config).eval()


def test_own_windows_fill_the_context_and_begin_a_text(model) -> None:
    windows = own_windows(model, 24)

    assert {tuple(window.shape) for window in windows} == {(1, 24)}
    assert len(windows) == 64
    assert {int(window[0, 0]) for window in windows} == {7}


def test_own_windows_are_the_same_each_time_and_differ_from_each_other(model) -> None:
    windows, again = own_windows(model, 24), own_windows(model, 24)

    assert all(torch.equal(*pair) for pair in zip(windows, again, strict=True))
    assert len({tuple(window[0].tolist()) for window in windows}) == 64


def test_own_windows_follow_the_models_own_distribution(model) -> None:
    """A model whose next token is the last one and a step of 1 or 3, as likely as not."""
    steps = torch.full((VOCABULARY, VOCABULARY), -50.0)
    for token in range(VOCABULARY):
        steps[token, (token + 1) % VOCABULARY] = steps[token, (token + 3) % VOCABULARY] = 0.0

    def answer(input_ids: torch.Tensor, **_: Any) -> Any:
        output = type(model).forward(model, input_ids=input_ids, **_)
        output.logits = steps[input_ids]
        return output

    model.forward = answer
    ids = torch.cat(own_windows(model, 64))
    taken = (ids[:, 1:] - ids[:, :-1]) % VOCABULARY

    assert set(taken.unique().tolist()) == {1, 3}
    assert 0.45 < float((taken == 1).float().mean()) < 0.55


def test_own_windows_of_a_model_that_names_no_beginning_begin_anywhere(model) -> None:
    model.config.bos_token_id = None

    assert len({int(window[0, 0]) for window in own_windows(model, 8)}) > 10


def test_own_windows_bound_what_keys_and_values_take(model, monkeypatch) -> None:
    window_bytes = 2 * 2 * 2 * 16 * 4 * 24  # layers, heads, both, float32, tokens
    monkeypatch.setattr(calibration_windows, "_CACHE_BYTES", 5 * window_bytes)
    rows = []
    inner = model.forward

    def seen(input_ids: torch.Tensor, **wishes: Any) -> Any:
        rows.append(len(input_ids))
        return inner(input_ids=input_ids, **wishes)

    model.forward = seen
    own_windows(model, 24)

    assert max(rows) == 5


def test_own_windows_tell_how_far_they_are(model) -> None:
    said = []
    own_windows(model, 24, lambda done, total: said.append((done, total)))

    assert said[-1] == (64 * 24, 64 * 24)
    assert [done for done, _ in said] == sorted({done for done, _ in said})


def test_own_windows_of_a_broken_model_are_refused(model) -> None:
    model.lm_head.weight.data[3] = torch.nan

    with pytest.raises(CalibrationError, match="NaN"):
        own_windows(model, 24)


def test_own_windows_of_a_tiny_context_are_refused(model) -> None:
    with pytest.raises(CalibrationError, match="a context of 4 tokens is too short"):
        own_windows(model, 4)
