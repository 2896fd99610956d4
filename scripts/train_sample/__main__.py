"""Train the sample model of `pilotlight demo` on this interpreter's standard library.

    PYTHONPATH=deploy:scripts python -m train_sample --directory build/train_sample

One thread of one core, an hour and a quarter. The run is saved in the directory every 30 s and
goes on from there when the same command is given again. At the end, the checkpoint stands in its
`model/`, and its card says what it makes of the files held out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from pilotlight_deploy.sample_corpus import encode, read_corpus, standard_library, trained_on
from train_sample.checkpoint import write_checkpoint
from train_sample.model_card import evaluate, write_card
from train_sample.recipe import Recipe
from train_sample.run import Run
from train_sample.tokenizer import BOS_ID, EOS_ID, train_tokenizer

_SAVE_EVERY_S = 30.0
_REPORT_EVERY = 10  # steps


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="train the sample model")
    parser.add_argument("--directory", type=Path, required=True, help="of the run")
    parser.add_argument("--library", type=Path, default=standard_library())
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    if not hasattr(torch.optim, "Muon"):
        parser.error(f"Muon came with torch 2.9, this is {torch.__version__}: install a later one")
    torch.set_num_threads(asked.threads)
    asked.directory.mkdir(parents=True, exist_ok=True)

    files = read_corpus(asked.library)
    recipe = replace(Recipe(), steps=asked.steps)
    learned = trained_on(files)
    tokenizer = train_tokenizer(learned, recipe.vocab)
    ids = encode(lambda text: tokenizer.encode(text).ids, learned, BOS_ID, EOS_ID)
    print(f"{len(learned)} files, {len(ids)} tokens", flush=True)
    run = Run(recipe, torch.tensor(ids))
    saved = asked.directory / "run.pt"
    if saved.exists():
        run.resume(saved)
        print(f"goes on after step {run.step}", flush=True)
    train(run, saved)
    checkpoint = asked.directory / "model"
    write_checkpoint(checkpoint, run.model, tokenizer, recipe.context)
    quality = evaluate(checkpoint, files)
    write_card(checkpoint, run, files, quality)
    print(f"{checkpoint}: {json.dumps(asdict(quality))}")
    return 0


def train(run: Run, saved: Path, save_every_s: float = _SAVE_EVERY_S) -> None:
    """Take the steps that are left, saving to *saved* as they go."""
    # Seconds of this process: they stand still while it is stopped, and so do the figures.
    began_s, saved_s, losses = time.process_time() - run.cpu_s, time.monotonic(), []
    while run.step < run.recipe.steps:
        losses.append(run.advance())
        run.cpu_s = time.process_time() - began_s
        done = run.step == run.recipe.steps
        if done or run.step % _REPORT_EVERY == 0:
            speed = run.step * run.recipe.step_tokens / run.cpu_s
            left_min = (run.recipe.steps - run.step) * run.cpu_s / run.step / 60
            print(
                f"step {run.step}/{run.recipe.steps}  loss {sum(losses) / len(losses):.3f}  "
                f"{speed:.0f} tokens/s  {left_min:.0f} min left",
                flush=True,
            )
            losses.clear()
        if done or time.monotonic() - saved_s > save_every_s:
            run.save(saved)
            saved_s = time.monotonic()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
