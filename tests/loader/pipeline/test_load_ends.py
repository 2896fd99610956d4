"""How a load ends that fails or is cancelled: nothing half loaded, nothing left behind."""

from __future__ import annotations

import threading

import pytest
import torch
from support.file_source import FileReader
from support.small_llama import (
    OPTIONS,
    Forward,
    Held,
    answer,
    is_plain,
    is_weightless,
    running,
)
from support.waiting import until

from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.errors import (
    AccessDeniedError,
    DeviceError,
    LoadCancelledError,
    LoadFailedError,
)
from pilotlight_loader.pipeline.load import begin_load, load


def test_load_into_a_module_again_after_a_failure(untied, device):
    skeleton = untied.skeleton()

    def refuse(reader: FileReader, start: int, into: memoryview) -> None:
        raise AccessDeniedError("test", "expired")

    with pytest.raises(LoadFailedError):
        load(untied.open(before_read=refuse)[0], skeleton, device, options=OPTIONS)
    load(untied.open()[0], skeleton, device, options=OPTIONS)

    assert torch.equal(answer(skeleton), untied.logits)


def test_load_that_fails_midway_stops_the_forward_and_leaves_the_module_weightless(untied, device):
    middle = untied.start_of("model.layers.1.input_layernorm.weight")
    started = threading.Event()

    def refuse_later(reader: FileReader, start: int, into: memoryview) -> None:
        if start > middle:
            assert started.wait(20)
            raise AccessDeniedError("test", "expired")

    checkpoint, source = untied.open(parallel=2, before_read=refuse_later)
    skeleton = untied.skeleton()
    loading = begin_load(checkpoint, skeleton, device, options=OPTIONS)
    forward = Forward(skeleton)
    until(lambda: "model.embed_tokens" in forward.ran)
    started.set()
    forward.join()

    with pytest.raises(LoadFailedError, match="expired") as caught:
        loading.wait()
    assert isinstance(caught.value.__cause__, AccessDeniedError)
    assert isinstance(forward.error, LoadFailedError)
    assert "lm_head" not in forward.ran
    assert is_weightless(skeleton)
    assert is_plain(skeleton)
    assert source.open_readers == 0


@pytest.mark.parametrize(
    "stage", ["model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight"]
)
def test_load_that_is_cancelled_frees_everything(untied, stage):
    held = Held(untied.start_of(stage))
    device = running()
    checkpoint, source = untied.open(parallel=2, before_read=held)
    skeleton = untied.skeleton()
    loading = begin_load(checkpoint, skeleton, device, options=OPTIONS)
    forward = Forward(skeleton)
    assert held.reached.wait(20)

    loading.cancel()
    forward.join()

    with pytest.raises(LoadCancelledError):
        loading.wait()
    assert isinstance(forward.error, LoadCancelledError)
    assert is_weightless(skeleton)
    assert is_plain(skeleton)
    assert source.open_readers == 0
    assert device.staged_bytes == 0
    until(lambda: device.allocated_bytes == 0)


def test_load_that_is_cancelled_waits_for_the_copies_that_read_its_slabs(untied):
    device = SimulatedDevice()
    checkpoint, _ = untied.open(parallel=2)
    loading = begin_load(checkpoint, untied.skeleton(), device, options=OPTIONS)
    until(lambda: device.pending_bytes > 0)
    loading.cancel()
    errors: list[BaseException] = []

    def end() -> None:
        with pytest.raises(LoadCancelledError) as caught:
            loading.wait()
        errors.append(caught.value)

    ending = threading.Thread(target=end)
    ending.start()
    ending.join(0.1)
    waited = ending.is_alive()
    device.run()
    ending.join(20)

    assert waited
    assert len(errors) == 1
    assert device.staged_bytes == 0


def test_leaving_the_context_with_an_error_cancels(untied):
    held = Held(0)
    checkpoint, source = untied.open(before_read=held)
    skeleton = untied.skeleton()

    with (
        pytest.raises(RuntimeError, match="of the caller"),
        begin_load(checkpoint, skeleton, options=OPTIONS),
    ):
        raise RuntimeError("of the caller")

    assert is_weightless(skeleton)
    assert source.open_readers == 0


def test_cancel_after_the_end_changes_nothing(untied):
    skeleton = untied.skeleton()
    with begin_load(untied.open()[0], skeleton, options=OPTIONS) as loading:
        report = loading.wait()
        loading.cancel()

    assert loading.report is report
    assert torch.equal(answer(skeleton), untied.logits)


def test_wait_gives_up_after_its_time_and_the_load_goes_on(untied):
    held = Held(0)
    skeleton = untied.skeleton()

    with begin_load(untied.open(before_read=held)[0], skeleton, options=OPTIONS) as loading:
        with pytest.raises(TimeoutError):
            loading.wait(timeout_s=0.01)
        held.released.set()

    assert torch.equal(answer(skeleton), untied.logits)


def test_load_that_finds_no_device_memory_leaves_the_module_weightless(untied):
    device = SimulatedDevice(capacity_bytes=40_000)
    device.run()
    skeleton = untied.skeleton()

    with pytest.raises(DeviceError, match="in use on the device"):
        load(untied.open()[0], skeleton, device, options=OPTIONS)

    assert is_weightless(skeleton)
    assert device.allocated_bytes == 0


def test_load_fails_when_the_device_breaks_down(untied):
    device = SimulatedDevice()
    skeleton = untied.skeleton()
    loading = begin_load(untied.open()[0], skeleton, device, options=OPTIONS)
    until(lambda: device.pending_bytes > 0)
    device.break_down("fell off the bus")

    with pytest.raises(LoadFailedError, match="fell off"):
        loading.wait()
    assert is_weightless(skeleton)
    assert is_plain(skeleton)
