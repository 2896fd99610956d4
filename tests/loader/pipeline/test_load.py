"""Loading into a module: it answers like the source, may run early, and never half."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.file_source import FileReader, FileSource, until_aborted
from support.raw_safetensors import save_in_this_order
from support.sourced_checkpoint import SourcedCheckpoint
from support.waiting import until
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from pilotlight_loader import AttachMismatchError, bake, open_checkpoint, record_execution_order
from pilotlight_loader.devices.cpu import CpuDevice
from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.errors import (
    AccessDeniedError,
    DeviceError,
    LoadCancelledError,
    LoadFailedError,
    TransientReadError,
)
from pilotlight_loader.pipeline.load import begin_load, load
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.transfer.policies import HedgePolicy

PROMPT = torch.arange(3, 19).view(1, -1)
PART = 4096
OPTIONS = TransferOptions(part_bytes=PART, staging_bytes=4 * PART, range_bytes=32768, hedge=None)


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(PROMPT).logits


def is_weightless(module: nn.Module) -> bool:
    return all(t.is_meta for t in itertools.chain(module.parameters(), module.buffers()))


def is_plain(module: nn.Module) -> bool:
    """No gate is left."""
    return all(
        type(vars(owner)[registry]) is dict and not owner._forward_pre_hooks
        for owner in module.modules()
        for registry in ("_parameters", "_buffers")
    )


class Llama:
    """A random Llama of two layers, its answer and its baked file."""

    def __init__(self, directory: Path, *, tied: bool) -> None:
        self.config = LlamaConfig(
            vocab_size=128,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=tied,
        )
        torch.manual_seed(0)
        self.model = AutoModelForCausalLM.from_config(self.config, dtype=torch.bfloat16).eval()
        self.logits = answer(self.model)
        self.order = record_execution_order(self.model, lambda: answer(self.model))
        self.path = directory / f"llama-{tied}.safetensors"
        self.baked = bake(self.model, self.path, order=self.order, metadata={})

    def skeleton(self) -> nn.Module:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config, dtype=torch.bfloat16).eval()

    def open(self, **options) -> tuple[SourcedCheckpoint, FileSource]:
        source = FileSource(self.path, **options)
        return SourcedCheckpoint(self.baked, lambda _path: source), source

    def start_of(self, name: str) -> int:
        return self.baked.tensors[name].start


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def llama(request, tmp_path_factory) -> Llama:
    return Llama(tmp_path_factory.mktemp("llama"), tied=request.param)


@pytest.fixture(scope="module")
def untied(tmp_path_factory) -> Llama:
    return Llama(tmp_path_factory.mktemp("untied"), tied=False)


def running() -> SimulatedDevice:
    device = SimulatedDevice()
    device.run()
    return device


@pytest.fixture(params=[CpuDevice, running])
def device(request):
    return request.param()


class Held:
    """A hook that lets reads below an offset pass, and the others when it is released."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.released = threading.Event()
        self.reached = threading.Event()

    def __call__(self, reader: FileReader, start: int, into: memoryview) -> None:
        if start + len(into) > self.limit:
            self.reached.set()
            until(lambda: self.released.is_set() or reader.aborted.is_set())
            if reader.aborted.is_set():
                until_aborted(reader)


