"""A packed file holds the same model, for one kernel, and is believed only after checks."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pilotlight_loader import (
    AttachMismatchError,
    AttachPlan,
    BakedCheckpoint,
    DiskFullError,
    HeaderError,
    LayoutVersionError,
    StandInCheckpoint,
    kernel_layout,
)
from pilotlight_loader.bake_packed import bake_packed
from pilotlight_loader.packed_linear import PackedLinear, accept_packed

needs_kernel = pytest.mark.skipif(
    kernel_layout.kernel_id() is None, reason="this CPU or torch packs nothing"
)
PROMPT = torch.arange(3, 27).view(1, -1)


class Net(nn.Module):
    """Two linear layers of which one would grow, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 128, dtype=torch.bfloat16)
        self.router = nn.Linear(128, 3, bias=False, dtype=torch.bfloat16)
        self.register_buffer("scale", torch.full((128,), 2.0, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.router(self.up(x) * self.scale)


X = torch.linspace(-1, 1, 5 * 64).view(5, 64).bfloat16()


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def plain(net, bake_module):
    return bake_module(net)


@pytest.fixture
def packed(plain, tmp_path):
    return bake_packed(plain, tmp_path / "packed.safetensors", weights=["up.weight"])


def skeleton() -> Net:
    with torch.device("meta"):
        return Net().requires_grad_(False)


def ready_skeleton(packed) -> Net:
    module = skeleton()
    accept_packed(module, packed.packed)
    return module


def linear_weights(model: nn.Module, baked: BakedCheckpoint) -> list[str]:
    return [
        f"{name}.weight"
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear
        and f"{name}.weight" in baked.tensors
        and f"{name}.weight" not in baked.ties.values()
    ]


def mappings_of(path: Path) -> int:
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def edit_header(baked: BakedCheckpoint, change) -> None:
    raw = bytearray(baked.path.read_bytes())
    length = baked.data_start - 8
    header = json.loads(raw[8 : 8 + length])
    change(header)
    raw[8 : 8 + length] = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    baked.path.write_bytes(raw)


@needs_kernel
def test_packed_model_answers_with_the_same_bits(any_model, tmp_path):
    weights = linear_weights(any_model.model, any_model.baked)
    packed = bake_packed(any_model.baked, tmp_path / "packed.safetensors", weights=weights)
    if not weights:  # gpt2 has Conv1D, and a head that is its embedding
        assert packed is None
        return
    module = any_model.skeleton()
    accept_packed(module, packed.packed)
    plan = AttachPlan.compile(module, packed)
    with packed.map() as mapped:
        plan.attach(mapped)

        with torch.inference_mode():
            assert torch.equal(module(PROMPT).logits, any_model.logits)
        assert any(kernel_layout.is_packed(p) for p in module.parameters())
        plan.detach()
    assert all(parameter.is_meta for parameter in module.parameters())


@needs_kernel
def test_packed_file_lists_the_tensors_of_the_plain_one(plain, packed):
    def seen(baked):
        return [(t.name, t.dtype, t.shape) for t in baked.tensors.values()]

    assert seen(packed) == seen(plain)
    assert (packed.ties, packed.metadata) == (plain.ties, plain.metadata)
    assert list(packed.packed) == ["up.weight"]
    assert plain.packed == {}


@needs_kernel
def test_packed_file_is_safetensors_with_checksums(plain, packed):
    packed.verify()
    loaded = load_file(packed.path)

    assert loaded["up.weight"].dtype == torch.uint8
    assert torch.equal(loaded["up.bias"], load_file(plain.path)["up.bias"])
    assert all(tensor.start % 256 == 0 for tensor in packed.tensors.values())
    assert BakedCheckpoint.open(packed.path) == packed


@needs_kernel
def test_packed_file_leaves_what_would_grow_plain(plain, tmp_path):
    """A layout has whole blocks: 3 rows would become 16 or more."""
    weights = ["up.weight", "router.weight"]
    packed = bake_packed(plain, tmp_path / "packed.safetensors", weights=weights)

    assert list(packed.packed) == ["up.weight"]


@needs_kernel
@pytest.mark.parametrize("weights", [[], ["router.weight"]], ids=str)
def test_bake_packed_without_a_weight_to_pack_writes_nothing(plain, tmp_path, weights):
    assert bake_packed(plain, tmp_path / "packed.safetensors", weights=weights) is None
    assert not (tmp_path / "packed.safetensors").exists()


def test_bake_packed_without_a_kernel_writes_nothing(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_layout, "kernel_id", lambda: None)

    assert bake_packed(plain, tmp_path / "packed.safetensors", weights=["up.weight"]) is None
    assert not (tmp_path / "packed.safetensors").exists()


@needs_kernel
@pytest.mark.parametrize("name", ["up.bias", "scale"])
def test_bake_packed_refuses_what_is_no_matrix(plain, tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}.*not packable"):
        bake_packed(plain, tmp_path / "packed.safetensors", weights=[name])


@needs_kernel
def test_bake_packed_refuses_a_packed_file(packed, tmp_path):
    with pytest.raises(ValueError, match="packed already"):
        bake_packed(packed, tmp_path / "again.safetensors", weights=["up.weight"])


@needs_kernel
def test_bake_packed_leaves_the_spare_bytes_free(plain, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DiskFullError, match="the disk is full"):
        bake_packed(plain, tmp_path / "p", weights=["up.weight"], spare_bytes=2 * free)

    assert [path.name for path in tmp_path.iterdir()] == [plain.path.name]


@needs_kernel
def test_bake_packed_holds_one_packed_weight_at_a_time(bake_module, tmp_path, monkeypatch):
    plain = bake_module(nn.Sequential(*(nn.Linear(64, 64).bfloat16() for _ in range(4))))
    pack, made, alive = kernel_layout.pack, [], []

    def watched(weight):
        alive.append(sum(reference() is not None for reference in made))
        data = pack(weight)
        made.append(weakref.ref(data.obj.owner))
        return data

    monkeypatch.setattr(kernel_layout, "pack", watched)
    weights = [f"{number}.weight" for number in range(4)]
    bake_packed(plain, tmp_path / "packed.safetensors", weights=weights)

    assert alive == [0, 0, 0, 0]


@needs_kernel
def test_bake_packed_notices_other_bytes_than_planned(plain, tmp_path, monkeypatch):
    pack = kernel_layout.pack
    monkeypatch.setattr(kernel_layout, "pack", lambda weight: pack(weight)[:-64])

    with pytest.raises(ValueError, match=r"'up\.weight': 16320 bytes, not the 16384 planned"):
        bake_packed(plain, tmp_path / "packed.safetensors", weights=["up.weight"])
    assert [path.name for path in tmp_path.iterdir()] == [plain.path.name]


@needs_kernel
def test_packed_file_is_refused_by_another_kernel(packed, monkeypatch):
    monkeypatch.setattr(kernel_layout, "kernel_id", lambda: "onednn-other")

    with pytest.raises(LayoutVersionError, match="the kernel here is onednn-other: bake again"):
        BakedCheckpoint.open(packed.path)


@needs_kernel
def test_packed_file_is_refused_where_nothing_is_packed(packed, monkeypatch):
    monkeypatch.setattr(kernel_layout, "kernel_id", lambda: None)

    with pytest.raises(LayoutVersionError, match="the kernel here is None"):
        BakedCheckpoint.open(packed.path)


def entry(**changes):
    """Change what the file says of up.weight."""

    def change(metadata):
        packed = json.loads(metadata["pilotlight.packed"])
        packed["up.weight"].update(changes)
        metadata["pilotlight.packed"] = json.dumps(packed)

    return change


@needs_kernel
@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (entry(shape=[64, 128]), LayoutVersionError, "'up.weight' is packed for another kernel"),
        (entry(shape=[128, 32]), LayoutVersionError, "'up.weight' is packed for another kernel"),
        (entry(shape=[256, 64]), HeaderError, "'up.weight': 16384 bytes do not fit"),
        (entry(shape=[2**40, 2**40]), HeaderError, "'up.weight': 16384 bytes do not fit"),
        (entry(shape=[1, 8192]), HeaderError, "'up.weight': 16384 bytes do not fit"),
        (entry(shape=[128]), HeaderError, "'up.weight': its shape is not"),
        (entry(shape=[128, 0]), HeaderError, "'up.weight': its shape is"),
        (entry(shape=[-128, -64]), HeaderError, "'up.weight': its shape is"),
        (entry(shape=[128.0, 64]), HeaderError, "'up.weight': its shape is"),
        (entry(shape="no"), HeaderError, "'up.weight': its shape is not"),
        (entry(layout="0" * 64), LayoutVersionError, "'up.weight' is packed for another kernel"),
        (entry(layout=7), HeaderError, "'up.weight': its layout is no string"),
        (entry(more=1), HeaderError, "'up.weight' has not"),
        (lambda m: m.update({"pilotlight.packed": "["}), HeaderError, "broken metadata"),
        (lambda m: m.update({"pilotlight.packed": '{"up.weight": 1}'}), HeaderError, "has not"),
        (lambda m: m.pop("pilotlight.packed"), HeaderError, "only together"),
        (lambda m: m.pop("pilotlight.kernel"), HeaderError, "only together"),
        (lambda m: m.update({"pilotlight.kernel": ""}), LayoutVersionError, "packed for ''"),
    ],
)
def test_packed_file_with_damaged_metadata_is_refused(packed, change, error, reason):
    edit_header(packed, lambda header: change(header["__metadata__"]))

    with pytest.raises(error, match=reason):
        BakedCheckpoint.open(packed.path)


