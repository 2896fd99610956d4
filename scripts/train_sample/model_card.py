"""The model card: where the weights come from, and what they were measured to be worth."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from pilotlight_deploy.held_out import predict, windows
from pilotlight_deploy.sample_corpus import (
    SourceFile,
    corpus_digest,
    encode,
    held_out,
    trained_on,
)
from train_sample.run import Run
from train_sample.tokenizer import BOS_ID, EOS_ID

_TEMPLATE = Path(__file__).with_suffix(".md")


@dataclass(frozen=True, slots=True)
class Quality:
    """What a checkpoint makes of the held-out files."""

    files: int
    tokens: int
    perplexity: float
    bits_per_byte: float
    top1: float  # how often the likeliest token is the one that came


def evaluate(checkpoint: Path, files: list[SourceFile]) -> Quality:
    """Measure the weights as they were written, on those of *files* that are held out."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    measured = held_out(files)
    ids = encode(lambda text: tokenizer.encode(text).ids, measured, BOS_ID, EOS_ID)
    parts = windows(ids, model.config.max_position_embeddings)
    found = predict(lambda ids: model(input_ids=ids, use_cache=False).logits, parts)
    hits = (found.choices == torch.cat([part[1:] for part in parts])).double().mean().item()
    size = sum(len(source.text.encode()) for source in measured)
    return Quality(len(measured), len(ids), found.perplexity, found.bits_per_byte(size), hits)


def write_card(checkpoint: Path, run: Run, files: list[SourceFile], quality: Quality) -> None:
    """Write README.md beside the weights."""
    learned = trained_on(files)
    recipe = asdict(run.recipe)
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "parameters": f"{run.model.num_parameters() / 1e6:.1f} million",
        "trained_files": len(learned),
        "digest": corpus_digest(learned),
        "million_tokens": f"{run.step * run.recipe.step_tokens / 1e6:.1f}",
        "epochs": f"{run.epochs:.1f}",
        "cpu_minutes": f"{run.cpu_s / 60:.0f}",
        "held_out_files": quality.files,
        "held_out_tokens": quality.tokens,
        "perplexity": f"{quality.perplexity:.2f}",
        "bits_per_byte": f"{quality.bits_per_byte:.3f}",
        "top1": f"{quality.top1:.1%}",
    }
    card = Template(_TEMPLATE.read_text()).substitute(recipe | facts)
    (checkpoint / "README.md").write_text(card)
