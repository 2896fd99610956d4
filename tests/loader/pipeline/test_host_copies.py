"""From the arena to a device: nothing is read or staged, and the lease ends with the load."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.small_llama import PART, Forward, answer, is_weightless
from support.waiting import until
from torch import nn

from pilotlight_loader.arena.arena import Arena
from pilotlight_loader.arena.extents import EXTENT_ALIGN
from pilotlight_loader.arena.fill import fill_from_file
from pilotlight_loader.arena.leased import LeasedCheckpoint
from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.errors import ArenaError, LoadCancelledError, LoadFailedError
from pilotlight_loader.pipeline.load import begin_load, load
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.stream import stream

OPTIONS = TransferOptions(part_bytes=PART, range_bytes=4 * PART)


@pytest.fixture
def arena() -> Iterator[Arena]:
    directory = Path(tempfile.mkdtemp(prefix="pilotlight-test-", dir="/dev/shm"))
    with Arena.create(directory / "arena", EXTENT_ALIGN, threads=1) as made:
        yield made
    shutil.rmtree(directory)


@pytest.fixture
def checkpoint(arena, untied) -> Iterator[LeasedCheckpoint]:
    with (
        fill_from_file(arena, "k", untied.path) as lease,
        LeasedCheckpoint(lease, untied.baked) as opened,
    ):
        lease.close()
        yield opened


@pytest.fixture
def module(untied) -> nn.Module:
    return untied.skeleton()


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    made = SimulatedDevice()
    yield made
    made.run()


def is_evictable(arena: Arena) -> bool:
    return all(record.occupant.evictable for record in arena.entries())


def test_host_copies_answer_like_the_source(checkpoint, module, device, untied):
    device.run()

    load(checkpoint, module, device, options=OPTIONS)

    assert torch.equal(answer(module), untied.logits)


def test_host_copies_read_and_stage_nothing(checkpoint, module, device, untied):
    before = threading.active_count()
    with begin_load(checkpoint, module, device, options=OPTIONS) as loading:
        threads = threading.active_count()
        staged = device.staged_bytes
        device.run()
    report = loading.report

    assert threads == before
    assert staged == 0
    assert report.peak_staging_bytes == 0
    assert report.tiers["host"].nbytes == report.nbytes == device.copied_bytes
    assert sum(tensor.nbytes for tensor in untied.baked.tensors.values()) <= report.nbytes


def test_host_copies_begin_in_execution_order(checkpoint, module):
    starts: list[int] = []

    class Noting(SimulatedDevice):
        def copy(self, source, target, start):
            starts.append(source.data_ptr())
            return super().copy(source, target, start)

    device = Noting()
    device.run()
    load(checkpoint, module, device, options=OPTIONS)

    assert len(starts) > 4
    assert starts == sorted(starts)


def test_host_copies_let_a_forward_run_until_the_bytes_that_it_lacks(
    checkpoint, module, device, untied
):
    loading = begin_load(checkpoint, module, device, options=OPTIONS)
    forward = Forward(module)

    device.advance(4 * PART)  # the embedding has 8 KiB, a layer 17
    until(lambda: "model.embed_tokens" in forward.ran)
    begun = list(forward.ran)
    device.run()
    forward.join()
    loading.wait()

    assert "model.norm" not in begun
    assert torch.equal(forward.logits, untied.logits)


def test_host_copies_begin_before_all_memory_is_allocated(checkpoint, module):
    pending: list[int] = []

    class Noting(SimulatedDevice):
        def allocate(self, nbytes):
            pending.append(self.pending_bytes)
            return super().allocate(nbytes)

    device = Noting()
    with begin_load(checkpoint, module, device, options=OPTIONS):
        device.run()

    assert len(pending) > 2
    assert pending == sorted(pending)
    assert pending[-1] > pending[1] > 0


def test_host_copies_that_are_cancelled_hold_the_lease_until_they_end(
    arena, checkpoint, module, device
):
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
    assert is_weightless(module)
    until(lambda: is_evictable(arena))


def test_host_copies_release_the_lease_at_the_end(arena, checkpoint, module, device):
    device.run()
    with begin_load(checkpoint, module, device, options=OPTIONS) as loading:
        pass

    held = not is_evictable(arena)
    checkpoint.close()

    assert held
    assert is_evictable(arena)
    assert loading.report is not None
    assert not module.lm_head.weight.is_meta


def test_host_copies_end_with_the_device_s_error(checkpoint, module, device):
    loading = begin_load(checkpoint, module, device, options=OPTIONS)

    device.break_down("fell off the bus")

    with pytest.raises(LoadFailedError, match="fell off the bus"):
        loading.wait()
    assert is_weightless(module)


def test_host_copies_that_are_refused_fail_the_load(checkpoint, module, device):
    device.break_down("fell off the bus")
    loading = begin_load(checkpoint, module, device, options=OPTIONS)

    with pytest.raises(LoadFailedError, match="fell off the bus"):
        loading.wait()


def test_stream_takes_host_copies(checkpoint, device, untied):
    device.run()
    expected = dict(untied.model.named_parameters()) | dict(untied.model.named_buffers())

    for name, tensor in stream(checkpoint, device, ahead_bytes=2 * PART, options=OPTIONS):
        assert torch.equal(tensor, expected[name])

    assert device.staged_bytes == 0
    assert device.copied_bytes > 0


def test_leased_checkpoint_loads_to_the_cpu_as_from_a_file(checkpoint, module, untied):
    load(checkpoint, module, "cpu", options=OPTIONS)

    assert torch.equal(answer(module), untied.logits)


def test_leased_checkpoint_refuses_the_lease_of_another(arena, untied):
    with arena.reserve("other", untied.baked.nbytes + 1) as filling:
        lease = filling.commit()

    with lease, pytest.raises(ArenaError, match="another checkpoint"):
        LeasedCheckpoint(lease, untied.baked)