@needs_kernel
def test_packed_file_whose_layout_needs_other_bytes_is_refused(packed):
    """A view of it would read beyond its tensor, or a part of it."""
    smaller = kernel_layout.layout_of((128, 32))
    change = entry(shape=list(smaller.shape), layout=smaller.digest)
    edit_header(packed, lambda header: change(header["__metadata__"]))

    with pytest.raises(HeaderError, match="needs 8192 bytes, it has 16384"):
        BakedCheckpoint.open(packed.path)


@needs_kernel
@pytest.mark.parametrize("name", ["absent", "up.bias"])
def test_packed_file_that_says_so_of_another_tensor_is_refused(packed, name):
    def change(header):
        entries = json.loads(header["__metadata__"]["pilotlight.packed"])
        entries = {name: entries["up.weight"]}
        header["__metadata__"]["pilotlight.packed"] = json.dumps(entries)

    edit_header(packed, change)

    with pytest.raises(HeaderError, match=f"'{name}' is"):
        BakedCheckpoint.open(packed.path)


@needs_kernel
def test_attach_refuses_a_packed_weight_for_a_plain_layer(packed):
    with pytest.raises(AttachMismatchError, match=r"up\.weight is packed, Linear cannot"):
        AttachPlan.compile(skeleton(), packed)


