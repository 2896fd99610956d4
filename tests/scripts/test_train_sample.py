"""scripts/train_sample, whole, on a model and a library of seconds."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pilotlight_deploy import sample_corpus

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
PATHS = [f"module_{number}.py" for number in range(48)]  # some are held out

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch below 2.9")


@pytest.fixture(scope="module", autouse=True)
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("train_sample.__main__")


@pytest.fixture(scope="module")
def runs():
    return importlib.import_module("train_sample.run")


@pytest.fixture(scope="module")
def small():
    """A recipe that goes through every phase in a second."""
    recipes = importlib.import_module("train_sample.recipe")
    return replace(
        recipes.Recipe(),
        hidden=32,
        intermediate=64,
        layers=2,
        heads=2,
        kv_heads=1,
        vocab=300,
        context=16,
        short_context=8,
        step_tokens=64,
        steps=20,
        warm_up_steps=3,
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    directory = tmp_path_factory.mktemp("library")
    for number, path in enumerate(PATHS):
        body = "".join(f"def add_{at}(a, b):\n    return a + {at}\n" for at in range(number + 1))
        (directory / path).write_text(body)
    return directory


IDS = torch.arange(500) * 7 % 300


def weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@needs_muon
def test_run_learns(runs, small):
    run = runs.Run(small, IDS)

    losses = [run.advance() for _ in range(small.steps)]

    assert losses[-1] < losses[0] - 0.5


@needs_muon
def test_run_resumed_equals_one_that_was_not_interrupted(runs, small, tmp_path):
    whole, first, second = (runs.Run(small, IDS) for _ in range(3))
    for _ in range(small.steps):
        whole.advance()
    for _ in range(small.long_from - 2):
        first.advance()

    first.save(tmp_path / "run.pt")
    second.resume(tmp_path / "run.pt")
    while second.step < small.steps:
        second.advance()

    assert same(weights(second), weights(whole))


@needs_muon
def test_run_may_be_shortened_before_it_decays(runs, small, tmp_path):
    short = replace(small, steps=16)
    whole, first, second = (runs.Run(recipe, IDS) for recipe in (short, small, short))
    for _ in range(short.steps):
        whole.advance()
    for _ in range(short.decay_from):
        first.advance()

    first.save(tmp_path / "run.pt")
    second.resume(tmp_path / "run.pt")
    while second.step < short.steps:
        second.advance()

    assert same(weights(second), weights(whole))


@needs_muon
def test_run_does_not_resume_another(runs, small, tmp_path):
    runs.Run(small, IDS).save(tmp_path / "run.pt")

    with pytest.raises(ValueError, match=r"another run \(muon_rate\)"):
        runs.Run(replace(small, muon_rate=0.1), IDS).resume(tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"another run \(library\)"):
        runs.Run(small, IDS + 1).resume(tmp_path / "run.pt")


@needs_muon
def test_run_that_cannot_be_saved_leaves_the_one_before(runs, small, tmp_path, monkeypatch):
    run = runs.Run(small, IDS)
    run.save(tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    run.advance()
    monkeypatch.setattr(os, "fsync", lambda file: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run.save(tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == before


KILLED = """
import os, sys, torch
from pathlib import Path
from train_sample.__main__ import train
from train_sample.recipe import Recipe
from train_sample.run import Run

torch.set_num_threads(1)
small, at = {small!r}, {at}
run = Run(small, torch.arange(500) * 7 % 300)
advance = run.advance
def advance_or_die():
    if run.step == at:
        os.kill(os.getpid(), 9)
    return advance()
run.advance = advance_or_die
train(run, Path(sys.argv[1]), save_every_s=0.0)
"""


@needs_muon
def test_run_survives_kill_9(script, runs, small, tmp_path):
    saved = tmp_path / "run.pt"
    path = os.pathsep.join(map(str, (ROOT / "scripts", ROOT / "deploy")))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(small=small, at=7), str(saved)],
        env=os.environ | {"PYTHONPATH": path},
        timeout=120,
    )
    whole, resumed = runs.Run(small, IDS), runs.Run(small, IDS)
    script.train(whole, tmp_path / "whole.pt")

    resumed.resume(saved)
    reached = resumed.step
    script.train(resumed, saved)

    assert (killed.returncode, reached) == (-9, 7)
    assert same(weights(resumed), weights(whole))


def test_recipe_warms_up_holds_and_decays_to_zero(small):
    rates = [small.rate(step) for step in range(small.steps + 1)]

    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert set(rates[3 : small.decay_from + 1]) == {1.0}
    assert rates[small.decay_from :] == sorted(rates[small.decay_from :], reverse=True)
    assert rates[-1] == 0.0


def test_batches_go_through_every_window_once_an_epoch():
    batches = importlib.import_module("train_sample.batches").Batches
    found = batches(torch.arange(83), length=8, rows=3, seed=1)  # 9 windows, and room to shift

    rows = torch.cat([found.at(step) for step in range(3)])
    shift = int(rows.min())

    assert sorted(rows[:, 0].tolist()) == list(range(shift, shift + 72, 8))
    assert all((row.diff() == 1).all() and len(row) == 9 for row in rows)
    assert int(rows.max()) < 83


def test_batches_refuse_a_text_that_is_too_short():
    batches = importlib.import_module("train_sample.batches").Batches

    with pytest.raises(ValueError, match="16 tokens are no two windows of 8"):
        batches(torch.arange(16), length=8, rows=1, seed=1)


@pytest.mark.parametrize("text", ["def f(x):\n\treturn x\r\n", "é 你好 \x00 \N{ROCKET}", "   "])
def test_tokenizer_gives_back_what_it_took(library, text):
    module = importlib.import_module("train_sample.tokenizer")
    files = sample_corpus.read_corpus(library)
    tokenizer = module.train_tokenizer(files, 300)

    assert tokenizer.get_vocab_size() == 300
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.to_str() == module.train_tokenizer(files, 300).to_str()


@needs_muon
def test_script_makes_a_checkpoint_with_its_card(script, small, library, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "Recipe", lambda: small)
    given = ["--directory", str(tmp_path), "--library", str(library), "--steps", "12"]

    assert script.main(given) == 0

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    messages = [
        {"role": "user", "content": "before"},
        {"role": "assistant", "content": "between"},
        {"role": "user", "content": "def add(a"},
    ]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    card = (tmp_path / "model" / "README.md").read_text()
    learned = sample_corpus.trained_on(sample_corpus.read_corpus(library))
    assert model.dtype == torch.bfloat16
    assert prompt == "def add(a"
    assert sample_corpus.corpus_digest(learned) in card
    assert "--steps 12" in card
    assert "$" not in card


def test_script_says_which_torch_it_needs(script, tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)

    with pytest.raises(SystemExit):
        script.main(["--directory", str(tmp_path / "run")])

    assert "Muon came with torch 2.9" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
