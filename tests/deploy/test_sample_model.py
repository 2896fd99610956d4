"""The sample model that comes with the package: what it is, and what it is worth."""

import ast
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pilotlight_deploy.demo import MAX_TOKENS, PROMPT
from pilotlight_deploy.held_out import predict, windows
from pilotlight_deploy.sample import TRAINED
from pilotlight_deploy.sample_corpus import encode, held_out, read_corpus, standard_library

torch.set_num_threads(1)

# Held out of Python 3.11.7, where it was trained: 1.16. Other versions hold other files out.
BITS_PER_BYTE = 1.4
WINDOWS = 64


@pytest.fixture(scope="module")
def loaded():
    return AutoModelForCausalLM.from_pretrained(TRAINED, output_loading_info=True)


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TRAINED)


def continued(model, tokenizer, prompt, tokens):
    """*prompt* as a chat message, and its likeliest continuation."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    whole = model.generate(ids, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(whole[0], skip_special_tokens=True)


def test_sample_model_is_small_and_whole(loaded):
    model, info = loaded

    assert not any(info.values())
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() <= 12e6
    assert sum(file.stat().st_size for file in TRAINED.iterdir()) <= 24e6


def test_sample_model_has_rows_that_divide_into_groups(model):
    """Groups of 128 are what int4 kernels take."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]

    assert {layer.in_features % 128 for layer in layers} == {0}


@pytest.mark.parametrize("text", ["def f(x):\n\treturn x\r\n", "é 你好 \x00 \N{ROCKET}", PROMPT])
def test_sample_tokenizer_gives_back_what_it_took(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    assert tokenizer.decode(ids) == text


def test_sample_model_predicts_this_machines_held_out_files(model, tokenizer):
    files = held_out(read_corpus(standard_library()))
    ids = encode(lambda text: tokenizer.backend_tokenizer.encode(text).ids, files, 0, 1)
    parts = windows(ids, model.config.max_position_embeddings)
    parts = parts[:: max(1, len(parts) // WINDOWS)]  # of every file that is not small

    found = predict(lambda part: model(input_ids=part, use_cache=False).logits, parts)

    measured = sum(len(tokenizer.decode(part[1:]).encode()) for part in parts)
    assert found.bits_per_byte(measured) < BITS_PER_BYTE


def test_sample_model_continues_the_demos_prompt_with_python(model, tokenizer):
    text = continued(model, tokenizer, PROMPT, MAX_TOKENS)

    (function,) = ast.parse(text).body

    assert isinstance(function, ast.FunctionDef)
    assert len(function.body) > 1  # more than the docstring that was given
    assert "return" in text.removeprefix(PROMPT)


def test_sample_card_tells_how_to_make_it_again():
    card = (TRAINED / "README.md").read_text()

    assert "python -m train_sample" in card
    assert re.search(r"SHA-256 `[0-9a-f]{64}`", card)
    assert "seed 7" in card
    assert "Python Software Foundation" in card
