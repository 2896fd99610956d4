"""One run: model, optimizers, the step that it has reached; saved and resumed whole."""

from __future__ import annotations

import os
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from train_sample.batches import Batches
from train_sample.recipe import Recipe

_FREE_TO_CHANGE = ("steps",)  # on resuming: see Recipe.rate


class Run:
    """Training on *ids* [tokens] by *recipe*, from its first step or from a saved one."""

    def __init__(self, recipe: Recipe, ids: torch.Tensor) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.step = 0
        self.cpu_s = 0.0  # spent by the steps so far; a stopped process spends none
        self.model = LlamaForCausalLM(recipe.config())
        self._short, self._long = (
            Batches(ids, length, recipe.step_tokens // length, recipe.seed)
            for length in (recipe.short_context, recipe.context)
        )
        self._tokens, self._digest = len(ids), sha256(ids.numpy().tobytes()).hexdigest()
        self._optimizers = _optimizers(self.model, recipe)

    def advance(self) -> float:
        """Take one step; the batch's loss in nats per token."""
        rate = self.recipe.rate(self.step)
        batch = self._batch()
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * rate
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def _batch(self) -> torch.Tensor:
        if self.step < self.recipe.long_from:
            # On a CPU, 10 % faster than sdpa at 256 tokens, and slower at 512.
            self.model.set_attn_implementation("eager")
            return self._short.at(self.step)
        self.model.set_attn_implementation("sdpa")
        return self._long.at(self.step)

    @property
    def epochs(self) -> float:
        """How often the steps so far went through the ids."""
        return self.step * self.recipe.step_tokens / self._tokens

    def save(self, path: Path) -> None:
        """Write the run to *path*, whole or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "ids": self._digest,
            "step": self.step,
            "cpu_s": self.cpu_s,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def resume(self, path: Path) -> None:
        """Go on where *path* was saved. Raises ValueError if that was another run."""
        state = torch.load(path, weights_only=True)
        mine = asdict(self.recipe)
        other = {
            name
            for name in mine
            if name not in _FREE_TO_CHANGE and state["recipe"].get(name) != mine[name]
        }
        if state["ids"] != self._digest:
            other.add("library")
        if other:
            raise ValueError(
                f"{path} is of another run ({', '.join(sorted(other))}): name another directory"
            )
        self.step, self.cpu_s = state["step"], state["cpu_s"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for matrices in layers (https://kellerjordan.github.io/posts/muon), Adam else."""
    matrices = [p for name, p in model.named_parameters() if "layers." in name and p.ndim == 2]
    taken = {id(parameter) for parameter in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices, lr=recipe.muon_rate, momentum=0.95, weight_decay=recipe.weight_decay
        ),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return optimizers