@needs_kernel
def test_attach_keeps_the_mapping_until_detach(net, packed):
    module = ready_skeleton(packed)
    plan = AttachPlan.compile(module, packed)
    mapped = packed.map()
    plan.attach(mapped)
    mapped.close()
    del mapped
    with torch.inference_mode():
        assert torch.equal(module(X), net(X))
    assert mappings_of(packed.path) == 1

    plan.detach()

    assert mappings_of(packed.path) == 0


@needs_kernel
def test_attach_of_the_plain_file_suits_a_packed_layer(net, plain, packed):
    """Which is what a worker does whose kernel has no file."""
    module = ready_skeleton(packed)
    plan = AttachPlan.compile(module, plain)
    with plain.map() as mapped:
        plan.attach(mapped)

        with torch.inference_mode():
            assert torch.equal(module(X), net(X))
        plan.detach()


@needs_kernel
def test_attach_refuses_the_mapping_of_the_other_file(plain, packed):
    plan = AttachPlan.compile(ready_skeleton(packed), packed)

    with plain.map() as mapped, pytest.raises(AttachMismatchError, match="the plan is for"):
        plan.attach(mapped)


@needs_kernel
def test_product_of_a_mapped_weight_copies_nothing(packed):
    with packed.map() as mapped:
        weight = mapped.tensors()["up.weight"]
        kernel_layout.linear(X, weight, None)

        anonymous, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            head = line.split()[0]
            if not head.endswith(":"):
                inside = str(packed.path) in line
            elif inside and head == "Anonymous:":
                anonymous += int(line.split()[1])
    assert anonymous == 0


@needs_kernel
def test_stand_in_of_a_packed_weight_is_packed(packed):
    module = ready_skeleton(packed)
    AttachPlan.compile(module, packed).attach(StandInCheckpoint(packed))

    with torch.inference_mode():
        assert module(X).count_nonzero() == 0
    assert kernel_layout.is_packed(module.up.weight)


def test_accept_packed_keeps_the_layer_and_its_hooks():
    module, seen = skeleton(), []
    layer = module.up
    layer.register_forward_pre_hook(lambda *_: seen.append(1))
    accept_packed(module, ["up.weight"])
    accept_packed(module, ["up.weight"])
    module(torch.empty(1, 64, dtype=torch.bfloat16, device="meta"))

    assert module.up is layer
    assert type(layer) is PackedLinear
    assert isinstance(layer, nn.Linear)
    assert seen == [1]


@pytest.mark.parametrize("name", ["up.bias", "scale", "norm.weight"])
def test_accept_packed_refuses_what_is_no_linear_weight(name):
    module = skeleton()
    module.norm = nn.LayerNorm(3, device="meta")

    with pytest.raises(ValueError, match=f"'{name}' is not"):
        accept_packed(module, [name])
