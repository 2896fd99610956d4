"""Loading into a module: it answers like the source, and says what it did."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from support.file_source import FileReader, FileSource, until_aborted
from support.small_llama import (
    OPTIONS,
    PART,
    answer,
    is_plain,
    is_weightless,
    running,
)
from support.small_modules import file_of, on_meta, opened_file
from support.sourced_checkpoint import SourcedCheckpoint
from torch import nn

from pilotlight_loader import AttachMismatchError, open_checkpoint
from pilotlight_loader.errors import (
    TransientReadError,
)
from pilotlight_loader.pipeline.load import load
from pilotlight_loader.pipeline.options import TransferOptions
from pilotlight_loader.transfer.policies import HedgePolicy


def test_load_answers_like_the_source(llama, device):
    checkpoint, _ = llama.open(parallel=2)
    skeleton = llama.skeleton()

    load(checkpoint, skeleton, device, options=OPTIONS)

    assert torch.equal(answer(skeleton), llama.logits)
    assert is_plain(skeleton)


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


def test_load_renames_and_leaves_out(tmp_path):
    source = nn.Linear(2, 2)
    path = tmp_path / "model.safetensors"
    save_file({"old.weight": source.weight, "old.bias": source.bias, "x": torch.ones(1)}, path)
    skeleton = on_meta(lambda: nn.Linear(2, 2))

    load(
        opened_file(path),
        skeleton,
        rename=lambda name: None if name == "x" else name.removeprefix("old."),
    )

    assert torch.equal(skeleton.weight, source.weight)


def test_load_refuses_two_tensors_of_one_name(tmp_path):
    path = file_of(nn.Linear(2, 2), tmp_path)

    with pytest.raises(AttachMismatchError, match="both renamed to weight"):
        load(opened_file(path), on_meta(lambda: nn.Linear(2, 2)), rename=lambda name: "weight")


def test_load_fills_a_recurrent_layer(tmp_path):
    torch.manual_seed(0)
    module, x = nn.LSTM(4, 8, num_layers=2), torch.ones(3, 1, 4)
    path = tmp_path / "model.safetensors"
    save_file(module.state_dict(), path)
    skeleton = on_meta(lambda: nn.LSTM(4, 8, num_layers=2))

    load(opened_file(path), skeleton)

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

    load(opened_file(path), skeleton)

    assert skeleton.table.tolist() == [0.0, 1.0]


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
