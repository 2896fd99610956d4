"""What the load benchmark loads: two baked Llamas, made on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pilotlight_deploy.bench.page_cache import keep_in_page_cache
from pilotlight_deploy.sample import SampleSize, write_sample
from pilotlight_loader import AttachPlan, BakedCheckpoint
from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.baking.revision import bake_revision
from pilotlight_platform.engine.packing import WEIGHTS_FILE
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.schemas.model import ModelSpec, Quantization

RESIDENT = 0.999  # what "from the page cache" must mean
_PROMPT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A baked checkpoint, and the modules that wait for its weights."""

    name: str
    baked: BakedCheckpoint  # the plain file, which any place may hold
    skeleton: Skeleton

    @property
    def path(self) -> Path:
        return self.baked.path

    def keep_resident(self) -> None:
        """Raises CliError if the file does not stay in the page cache."""
        keep_in_page_cache(self.path, RESIDENT)

    def first_token(self) -> int:
        """Prefill 16 tokens, choose the next one."""
        ids = torch.arange(11, 11 + _PROMPT_TOKENS).view(1, -1)
        with torch.inference_mode():
            logits = self.skeleton.module(input_ids=ids, use_cache=True, logits_to_keep=1).logits
        return int(logits[0, -1].argmax())

    def detach(self) -> None:
        """Make the module weightless again."""
        self.skeleton.plan.detach()


def make_model(
    home: Path,
    size: SampleSize,
    on_progress: Callable[[str], None],
    quantization: Quantization = "none",
) -> BenchModel:
    """Write, bake and build; what a home has is used again. Raises CliError, DeployError.

    Weights are rounded to the nearest: random ones have no answers that a better way could keep.
    """
    on_progress(f"writing the {size} model")
    source = write_sample(home / f"sample-{size}", size).path
    kind = "" if quantization == "none" else f" in {quantization}"
    on_progress(f"baking the {size} model{kind}")
    order = BakeOrder(
        spec=ModelSpec(
            name=size,
            source=str(source),
            quantization=quantization,
            quantization_rounding="nearest",
        ),
        checkpoints_dir=home / "bench-load" / "checkpoints",
        cache_dir=home / "bench-load" / "cache",
    )
    directory = Path(bake_revision(order, lambda *_: None).revision.path)
    model = BenchModel(
        size, BakedCheckpoint.open(directory / WEIGHTS_FILE), Skeleton.load(directory)
    )
    _rehearse(model)
    return model


def _rehearse(model: BenchModel) -> None:
    """A warm worker has run its kernels once, both for plain and for packed weights."""
    files = {baked.path: baked for baked in (model.skeleton.baked, model.baked)}
    for baked in files.values():
        with baked.map() as mapped:
            AttachPlan.compile(model.skeleton.module, baked).attach(mapped)
            model.first_token()
            model.detach()
