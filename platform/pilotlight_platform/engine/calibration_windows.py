"""The token ids that a model is calibrated with: from a text, or made up by the model itself."""

from __future__ import annotations

from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from pilotlight_platform.engine.cache import CacheGrowth, growing

WINDOWS = 64  # 256 were no better: 98.6 and 94.8 % agreement of fp8 and int4 both times
_WINDOW_TOKENS = 256
_MIN_TOKENS = 512  # fewer say too little of what matters
# No token has much more than these characters; the tokenizer need not read all of a book.
_TOKEN_CHARACTERS = 16
_CACHE_BYTES = 256 << 20  # keys and values of the windows that are made up at once

Progress = Callable[[int, int], None]  # tokens made up, and in all


class CalibrationError(ValueError):
    """The model cannot be calibrated; says why."""


def text_windows(
    text: str | None, tokenizer: Any, context_length: int | None
) -> list[torch.Tensor]:
    """Token ids [1, tokens] from all over the text; without one from the language reference that
    every Python has. Raises CalibrationError where there is too little."""
    if tokenizer is None:
        raise CalibrationError("a text to calibrate with needs a tokenizer, and there is none")
    if text is None:
        text = "\n\n".join(topics[name] for name in sorted(topics))
    size = _tokens(context_length)
    piece = size * _TOKEN_CHARACTERS
    if len(text) > WINDOWS * piece:
        found = (_encode(tokenizer, text[at : at + piece]) for at in _spread(len(text) - piece))
        return [torch.tensor([ids[:size]]) for ids in found if ids]
    ids = _encode(tokenizer, text)
    if len(ids) < _MIN_TOKENS:
        raise CalibrationError(f"the text has {len(ids)} tokens, gptq needs {_MIN_TOKENS}")
    enough = len(ids) >= WINDOWS * size
    begins = _spread(len(ids) - size) if enough else range(0, len(ids) - size + 1, size)
    return [torch.tensor([ids[begin : begin + size]]) for begin in begins]


def _spread(last: int) -> list[int]:
    """Where windows begin that come from all over a text: those of its beginning alone, as many,
    had 6 % more divergence."""
    return [at * last // (WINDOWS - 1) for at in range(WINDOWS)]


def own_windows(
    model: Any, context_length: int | None, progress: Progress | None = None
) -> list[torch.Tensor]:
    """Token ids [1, tokens] that *model* draws from its own distribution, after one that begins a
    text: what it was trained on, as far as it remembers (LLM-QAT, Liu et al. 2023,
    arXiv:2305.17888). The same ones each time, on one machine. Raises CalibrationError for logits
    that are NaN, or a context that is too short.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    first = _beginnings(model.config, vocabulary, generator)
    size = _tokens(context_length)
    if WINDOWS * size < _MIN_TOKENS:
        raise CalibrationError(f"a context of {size} tokens is too short for gptq")
    rows = _rows_at_once(model, first[:1], size)
    found: list[torch.Tensor] = []
    for start in range(0, WINDOWS, rows):
        drawn = [first[start : start + rows]]
        cache = DynamicCache(config=model.config)
        while len(drawn) < size:
            drawn.append(_next(model, drawn[-1], cache, generator))
            if all(type(each) is DynamicLayer and each.is_initialized for each in cache.layers):
                cache = growing(cache)  # else each token copies all that is there
            if progress is not None:
                progress(start * size + len(drawn) * len(drawn[0]), WINDOWS * size)
        found += torch.cat(drawn, 1)[:, None]
    return found


def _tokens(context_length: int | None) -> int:
    return min(_WINDOW_TOKENS, context_length or _WINDOW_TOKENS)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _beginnings(config: Any, vocabulary: int, generator: torch.Generator) -> torch.Tensor:
    """[WINDOWS, 1]: the token that begins a text; any, where the model names none."""
    begin = getattr(config.get_text_config(decoder=True), "bos_token_id", None)
    if isinstance(begin, int) and 0 <= begin < vocabulary:
        return torch.full((WINDOWS, 1), begin)
    return torch.randint(vocabulary, (WINDOWS, 1), generator=generator)


@torch.no_grad()
def _rows_at_once(model: Any, ids: torch.Tensor, size: int) -> int:
    """Windows whose keys and values there is room for, as seen after *ids* [1, 1]."""
    cache = DynamicCache(config=model.config)
    model(input_ids=ids, past_key_values=cache, use_cache=True)
    # Some layers have states that do not grow.
    stateful = [layer for layer in cache.layers if getattr(layer, "keys", None) is None]
    held = [value for layer in stateful for value in vars(layer).values()]
    states = sum(value.nbytes for value in held if isinstance(value, torch.Tensor))
    window_bytes = CacheGrowth.of(cache).nbytes(size) + states
    return max(1, min(WINDOWS, _CACHE_BYTES // max(1, window_bytes)))


@torch.no_grad()
def _next(
    model: Any, ids: torch.Tensor, cache: DynamicCache, generator: torch.Generator
) -> torch.Tensor:
    """The tokens [rows, 1] after *ids* [rows, 1] and what *cache* holds, at temperature 1."""
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]
    likely = logits.float().softmax(-1)
    if not bool(torch.isfinite(likely).all()):
        raise CalibrationError("the model's logits are NaN or infinite")
    return torch.multinomial(likely, 1, generator=generator)
