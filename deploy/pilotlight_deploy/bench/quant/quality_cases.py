"""What the rounding of weights costs: a trained model against itself, on text it never saw.

Both sides are teacher-forced over the same windows. The figures compare the *weights*: what each
file stands for, multiplied in float32. In bfloat16 the order of a sum alone changes some choices;
how many is measured too, as are the answers of the kernels that serve (cases `served_*`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM

from pilotlight_deploy.bench.report import Better, Figure
from pilotlight_deploy.held_out import Predictions, predict, windows
from pilotlight_deploy.sample import TRAINED
from pilotlight_deploy.sample_corpus import (
    encode,
    held_out,
    read_corpus,
    standard_library,
    trained_on,
)
from pilotlight_loader import BakedCheckpoint
from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.baking.revision import bake_revision
from pilotlight_platform.engine.packing import WEIGHTS_FILE
from pilotlight_platform.engine.quantizing import restore_quantized
from pilotlight_platform.engine.skeleton import Skeleton, load_tokenizer
from pilotlight_platform.schemas.model import ModelSpec, Quantization, QuantizationRounding

TOKENS = 48_000  # 95 % agreement is then known to ± 0.002
_PARTS = 8  # of the text: their extremes are the figures' range
_CALIBRATED_ON_ONE_IN = 8  # of the files that the model was trained on, for the text of `own_text`
_AGREEMENT_GOALS = {"int8": 0.995, "fp8": 0.99, "int4": 0.98}
_PERPLEXITY_GOALS = {"int8": 1.002, "int4": 1.03}

Measured = Literal["top1_agreement", "perplexity_ratio"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to quantize; *rounding* None: what a model file that says nothing gets."""

    name: str
    quantization: Quantization
    rounding: QuantizationRounding | None = None
    own_text: bool = False  # calibrated with files that the model was trained on
    uniform: bool = False  # its first and last layers like the others


VARIANTS = (
    Variant("int8", "int8"),
    Variant("fp8", "fp8"),
    Variant("int4", "int4"),
    Variant("fp8_uniform", "fp8", uniform=True),
    Variant("int4_uniform", "int4", uniform=True),
    Variant("int8_nearest", "int8", "nearest"),
    Variant("fp8_nearest", "fp8", "nearest"),
    Variant("int4_nearest", "int4", "nearest"),
    Variant("int4_gptq_own_text", "int4", "gptq", own_text=True),
)


