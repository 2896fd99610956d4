"""A rehearsal runs the skeleton on stand-ins and leaves it as it was."""

import queue
from pathlib import Path

import torch

from pilotlight_platform.baking.order import BakeOrder
from pilotlight_platform.baking.revision import bake_revision
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.rehearsal import rehearse
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.schemas.generation import GenerationRequest, SamplingParams
from pilotlight_platform.schemas.model import ModelSpec


def baked(sample: Path, checkpoints: Path) -> Path:
    spec = ModelSpec(name="m", source=str(sample))
    order = BakeOrder(spec=spec, checkpoints_dir=checkpoints, cache_dir=checkpoints / "cache")
    return Path(bake_revision(order, lambda *_: None).revision.path)


def test_rehearsal_runs_a_forward_and_leaves_the_skeleton_weightless(
    sample: Path, tmp_path: Path
) -> None:
    skeleton = Skeleton.load(baked(sample, tmp_path))
    calls: list[torch.Size] = []
    skeleton.module.get_output_embeddings().register_forward_hook(
        lambda _module, _args, output: calls.append(output.shape)
    )
    with Engine(threads=1) as engine:
        rehearse(engine, skeleton)

    assert len(calls) == 2
    assert all(parameter.is_meta for parameter in skeleton.module.parameters())
    assert not skeleton.attached


def test_rehearsal_does_not_change_the_answer(sample: Path, tmp_path: Path) -> None:
    directory = baked(sample, tmp_path)
    answers = []
    for rehearsed in (False, True):
        skeleton = Skeleton.load(directory)
        with Engine(threads=1) as engine:
            if rehearsed:
                rehearse(engine, skeleton)
            replica = Replica.attach(skeleton)
            chunks: queue.SimpleQueue[object] = queue.SimpleQueue()
            sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=3)
            request = GenerationRequest("r", "", sampling, prompt_tokens=(5, 6, 7))
            engine.submit(replica, request, chunks.put)
            answers.append(chunks.get(timeout=30).logprobs)  # type: ignore[attr-defined]
            replica.detach()

    assert answers[0] == answers[1]
