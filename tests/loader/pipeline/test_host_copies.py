"""From the arena to a device: nothing is read or staged, and the lease ends with the load."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.waiting import until
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from pilotlight_loader import bake, record_execution_order
from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.arena.fill import fill_from_file
from pilotlight_loader.arena.leased import LeasedCheckpoint
from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.errors import ArenaError, LoadCancelledError, LoadFailedError
from pilotlight_loader.pipeline.load import begin_load, load
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.stream import stream

PART = 4096
OPTIONS = TransferOptions(part_bytes=PART, range_bytes=4 * PART)
PROMPT = torch.arange(3, 19).view(1, -1)
CONFIG = LlamaConfig(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
)


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(PROMPT).logits


def skeleton() -> nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIG, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def baked(model, tmp_path_factory):
    order = record_execution_order(model, lambda: answer(model))
    path = tmp_path_factory.mktemp("llama") / "llama.safetensors"
    return bake(model, path, order=order, metadata={})


@pytest.fixture
def arena() -> Iterator[Arena]:
    directory = Path(tempfile.mkdtemp(prefix="pilotlight-test-", dir="/dev/shm"))
    with Arena.create(directory / "arena", EXTENT_ALIGN, threads=1) as made:
        yield made
    shutil.rmtree(directory)


@pytest.fixture
def checkpoint(arena, baked) -> Iterator[LeasedCheckpoint]:
    with fill_from_file(arena, "k", baked.path) as lease, LeasedCheckpoint(lease, baked) as opened:
        lease.close()
        yield opened


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    made = SimulatedDevice()
    yield made
    made.run()


def is_evictable(arena: Arena) -> bool:
    return all(record.occupant.evictable for record in arena.entries())


def test_host_copies_answer_like_the_source(checkpoint, device, model):
    device.run()
    module = skeleton()

    load(checkpoint, module, device, options=OPTIONS)

    assert torch.equal(answer(module), answer(model))


def test_host_copies_read_and_stage_nothing(checkpoint, device, baked):
    before = threading.active_count()
    with begin_load(checkpoint, skeleton(), device, options=OPTIONS) as loading:
        threads = threading.active_count()
        staged = device.staged_bytes
        device.run()
    report = loading.report

    assert threads == before
    assert staged == 0
    assert report.peak_staging_bytes == 0
    assert report.tiers["host"].nbytes == report.nbytes == device.copied_bytes
    assert sum(tensor.nbytes for tensor in baked.tensors.values()) <= report.nbytes


def test_host_copies_begin_in_execution_order(checkpoint, baked):
    starts: list[int] = []

    class Noting(SimulatedDevice):
        def copy(self, source, target, start):
            starts.append(source.data_ptr())
            return super().copy(source, target, start)

    device = Noting()
    device.run()
    load(checkpoint, skeleton(), device, options=OPTIONS)

    assert len(starts) > 4
    assert starts == sorted(starts)


def test_host_copies_let_a_forward_run_until_the_bytes_that_it_lacks(checkpoint, device, model):
    module = skeleton()
    ran: list[str] = []
    for name, owner in module.model.named_children():
        owner.register_forward_hook(lambda _m, _i, _o, name=name: ran.append(name))
    answers: list[torch.Tensor] = []
    loading = begin_load(checkpoint, module, device, options=OPTIONS)
    forward = threading.Thread(target=lambda: answers.append(answer(module)))
    forward.start()

    device.advance(4 * PART)  # the embedding has 8 KiB, a layer 17
    until(lambda: "embed_tokens" in ran)
    begun = list(ran)
    device.run()
    forward.join(20)
    loading.wait()

    assert "norm" not in begun
    assert torch.equal(answers[0], answer(model))


def test_host_copies_begin_before_all_memory_is_allocated(checkpoint):
    pending: list[int] = []

    class Noting(SimulatedDevice):
        def allocate(self, nbytes):
            pending.append(self.pending_bytes)
            return super().allocate(nbytes)

    device = Noting()
    with begin_load(checkpoint, skeleton(), device, options=OPTIONS):
        device.run()

    assert len(pending) > 2
    assert pending == sorted(pending)
    assert pending[-1] > pending[1] > 0


def test_host_copies_that_are_cancelled_hold_the_lease_until_they_end(arena, checkpoint, device):
    module = skeleton()
    loading = begin_load(checkpoint, module, device, options=OPTIONS)
    loading.cancel()
    checkpoint.close()
    errors: list[BaseException] = []

    def end() -> None:
        try:
            loading.wait()
        except LoadCancelledError as error:
            errors.append(error)

    ending = threading.Thread(target=end)
    ending.start()
    ending.join(0.1)
    waited, held = ending.is_alive(), not is_evictable(arena)
    device.run()
    ending.join(20)

    assert waited
    assert held
    assert len(errors) == 1
    assert all(parameter.is_meta for parameter in module.parameters())
    until(lambda: is_evictable(arena))


def test_host_copies_release_the_lease_at_the_end(arena, checkpoint, device):
    device.run()
    module = skeleton()
    with begin_load(checkpoint, module, device, options=OPTIONS) as loading:
        pass

    held = not is_evictable(arena)
    checkpoint.close()

    assert held
    assert is_evictable(arena)
    assert loading.report is not None
    assert not module.lm_head.weight.is_meta


def test_host_copies_end_with_the_device_s_error(checkpoint, device):
    module = skeleton()
    loading = begin_load(checkpoint, module, device, options=OPTIONS)

    device.break_down("fell off the bus")

    with pytest.raises(LoadFailedError, match="fell off the bus"):
        loading.wait()
    assert all(parameter.is_meta for parameter in module.parameters())


def test_host_copies_that_are_refused_fail_the_load(checkpoint, device):
    device.break_down("fell off the bus")
    loading = begin_load(checkpoint, skeleton(), device, options=OPTIONS)

    with pytest.raises(LoadFailedError, match="fell off the bus"):
        loading.wait()


def test_stream_takes_host_copies(checkpoint, device, model):
    device.run()
    expected = dict(model.named_parameters()) | dict(model.named_buffers())

    for name, tensor in stream(checkpoint, device, ahead_bytes=2 * PART, options=OPTIONS):
        assert torch.equal(tensor, expected[name])

    assert device.staged_bytes == 0
    assert device.copied_bytes > 0


def test_leased_checkpoint_loads_to_the_cpu_as_from_a_file(checkpoint, model):
    module = skeleton()

    load(checkpoint, module, "cpu", options=OPTIONS)

    assert torch.equal(answer(module), answer(model))


def test_leased_checkpoint_refuses_the_lease_of_another(arena, baked):
    with arena.reserve("other", baked.nbytes + 1) as filling:
        lease = filling.commit()

    with lease, pytest.raises(ArenaError, match="another checkpoint"):
        LeasedCheckpoint(lease, baked)
