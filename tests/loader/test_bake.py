from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pilotlight_loader import (
    CheckpointError,
    DiskFullError,
    UnsupportedDtypeError,
    bake,
    open_checkpoint,
    read_header,
)


def holding(**tensors: torch.Tensor) -> nn.Module:
    """A module with these buffers."""
    module = nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    return module


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "out.safetensors"


def test_bake_writes_what_safetensors_loads(any_model):
    loaded = load_file(any_model.baked.path)

    tensors = dict(any_model.model.named_parameters()) | dict(any_model.model.named_buffers())
    assert {name for name in loaded if not name.startswith("__pad__.")} == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)


def test_bake_writes_an_ordinary_checkpoint(llama):
    assert open_checkpoint(llama.baked.path).nbytes > 0


def test_bake_stores_buffers_that_the_state_dict_leaves_out(llama):
    assert "model.rotary_emb.inv_freq" in llama.baked.tensors
    assert "model.rotary_emb.inv_freq" not in llama.model.state_dict()


def test_bake_stores_tensors_in_execution_order(any_model):
    assert list(any_model.baked.tensors) == any_model.order


def test_bake_appends_what_the_order_leaves_out(affine, destination):
    baked = bake(affine, destination, order=["unused.bias"], metadata={})

    assert list(baked.tensors)[:2] == ["unused.bias", "last.weight"]
    assert len(baked.tensors) == 7


def test_bake_aligns_data_and_tensors(any_model):
    assert any_model.baked.data_start % 4096 == 0
    assert all(tensor.start % 256 == 0 for tensor in any_model.baked.tensors.values())


def test_bake_stores_tied_weights_once(tied_llama):
    assert tied_llama.baked.ties == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in tied_llama.baked.tensors


def test_bake_ties_two_parameters_that_are_the_same_memory(destination):
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = nn.Parameter(module[0].weight.data)

    assert bake(module, destination, order=[], metadata={}).ties == {"1.weight": "0.weight"}


def test_bake_does_not_tie_two_views_of_the_same_memory(destination):
    memory = torch.arange(6.0)
    baked = bake(holding(a=memory, b=memory[:3]), destination, order=[], metadata={})

    assert baked.ties == {}
    assert load_file(destination)["b"].tolist() == [0, 1, 2]


def test_bake_keeps_the_caller_s_metadata(llama):
    assert llama.baked.metadata == {"note": "llama"}


def test_bake_tells_transformers_the_format(llama):
    assert read_header(llama.baked.path).metadata["format"] == "pt"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3).t(),
        torch.arange(3.0).expand(4, 3),
        torch.arange(10.0)[::3],
        torch.zeros(0, 3),
        torch.tensor(2.5),
        torch.tensor([True, False]),
        torch.tensor([1 + 2j]).conj(),
        torch.arange(4.0).to(torch.float8_e4m3fn),
        torch.full((5_000_000,), 3, dtype=torch.int32),
    ],
    ids=["transposed", "expanded", "strided", "empty", "scalar", "bool", "conj", "f8", "2-chunks"],
)
def test_bake_stores_any_kind_of_tensor(destination, tensor):
    baked = bake(holding(t=tensor, end=torch.ones(1)), destination, order=[], metadata={})

    with baked.map() as mapped:
        stored = mapped.tensors()["t"]
    assert stored.dtype == tensor.dtype
    assert stored.shape == tensor.shape
    assert torch.equal(stored.to(torch.complex64), tensor.to(torch.complex64))


def test_bake_of_a_module_without_tensors_is_valid(destination):
    assert bake(nn.Module(), destination, order=[], metadata={}).tensors == {}


def test_bake_leaves_the_module_as_it_was(affine, destination):
    before = dict(affine.named_parameters())
    bake(affine, destination, order=[], metadata={})

    assert all(parameter is before[name] for name, parameter in affine.named_parameters())


def test_bake_reports_progress_to_the_last_byte(affine, destination):
    seen: list[tuple[int, int]] = []
    baked = bake(
        affine, destination, order=[], metadata={}, progress=lambda *step: seen.append(step)
    )

    total = baked.nbytes - baked.data_start
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_bake_is_reproducible(affine, tmp_path):
    first = bake(affine, tmp_path / "a.safetensors", order=[], metadata={"k": "v"})
    second = bake(affine, tmp_path / "b.safetensors", order=[], metadata={"k": "v"})

    assert first.path.read_bytes() == second.path.read_bytes()


def test_bake_replaces_a_file_under_its_readers(destination):
    old = bake(holding(t=torch.zeros(4)), destination, order=[], metadata={})
    with old.map() as mapped:
        bake(holding(t=torch.ones(4)), destination, order=[], metadata={})

        assert mapped.tensors()["t"].tolist() == [0, 0, 0, 0]
    assert load_file(destination)["t"].tolist() == [1, 1, 1, 1]


def test_bake_leaves_only_its_file(affine, destination):
    bake(affine, destination, order=[], metadata={})

    assert list(destination.parent.iterdir()) == [destination]


def test_bake_that_is_interrupted_leaves_nothing(affine, destination):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bake(affine, destination, order=[], metadata={}, progress=interrupt)

    assert list(destination.parent.iterdir()) == []


def test_bake_onto_a_full_disk_names_the_bytes(affine, destination):
    # Every write to /dev/full fails with ENOSPC, in the kernel.
    destination.with_name("out.safetensors.part").symlink_to("/dev/full")

    with pytest.raises(DiskFullError) as caught:
        bake(affine, destination, order=[], metadata={})

    assert caught.value.needed_bytes > 4096
    assert list(destination.parent.iterdir()) == []


def test_bake_checks_the_space_before_it_writes(affine, destination, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))

    with pytest.raises(DiskFullError, match="1 are free"):
        bake(affine, destination, order=[], metadata={})

    assert list(destination.parent.iterdir()) == []


def test_bake_into_no_directory_is_a_checkpoint_error(affine, tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        bake(affine, tmp_path / "absent" / "out.safetensors", order=[], metadata={})


def test_bake_refuses_a_skeleton(destination):
    with torch.device("meta"):
        module = nn.Linear(2, 2)

    with pytest.raises(CheckpointError, match="'weight' is on the meta device"):
        bake(module, destination, order=[], metadata={})


def test_bake_refuses_a_sparse_tensor(destination):
    with pytest.raises(CheckpointError, match=r"'t' is torch\.sparse_coo"):
        bake(holding(t=torch.eye(2).to_sparse()), destination, order=[], metadata={})


def test_bake_refuses_a_dtype_that_safetensors_lacks(destination):
    with pytest.raises(UnsupportedDtypeError, match="'t'"):
        bake(holding(t=torch.zeros(1, dtype=torch.complex128)), destination, order=[], metadata={})


def test_bake_refuses_an_order_of_another_module(affine, destination):
    with pytest.raises(ValueError, match=r"the module has no 'third\.weight'"):
        bake(affine, destination, order=["third.weight"], metadata={})


@pytest.mark.parametrize("key", ["format", "pilotlight.layout"])
def test_bake_refuses_a_reserved_metadata_key(affine, destination, key):
    with pytest.raises(ValueError, match="reserved"):
        bake(affine, destination, order=[], metadata={key: "x"})