class QualityCases:
    """The text and the reference once, then any variants."""

    def __init__(self, home: Path, source: Path = TRAINED, tokens: int = TOKENS) -> None:
        self._home = home
        self._source = source
        self._windows = held_out_windows(source, tokens)
        self._exact: dict[str, Predictions] = {}  # by variant; "bf16": the model itself
        self._plain_nbytes = 0
        self.cases: list[dict[str, Any]] = []

    def run(self, variants: Sequence[Variant], on_progress: Callable[[str], None]) -> None:
        on_progress("quality: the model itself")
        plain = self._bake(Variant("bf16", "none"))
        self._plain_nbytes = plain.path.stat().st_size
        self._exact["bf16"] = self._predict(self._plain_model())
        served_plain = self._predict_served(plain)
        self._note("served_bf16", served_plain, self._exact["bf16"], plain)
        for variant in variants:
            on_progress(f"quality: {variant.name.replace('_', ', ')}")
            baked = self._bake(variant)
            module = self._plain_model()
            restore_quantized(module, baked)
            self._exact[variant.name] = self._predict(module)
            self._note(variant.name, self._exact[variant.name], self._exact["bf16"], baked)
            if variant.name == variant.quantization:  # others go through the same kernels
                served = self._predict_served(baked)
                self._note(f"served_{variant.name}", served, served_plain, baked)

    def figures(self) -> list[Figure]:
        return [
            *(
                self._figure(kind, "top1_agreement", goal)
                for kind, goal in _AGREEMENT_GOALS.items()
            ),
            *(
                self._figure(kind, "perplexity_ratio", goal)
                for kind, goal in _PERPLEXITY_GOALS.items()
            ),
        ]

    def _figure(self, kind: str, measured: Measured, goal: float) -> Figure:
        ours, theirs = self._exact[kind], self._exact["bf16"]
        parts = [_compare(measured, *pair) for pair in _in_parts(ours, theirs, _PARTS)]
        better: Better = "higher" if measured == "top1_agreement" else "lower"
        return Figure(
            id=f"quant.{kind}.{measured}",
            value=_compare(measured, ours, theirs),
            unit="x",
            goal=goal,
            better=better,
            min=min(parts),
            max=max(parts),
            n=len(ours.choices),  # tokens; the range is that of the text's parts
        )

    def _note(
        self, case: str, ours: Predictions, theirs: Predictions, baked: BakedCheckpoint
    ) -> None:
        self.cases.append(
            {
                "case": f"quality_{case}",
                "top1_agreement": ours.top1_agreement(theirs),
                "top1_agreement_confidence_95": _half_width(ours, theirs, len(self._windows)),
                "perplexity": ours.perplexity,
                "perplexity_ratio": ours.perplexity / theirs.perplexity,
                "tokens": len(ours.choices),
                "nbytes": baked.path.stat().st_size,
                "bytes_ratio": baked.path.stat().st_size / self._plain_nbytes,
            }
        )

    def _bake(self, variant: Variant) -> BakedCheckpoint:
        wishes: dict[str, Any] = {"quantization": variant.quantization}
        if variant.uniform:
            wishes["quantization_uniform"] = True
        if variant.rounding is not None:
            wishes["quantization_rounding"] = variant.rounding
        if variant.own_text:
            wishes["quantization_text"] = str(self._own_text())
        order = BakeOrder(
            spec=ModelSpec.model_validate(
                {"name": "quality", "source": str(self._source), "dtype": "bfloat16", **wishes}
            ),
            checkpoints_dir=self._home / "bench-quant" / "checkpoints",
            cache_dir=self._home / "bench-quant" / "cache",
        )
        made = bake_revision(order, lambda *_: None)
        return BakedCheckpoint.open(Path(made.revision.path) / WEIGHTS_FILE)

    def _own_text(self) -> Path:
        """Disjoint from what is measured: the split is by file."""
        files = trained_on(read_corpus(standard_library()))[::_CALIBRATED_ON_ONE_IN]
        path = self._home / "bench-quant" / "calibration.txt"
        path.write_text("\n".join(file.text for file in files), encoding="utf-8")
        return path

    def _plain_model(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            self._source, dtype=torch.float32, local_files_only=True
        ).eval()

    def _predict(self, module: Any) -> Predictions:
        return predict(lambda ids: module(input_ids=ids, use_cache=False).logits, self._windows)

    def _predict_served(self, baked: BakedCheckpoint) -> Predictions:
        skeleton = Skeleton.load(baked.path.parent)
        with skeleton.baked.map() as mapped:
            skeleton.plan.attach(mapped)
            try:
                return self._predict(skeleton.module)
            finally:
                skeleton.plan.detach()


def held_out_windows(source: Path, tokens: int) -> list[torch.Tensor]:
    """Windows of at most 512 tokens, spread evenly over all held-out files, *tokens* together."""
    tokenizer = load_tokenizer(source)
    if tokenizer is None:
        raise ValueError(f"{source} has no tokenizer")

    def tokenize(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    files = held_out(read_corpus(standard_library()))
    ids = encode(tokenize, files, tokenizer.bos_token_id, tokenizer.eos_token_id)
    every = windows(ids, min(512, tokenizer.model_max_length))
    wanted = min(len(every), max(1, round(tokens / (len(every[0]) - 1))))
    return [every[at * len(every) // wanted] for at in range(wanted)]


def _compare(measured: Measured, ours: Predictions, theirs: Predictions) -> float:
    if measured == "top1_agreement":
        return ours.top1_agreement(theirs)
    return ours.perplexity / theirs.perplexity


def _in_parts(
    ours: Predictions, theirs: Predictions, parts: int
) -> list[tuple[Predictions, Predictions]]:
    """Both cut at the same tokens."""
    cut = [
        [
            Predictions(nats, choices)
            for nats, choices in zip(
                side.nats.tensor_split(parts), side.choices.tensor_split(parts), strict=True
            )
            if len(choices)
        ]
        for side in (ours, theirs)
    ]
    return list(zip(*cut, strict=True))


def _half_width(ours: Predictions, theirs: Predictions, windows_count: int) -> float:
    """Of the 95 % interval of the agreement; from the spread of windows, as neighbours resemble."""
    shares = [a.top1_agreement(b) for a, b in _in_parts(ours, theirs, windows_count)]
    return 1.96 * statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else 1.0
