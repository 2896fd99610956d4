"""Gates: a forward pass may run early, and waits for what it needs alone."""

from __future__ import annotations

import threading

import torch
from support.raw_safetensors import save_in_this_order
from support.small_llama import (
    OPTIONS,
    Forward,
    Held,
    answer,
    is_plain,
)
from support.small_modules import file_of, on_meta, opened_file
from support.waiting import until
from torch import nn

from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.pipeline.load import begin_load


def test_begin_load_assigns_tensors_at_once(untied):
    held = Held(0)
    checkpoint, _ = untied.open(before_read=held)
    skeleton = untied.skeleton()

    with begin_load(checkpoint, skeleton, options=OPTIONS):
        devices = {tensor.device for tensor in skeleton.parameters()}
        held.released.set()

    assert devices == {torch.device("cpu")}


def test_forward_runs_early_layers_before_the_last_has_arrived(llama, device):
    held = Held(llama.start_of("model.layers.2.input_layernorm.weight"))
    checkpoint, _ = llama.open(parallel=2, before_read=held)
    skeleton = llama.skeleton()

    with begin_load(checkpoint, skeleton, device, options=OPTIONS) as loading:
        forward = Forward(skeleton)
        until(lambda: "model.layers.0" in forward.ran)
        assert "model.layers.2" not in forward.ran
        assert loading.report is None
        held.released.set()
        forward.join()

    assert torch.equal(forward.logits, llama.logits)
    assert torch.equal(answer(skeleton), llama.logits)


def test_forward_waits_for_copies_as_well_as_for_reads(untied):
    device = SimulatedDevice()
    checkpoint, _ = untied.open(parallel=2)
    skeleton = untied.skeleton()

    with begin_load(checkpoint, skeleton, device, options=OPTIONS):
        forward = Forward(skeleton)
        while forward.thread.is_alive():
            device.advance(1000)
            forward.thread.join(0.001)
        forward.join()
        device.run()

    assert torch.equal(forward.logits, untied.logits)


def test_gates_go_as_soon_as_their_module_has_its_tensors(untied):
    held = Held(untied.start_of("model.layers.2.input_layernorm.weight"))
    checkpoint, _ = untied.open(parallel=2, before_read=held)
    skeleton = untied.skeleton()

    with begin_load(checkpoint, skeleton, options=OPTIONS):
        forward = Forward(skeleton)
        until(lambda: "model.layers.0" in forward.ran)
        early, late = is_plain(skeleton.model.layers[0]), is_plain(skeleton.model.layers[2])
        held.released.set()
        forward.join()

    assert early
    assert not late


class Borrowing(nn.Module):
    """Uses a child's weight without calling the child, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 2.0))
        self.experts = nn.Parameter(torch.arange(32.0).view(2, 4, 4))
        self.child = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.linear(x, self.child.weight, self.child.bias)
        return hidden * self.scale @ self.experts[1]


def test_a_child_that_is_used_without_being_called_is_waited_for(tmp_path):
    source = Borrowing()
    path = file_of(source, tmp_path)
    held = Held(0)
    skeleton = on_meta(Borrowing)
    x = torch.ones(1, 4)
    found = []

    with begin_load(opened_file(path, before_read=held), skeleton):
        user = threading.Thread(target=lambda: found.append(skeleton(x)))
        user.start()
        user.join(0.1)
        blocked = user.is_alive()
        held.released.set()
        user.join(20)

    assert blocked
    assert torch.equal(found[0], source(x))


def test_looking_at_one_weight_waits_for_it(tmp_path):
    held = Held(0)
    skeleton = on_meta(Borrowing)
    path = file_of(Borrowing(), tmp_path)
    loading = begin_load(opened_file(path, before_read=held), skeleton)
    threading.Timer(0.05, held.released.set).start()

    with loading:
        assert skeleton.scale.tolist() == [2.0] * 4


class Odd(nn.Module):
    """Behind three bytes, nothing of four stands where a view of it could."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.weight = nn.Parameter(torch.arange(1.0, 8.0))

    def forward(self) -> torch.Tensor:
        return self.weight[self.mask.sum() :]


def test_load_fills_a_misaligned_tensor_after_its_bytes_have_arrived(tmp_path, device):
    source = Odd()
    path = tmp_path / "odd.safetensors"
    save_in_this_order({"mask": source.mask, "weight": source.weight.detach()}, path)
    held = Held(0)
    skeleton = on_meta(Odd)

    with begin_load(opened_file(path, before_read=held), skeleton, device):
        held.released.set()
        early = skeleton()

    assert torch.equal(early, source())
