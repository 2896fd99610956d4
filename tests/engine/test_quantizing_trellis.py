"""When int4 is a trellis at deploy, and when it has equal steps."""

from pathlib import Path

import pytest
import torch

from pilotlight_loader import BakedCheckpoint
from pilotlight_loader.kernels import chosen
from pilotlight_platform.engine.quantizing import Quantizing
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source


def _kinds(directory: Path) -> set[str]:
    baked = BakedCheckpoint.open(directory / "model.safetensors")
    return {stored.scheme.kind for stored in baked.quantized.values()}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_quantized_weights_that_kernels_do_not_take_have_equal_steps(
    quantized, tmp_path, dtype
) -> None:
    bake_source(
        quantized.source,
        tmp_path,
        dtype=dtype,
        report=lambda *_: None,
        quantizing=Quantizing("int4", rounding="nearest"),
    )

    assert _kinds(tmp_path) == {"int8", "int4"}


def test_quantized_without_kernels_has_equal_steps(quantized, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(chosen, "trellis_product", lambda: None)
    bake_source(
        quantized.source,
        tmp_path,
        dtype="bfloat16",
        report=lambda *_: None,
        quantizing=Quantizing("int4", rounding="nearest"),
    )

    assert _kinds(tmp_path) == {"int8", "int4"}


def test_quantized_trellis_answers_without_kernels(quantized, monkeypatch) -> None:
    ids = torch.arange(40).view(1, -1) % 50
    answers = []
    for without in (False, True):
        if without:
            monkeypatch.setattr(chosen, "trellis_product", lambda: None)
            monkeypatch.setattr(chosen, "trellis_weight", lambda: None)
        skeleton = Skeleton.load(quantized("int4"))
        replica = Replica.attach(skeleton)
        try:
            with torch.inference_mode():
                answers.append(skeleton.module(input_ids=ids).logits.float().clone())
        finally:
            replica.detach()

    assert float((answers[0] - answers[1]).norm() / answers[0].norm()) < 0.06
