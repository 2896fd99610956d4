"""Streaming: the right tensors, in order, owned, in bounded memory."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.file_source import FileReader, FileSource, until_aborted
from support.raw_safetensors import save_in_this_order
from support.waiting import until
from torch import nn

from pilotlight_loader import bake
from pilotlight_loader.devices.cpu import CpuDevice
from pilotlight_loader.devices.simulated import SimulatedDevice
from pilotlight_loader.errors import AccessDeniedError, DeviceError, LoadFailedError
from pilotlight_loader.header import TensorInfo, read_header
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.pipeline.stream import stream

SMALL = TransferOptions(staging_bytes=1024, range_bytes=2048, hedge=None)  # 4 slabs of 256 bytes


def running() -> SimulatedDevice:
    device = SimulatedDevice()
    device.run()
    return device


@pytest.fixture(params=[CpuDevice, running])
def device(request):
    return request.param()


def same(found: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> bool:
    return found.keys() == weights.keys() and all(
        torch.equal(found[name], weights[name]) for name in weights
    )


def test_stream_brings_every_tensor(opened, weights, device):
    checkpoint, _ = opened(parallel=3)

    assert same(dict(stream(checkpoint, device, options=SMALL)), weights)


def test_stream_follows_file_order_unless_it_is_asked(opened, device):
    checkpoint, _ = opened()

    assert [n for n, _ in stream(checkpoint, device)] == list(checkpoint.tensors)


def test_stream_follows_the_asked_order_first(opened, device):
    checkpoint, _ = opened()

    names = [n for n, _ in stream(checkpoint, device, order=["t5", "t1"], options=SMALL)]

    assert names[:2] == ["t5", "t1"]
    assert sorted(names) == sorted(checkpoint.tensors)


def test_stream_reads_only_what_is_asked(opened, weights, device):
    checkpoint, source = opened(part_bytes=1024)
    options = TransferOptions(gap_bytes=1, hedge=None)

    found = dict(stream(checkpoint, device, names=["t2", "t6"], options=options))

    assert same(found, {name: weights[name] for name in ("t2", "t6")})
    assert source.bytes_asked == 2 * 1024


@pytest.mark.parametrize("argument", ["order", "names"])
def test_stream_refuses_unknown_names_before_it_begins(opened, argument):
    checkpoint, source = opened()

    with pytest.raises(ValueError, match="has no 'nonsense'"):
        stream(checkpoint, **{argument: ["nonsense"]})
    assert not source.reads


def test_stream_tensors_are_never_overwritten(opened, weights, device):
    checkpoint, _ = opened(parallel=2)

    kept = dict(stream(checkpoint, device, options=SMALL))
    dict(stream(checkpoint, device, order=["t7", "t3"], options=SMALL))

    assert same(kept, weights)


def test_stream_tensors_belong_to_the_caller(opened, weights, device):
    checkpoint, _ = opened()

    for _, tensor in stream(checkpoint, device):
        tensor.fill_(0)

    assert same(dict(stream(checkpoint, device)), weights)


def test_stream_lets_a_range_go_with_its_tensors(opened):
    checkpoint, _ = opened()
    device = running()
    most = 0

    for _name, _tensor in stream(checkpoint, device, ahead_bytes=1, options=SMALL):
        most = max(most, device.allocated_bytes)

    assert most <= 3 * 2048  # of 8 KiB: the range in hand, and those of the part read ahead


def test_stream_reads_no_further_ahead_than_it_is_told(opened):
    checkpoint, source = opened(parallel=1)
    tensors = stream(checkpoint, CpuDevice(), order=["t0"], ahead_bytes=512, options=SMALL)

    next(tensors)
    until(lambda: source.bytes_asked >= 1024 + 256)
    tensors.close()

    assert source.bytes_asked <= 1024 + 512 + 256


def test_stream_hands_out_misaligned_tensors_as_copies(opened, tmp_path, device):
    odd = {"a": torch.tensor([True, False, True]), "b": torch.arange(5, dtype=torch.int8)}
    raw = {**odd, "c": torch.randn(7), "d": torch.randn(3, dtype=torch.float64)}
    path = tmp_path / "odd.safetensors"
    save_in_this_order(raw, path)
    checkpoint, _ = opened(path, part_bytes=5)

    assert same(dict(stream(checkpoint, device)), raw)


def test_stream_keeps_no_copy_of_a_misaligned_tensor(opened, tmp_path):
    path = tmp_path / "odd.safetensors"
    save_in_this_order({"a": torch.tensor([True]), "b": torch.randn(7), "c": torch.ones(1)}, path)
    tensors = stream(opened(path)[0], CpuDevice())
    next(tensors)
    _, tensor = next(tensors)
    storage = weakref.ref(tensor.untyped_storage())

    next(tensors)
    del tensor

    assert storage() is None
    tensors.close()


def test_stream_reads_shards_side_by_side(tmp_path, weights, device):
    shards = [{"t0": weights["t0"], "t2": weights["t2"]}, {"t1": weights["t1"]}]
    checkpoint = _Shards(tmp_path, shards)

    found = list(stream(checkpoint, device, order=["t0", "t1", "t2"], options=SMALL))

    assert [name for name, _ in found] == ["t0", "t1", "t2"]
    assert same(dict(found), {name: weights[name] for name in ("t0", "t1", "t2")})


class _Shards:
    """A checkpoint of several files, each with a source of its own."""

    in_execution_order = False

    def __init__(self, directory: Path, shards: list[dict[str, torch.Tensor]]) -> None:
        self.location = str(directory)
        self.ties: dict[str, str] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self._files: dict[str, str] = {}
        for number, tensors in enumerate(shards):
            path = directory / f"{number}.safetensors"
            save_file(tensors, path)
            for name, info in read_header(path).tensors.items():
                self.tensors[name], self._files[name] = info, str(path)

    def file_of(self, name: str) -> str:
        return self._files[name]

    def source(self, file: str) -> FileSource:
        return FileSource(Path(file))


def test_stream_copies_one_part_while_it_reads_the_next(opened):
    copied_while_reading = threading.Event()
    device = SimulatedDevice()

    def second_part_waits_for_the_first_copy(reader: FileReader, start: int, into) -> None:
        if len(source.reads) == 2:
            until(lambda: device.pending_bytes > 0)
            device.run()
            copied_while_reading.set()

    checkpoint, source = opened(
        parallel=1, part_bytes=1024, before_read=second_part_waits_for_the_first_copy
    )

    list(stream(checkpoint, device, options=TransferOptions(hedge=None)))

    assert copied_while_reading.is_set()


def test_stream_reads_no_more_than_the_ring_while_the_device_is_stuck(opened, weights):
    device = SimulatedDevice()
    checkpoint, source = opened(parallel=2)
    found: dict[str, torch.Tensor] = {}
    consumer = threading.Thread(
        target=lambda: found.update(stream(checkpoint, device, options=SMALL))
    )
    consumer.start()
    until(lambda: device.pending_bytes > 3 * 256)
    consumer.join(0.1)  # were there no back-pressure, all would be read by now

    asked, staged = source.bytes_asked, device.staged_bytes
    device.run()
    consumer.join(20)

    assert asked <= 1024
    assert staged <= 1024
    assert same(found, weights)


def test_stream_reuses_no_slab_before_its_copy_has_ended(opened, weights):
    device = SimulatedDevice()  # copies read their source as late as they can
    checkpoint, _ = opened(parallel=2)
    found: dict[str, torch.Tensor] = {}
    consumer = threading.Thread(
        target=lambda: found.update(stream(checkpoint, device, options=SMALL))
    )
    consumer.start()
    while consumer.is_alive():
        device.advance(100)
        consumer.join(0.001)

    assert same(found, weights)


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_stream_closed_early_frees_everything(opened, taken):
    device = running()
    checkpoint, source = opened(parallel=2)
    tensors = stream(checkpoint, device, options=SMALL)
    for _ in range(taken):
        next(tensors)

    tensors.close()

    assert source.open_readers == 0
    assert device.allocated_bytes == device.staged_bytes == 0


def test_stream_closed_early_aborts_a_hanging_read(opened):
    hanging = threading.Event()

    def hang_behind_the_first(reader: FileReader, start: int, into) -> None:
        if start > 2048:
            hanging.set()
            until_aborted(reader)

    checkpoint, source = opened(parallel=2, before_read=hang_behind_the_first)
    tensors = stream(checkpoint, running(), options=SMALL)
    next(tensors)
    assert hanging.wait(20)

    tensors.close()

    assert source.open_readers == 0


def test_stream_fails_with_the_sources_error_as_its_cause(opened, device):
    def refuse(reader: FileReader, start: int, into) -> None:
        if start > 2048:
            raise AccessDeniedError("test", "the credentials have expired")

    checkpoint, source = opened(parallel=2, before_read=refuse)

    with pytest.raises(LoadFailedError, match="credentials have expired") as caught:
        list(stream(checkpoint, device, options=SMALL))
    assert isinstance(caught.value.__cause__, AccessDeniedError)
    assert source.open_readers == 0


def test_stream_fails_when_the_device_breaks_down(opened):
    device = SimulatedDevice()
    checkpoint, _ = opened(parallel=1)
    tensors = stream(checkpoint, device, options=SMALL)
    breaking = threading.Thread(
        target=lambda: (until(lambda: device.pending_bytes > 0), device.break_down("gone"))
    )
    breaking.start()

    with pytest.raises(LoadFailedError, match="gone"):
        list(tensors)
    breaking.join(20)
    assert device.staged_bytes == device.allocated_bytes == 0


def test_stream_of_nothing_but_empty_tensors_reads_nothing(opened, device):
    checkpoint, source = opened()

    ((name, tensor),) = stream(checkpoint, device, names=["empty"])

    assert (name, tensor.shape) == ("empty", (0, 4))
    assert not source.reads


def test_stream_of_a_baked_file_opened_as_any_other_leaves_out_pads(tmp_path, opened):
    path = tmp_path / "baked.safetensors"
    bake(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), path, order=[], metadata={})
    checkpoint, _ = opened(path)

    names = [name for name, _ in stream(checkpoint)]

    assert sorted(names) == ["0.bias", "0.weight", "1.bias", "1.weight"]


def test_stream_fails_when_device_memory_ends(opened):
    device = SimulatedDevice(capacity_bytes=3000)
    device.run()
    checkpoint, source = opened()

    with pytest.raises(DeviceError, match="in use on the device"):
        list(stream(checkpoint, device, options=SMALL))
    assert source.open_readers == 0
