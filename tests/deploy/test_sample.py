"""Sample checkpoints."""

import hashlib
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.sample import SHAPES, TRAINED, write_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("samples") / "tiny", "tiny")


def digests(path):
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())
    }


def test_transformers_loads_every_weight(sample):
    model, info = AutoModelForCausalLM.from_pretrained(sample.path, output_loading_info=True)

    assert not any(info.values())
    assert model.config.vocab_size == SHAPES["tiny"].vocab


def test_model_generates_with_its_tokenizer(sample):
    model = AutoModelForCausalLM.from_pretrained(sample.path)
    tokenizer = AutoTokenizer.from_pretrained(sample.path)
    messages = [{"role": "user", "content": "Hé, 你好"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]

    answer = model.generate(ids, max_new_tokens=4, do_sample=False)

    assert text == "<|begin|>user: Hé, 你好\nassistant:"
    assert tokenizer.decode(ids[0]) == text
    assert len(tokenizer) == SHAPES["tiny"].vocab
    assert torch.equal(answer[0, : ids.shape[1]], ids[0])


def test_the_same_sample_has_the_same_bytes(sample, tmp_path):
    again = write_sample(tmp_path / "again", "tiny")

    assert digests(again.path) == digests(sample.path)


def test_trained_sample_is_the_one_that_comes_with_the_package(tmp_path):
    made = write_sample(tmp_path / "s", "trained")
    found = digests(made.path)

    assert found.pop("pilotlight-sample.json")
    assert found == digests(TRAINED)
    assert write_sample(tmp_path / "s", "trained").reused


def test_trained_sample_does_not_take_the_place_of_another_size(sample):
    with pytest.raises(CliError, match="not this sample"):
        write_sample(sample.path, "trained")


def test_identical_sample_is_reused(sample):
    before = (sample.path / "model.safetensors").stat().st_mtime_ns

    assert write_sample(sample.path, "tiny").reused
    assert (sample.path / "model.safetensors").stat().st_mtime_ns == before


def test_empty_directory_is_filled(tmp_path):
    assert not write_sample(tmp_path, "tiny").reused


def test_another_thing_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")

    with pytest.raises(CliError, match="not this sample") as caught:
        write_sample(tmp_path, "tiny")
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_damaged_sample_is_not_reused(tmp_path):
    write_sample(tmp_path / "s", "tiny")
    (tmp_path / "s" / "tokenizer.json").write_text("{}")

    with pytest.raises(CliError, match="not this sample"):
        write_sample(tmp_path / "s", "tiny")


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        write_sample(tmp_path / "s", "tiny")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(CliError, match="cannot be written"):
        write_sample(tmp_path / "file" / "s", "tiny")
