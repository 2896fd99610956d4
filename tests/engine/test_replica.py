import gc
import shutil
from pathlib import Path

import pytest
import torch

from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.engine.source import bake_source
from pilotlight_platform.errors import AttachError, InvalidRequestError


def is_mapped(path):
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.fixture
def copy(baked, tmp_path):
    """A baked checkpoint of its own, so that no other test maps it."""
    return Path(shutil.copytree(baked("qwen2"), tmp_path / "revision"))


def test_skeleton_has_no_weights(copy):
    skeleton = Skeleton.load(copy)

    assert all(parameter.is_meta for parameter in skeleton.module.parameters())
    assert not is_mapped(copy)
    assert (skeleton.context_length, skeleton.vocab_size) == (128, 384)
    assert (skeleton.eos_ids, skeleton.bos_id) == (frozenset({1}), 0)


def test_detach_gives_the_memory_back(copy, submit):
    skeleton = Skeleton.load(copy)
    replica = Replica.attach(skeleton)
    assert is_mapped(copy)
    assert submit(replica, [5, 6]).finish()

    replica.detach()
    replica.detach()
    gc.collect()

    assert all(parameter.is_meta for parameter in skeleton.module.parameters())
    assert all(buffer.is_meta for buffer in skeleton.module.buffers())
    assert not is_mapped(copy)


def test_skeleton_can_be_attached_again(copy, submit):
    skeleton = Skeleton.load(copy)
    answers = []
    for _ in range(2):
        replica = Replica.attach(skeleton)
        answers.append(submit(replica, [5, 6]).finish().tokens)
        replica.detach()

    assert answers[0] == answers[1]


def test_skeleton_holds_one_replica_at_a_time(copy):
    skeleton = Skeleton.load(copy)
    replica = Replica.attach(skeleton)

    with pytest.raises(AttachError, match="attached already"):
        Replica.attach(skeleton)

    replica.detach()
    Replica.attach(skeleton).detach()


def test_loading_leaves_the_default_dtype_alone(sources, tmp_path):
    """It is global, and the compute thread may be running another model."""
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(torch.get_default_dtype())
            return function(*args, **(kwargs or {}))

    bake_source(sources("llama"), tmp_path, dtype="bfloat16", report=lambda *_: None)
    with Watch():
        skeleton = Skeleton.load(tmp_path)

    assert set(seen) == {torch.float32}
    assert skeleton.module.lm_head.weight.dtype == torch.bfloat16
    assert skeleton.module.model.rotary_emb.inv_freq.dtype == torch.float32


def test_replaced_file_is_refused(copy):
    skeleton = Skeleton.load(copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-512])

    with pytest.raises(AttachError, match=r"model\.safetensors"):
        Replica.attach(skeleton)


def test_missing_file_names_the_directory(copy):
    (copy / "model.safetensors").unlink()

    with pytest.raises(AttachError, match=str(copy)):
        Skeleton.load(copy)


def test_model_without_tokenizer_takes_token_ids_only(copy, submit):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    replica = Replica.attach(Skeleton.load(copy))

    answer = submit(replica, [5, 6], max_tokens=3, ignore_eos=True).finish()

    assert answer.text == ""
    assert answer.count == len(answer.tokens) == 3
    with pytest.raises(InvalidRequestError, match="no tokenizer"):
        submit(replica, "text").finish()
    with pytest.raises(InvalidRequestError, match="no tokenizer"):
        submit(replica, [5, 6], stop=("x",)).finish()
    replica.detach()