class Forward:
    """One forward pass in a thread of its own; notes the modules whose turn has come."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.logits: torch.Tensor | None = None
        self.error: BaseException | None = None
        self.ran: list[str] = []
        self._hooks = [
            owner.register_forward_hook(lambda _m, _i, _o, name=name: self.ran.append(name))
            for name, owner in module.named_modules()
        ]
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.logits = answer(self.module)
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        for hook in self._hooks:
            hook.remove()


def test_load_answers_like_the_source(llama, device):
    checkpoint, _ = llama.open(parallel=2)
    skeleton = llama.skeleton()

    load(checkpoint, skeleton, device, options=OPTIONS)

    assert torch.equal(answer(skeleton), llama.logits)
    assert is_plain(skeleton)


def test_load_keeps_tied_weights_one_parameter(tmp_path, device):
    llama = Llama(tmp_path, tied=True)
    skeleton = llama.skeleton()

    load(llama.open()[0], skeleton, device, options=OPTIONS)

    assert skeleton.lm_head.weight is skeleton.model.embed_tokens.weight


def test_load_reports_what_it_did(untied):
    checkpoint, source = untied.open(parallel=2)

    report = load(checkpoint, untied.skeleton(), running(), floors={"disk": 1e6}, options=OPTIONS)

    assert report.nbytes == source.bytes_asked == report.tiers["device"].nbytes
    assert report.tiers["disk"].floor_s == pytest.approx(report.nbytes / 1e6)
    assert report.tiers["device"].floor_s is None
    assert 0 < report.first_tensor_s <= report.seconds
    assert report.gb_per_s > 0
    assert 0 < report.peak_staging_bytes <= OPTIONS.staging_bytes
    assert (report.retries, report.hedges, report.cache_error) == (0, 0, None)


def test_load_to_the_cpu_stages_nothing(untied):
    report = load(untied.open()[0], untied.skeleton(), "cpu", options=OPTIONS)

    assert report.peak_staging_bytes == 0


def test_load_counts_retries(untied):
    failed: set[int] = set()

    class Retry:
        def delay_s(self, attempt, error, random):
            return 0.0

    def fail_once(reader: FileReader, start: int, into: memoryview) -> None:
        if not failed:
            failed.add(start)
            raise TransientReadError("test", "broken")

    checkpoint, _ = untied.open(parallel=1, before_read=fail_once)
    options = TransferOptions(part_bytes=PART, retry=Retry())

    assert load(checkpoint, untied.skeleton(), options=options).retries == 1


def test_load_counts_hedges(untied):
    hanging: list[FileReader] = []

    def hang_once(reader: FileReader, start: int, into: memoryview) -> None:
        if not hanging:
            hanging.append(reader)
            until_aborted(reader)

    checkpoint, _ = untied.open(parallel=2, before_read=hang_once)
    hedge = HedgePolicy(factor=0.0, floor_s=0.0, blind_s=0.0)
    skeleton = untied.skeleton()

    report = load(checkpoint, skeleton, options=TransferOptions(part_bytes=PART, hedge=hedge))

    assert report.hedges >= 1
    assert torch.equal(answer(skeleton), untied.logits)


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


def file_of(module: nn.Module, directory: Path) -> Path:
    path = directory / "model.safetensors"
    save_file(module.state_dict(), path)
    return path


def opened(path: Path, **options) -> SourcedCheckpoint:
    return SourcedCheckpoint(open_checkpoint(path), lambda p: FileSource(p, **options))


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def test_a_child_that_is_used_without_being_called_is_waited_for(tmp_path):
    source = Borrowing()
    path = file_of(source, tmp_path)
    held = Held(0)
    skeleton = on_meta(Borrowing)
    x = torch.ones(1, 4)
    found = []

    with begin_load(opened(path, before_read=held), skeleton):
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
    loading = begin_load(opened(path, before_read=held), skeleton)
    threading.Timer(0.05, held.released.set).start()

    with loading:
        assert skeleton.scale.tolist() == [2.0] * 4


def test_load_renames_and_leaves_out(tmp_path):
    source = nn.Linear(2, 2)
    path = tmp_path / "model.safetensors"
    save_file({"old.weight": source.weight, "old.bias": source.bias, "x": torch.ones(1)}, path)
    skeleton = on_meta(lambda: nn.Linear(2, 2))

    load(
        opened(path),
        skeleton,
        rename=lambda name: None if name == "x" else name.removeprefix("old."),
    )

    assert torch.equal(skeleton.weight, source.weight)


def test_load_refuses_two_tensors_of_one_name(tmp_path):
    path = file_of(nn.Linear(2, 2), tmp_path)

    with pytest.raises(AttachMismatchError, match="both renamed to weight"):
        load(opened(path), on_meta(lambda: nn.Linear(2, 2)), rename=lambda name: "weight")


def test_load_fills_a_tied_weight_that_the_file_leaves_out(tmp_path):
    def build() -> nn.Module:
        module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        module[1].weight = module[0].weight
        return module

    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2)}, path)
    skeleton = on_meta(build)

    load(opened(path), skeleton)

    assert skeleton[1].weight is skeleton[0].weight
    assert torch.equal(skeleton[1].weight, torch.eye(2))


def tied_pair() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    return module


def test_load_takes_the_first_of_a_tie_that_the_file_has_twice(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2), "1.weight": torch.eye(2)}, path)
    skeleton = on_meta(tied_pair)

    report = load(opened(path), skeleton)

    assert skeleton[1].weight is skeleton[0].weight
    assert torch.equal(skeleton[1].weight, torch.eye(2))
    assert report.nbytes == 16  # the other half is not loaded


@pytest.mark.parametrize("number", [0, 3])  # its first and its last
def test_load_refuses_halves_of_a_tie_that_differ(tmp_path, number):
    other = torch.eye(2)
    other.view(-1)[number] = 7
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2), "1.weight": other}, path)
    skeleton = on_meta(tied_pair)

    with pytest.raises(AttachMismatchError, match=r"1\.weight and 0\.weight are tied .* differ"):
        load(opened(path), skeleton)
    assert skeleton[0].weight.is_meta


def test_load_of_halves_that_differ_takes_the_one_that_rename_leaves(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2), "1.weight": torch.ones(2, 2)}, path)
    skeleton = on_meta(tied_pair)

    load(opened(path), skeleton, rename=lambda name: name if name == "1.weight" else None)

    assert torch.equal(skeleton[0].weight, torch.ones(2, 2))


def test_load_refuses_halves_of_a_tie_that_cannot_be_one(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"0.weight": torch.eye(2), "1.weight": torch.eye(3)}, path)

    with pytest.raises(AttachMismatchError, match=r"1\.weight is \[3, 3\]"):
        load(opened(path), on_meta(tied_pair))


def test_load_fills_a_recurrent_layer(tmp_path):
    torch.manual_seed(0)
    module, x = nn.LSTM(4, 8, num_layers=2), torch.ones(3, 1, 4)
    path = tmp_path / "model.safetensors"
    save_file(module.state_dict(), path)
    skeleton = on_meta(lambda: nn.LSTM(4, 8, num_layers=2))

    load(opened(path), skeleton)

    assert torch.equal(skeleton(x)[0], module(x)[0])


def test_load_names_every_mismatch_and_reads_nothing(tmp_path):
    path = file_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3)), tmp_path)
    source = FileSource(path)
    skeleton = on_meta(lambda: nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2)))

    with pytest.raises(AttachMismatchError) as caught:
        load(SourcedCheckpoint(open_checkpoint(path), lambda _p: source), skeleton)

    assert len(caught.value.problems) == 3
    assert not source.reads
    assert is_weightless(skeleton)


def test_load_keeps_a_buffer_that_the_module_has_computed(tmp_path):
    class Table(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            values = torch.arange(2.0, device="cpu")
            self.register_buffer("table", values, persistent=False)

    path = file_of(nn.Linear(2, 2), tmp_path)
    skeleton = on_meta(Table)

    load(opened(path), skeleton)

    assert skeleton.table.tolist() == [0.0, 1.0]


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

    with begin_load(opened(path, before_read=held), skeleton, device):
        held.released.set()
        early = skeleton()

    assert torch.equal(early, source())


def first_reads(source: FileSource, checkpoint: SourcedCheckpoint, **options) -> list[str]:
    load(checkpoint, on_meta(lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))), **options)
    starts = {info.start: name for name, info in checkpoint.tensors.items()}
    return [starts[start] for start, _ in source.reads if start in starts]


@pytest.mark.parametrize(
    ("order", "expected"), [(None, "0.weight"), (["1.weight", "0.bias"], "1.weight")]
)
def test_load_reads_in_the_order_of_the_module_or_as_asked(tmp_path, order, expected):
    path = file_of(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), tmp_path)
    source = FileSource(path, parallel=1)
    checkpoint = SourcedCheckpoint(open_checkpoint(path), lambda _p: source)
    options = TransferOptions(part_bytes=1, gap_bytes=1, range_bytes=1, hedge=None)

    assert first_reads(source, checkpoint, order=order, options=options)[0] == expected


def test_load_refuses_an_order_with_unknown_names(untied):
    with pytest.raises(ValueError, match="has no 'nonsense'"):
        load(untied.open()[0], untied.skeleton(), order=["nonsense"])


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
