from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from pilotlight_loader import AttachPlan, BakedCheckpoint, HeaderError, bake, wide_product
from pilotlight_loader.sparse import stored
from pilotlight_loader.sparse.convert import compress_baked
from pilotlight_loader.sparse.layers import SparseLinear, accept_sparse
from pilotlight_loader.sparse.pattern import is_compressible

WEIGHTS = ["up.weight", "down.weight", "head.weight"]


class Model(nn.Module):
    """Two layers that are 2:4 sparse, and one that is not."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(512, 1024)
        self.down = nn.Linear(1024, 512, bias=False)
        self.head = nn.Linear(512, 64, bias=False)

    def forward(self, x):
        return self.head(self.down(self.up(x)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Model().bfloat16().requires_grad_(False)
    for layer in (model.up, model.down):
        layer.weight.view(-1, 4)[:, 1::2] = 0
    return model


@pytest.fixture
def baked(model, tmp_path):
    return bake(model, tmp_path / "plain.safetensors", order=WEIGHTS, metadata={"a": "b"})


def attached(sparse):
    with torch.device("meta"):
        skeleton = Model().bfloat16().requires_grad_(False)
    accept_sparse(skeleton, sparse.sparse, dict.fromkeys(sparse.sparse, torch.bfloat16))
    plan = AttachPlan.compile(skeleton, sparse)
    return skeleton, plan


def test_compress_baked_takes_the_weights_that_follow_the_pattern(baked, tmp_path):
    sparse = compress_baked(baked, tmp_path / "sparse.safetensors", WEIGHTS)

    assert sparse.sparse == {"up.weight": (1024, 512), "down.weight": (512, 1024)}
    assert dict(sparse.metadata) == {"a": "b"}
    assert list(sparse.tensors)[:3] == [
        "up.weight_values",
        "up.weight_indices",
        "down.weight_values",
    ]
    dense = sum(baked.tensors[name].nbytes for name in sparse.sparse)
    ends = (stored.VALUES_SUFFIX, stored.INDICES_SUFFIX)
    attached_bytes = sum(sparse.tensors[n + end].nbytes for n in sparse.sparse for end in ends)
    assert attached_bytes / dense <= 0.57
    sparse.verify()


def test_compress_baked_writes_nothing_where_no_weight_is_sparse(baked, tmp_path):
    assert compress_baked(baked, tmp_path / "sparse.safetensors", ["head.weight"]) is None
    assert not (tmp_path / "sparse.safetensors").exists()


def test_compress_baked_reports_its_progress(baked, tmp_path):
    seen = []

    compress_baked(baked, tmp_path / "s", WEIGHTS, progress=lambda *report: seen.append(report))

    assert seen[-1][0] == seen[-1][1] > 0


def test_compress_baked_refuses_what_is_compressed_or_not_there(baked, tmp_path):
    sparse = compress_baked(baked, tmp_path / "sparse.safetensors", WEIGHTS)

    with pytest.raises(ValueError, match="sparse already"):
        compress_baked(sparse, tmp_path / "again", [])
    with pytest.raises(ValueError, match=r"gate\.weight: tied, or not there"):
        compress_baked(baked, tmp_path / "again", ["gate.weight"])


@pytest.mark.parametrize("lacks_kernels", [False, True])
def test_sparse_layers_answer_like_the_plain_ones(
    model, baked, tmp_path, monkeypatch, lacks_kernels
):
    monkeypatch.setattr(wide_product, "lacks_kernels", lambda: lacks_kernels)
    sparse = compress_baked(baked, tmp_path / "sparse.safetensors", WEIGHTS)
    skeleton, plan = attached(sparse)
    x = torch.randn(3, 5, 512).bfloat16()

    with sparse.map() as mapped, torch.inference_mode():
        plan.attach(mapped)

        if lacks_kernels:  # products in float32, rounded once
            torch.testing.assert_close(skeleton(x), model(x), rtol=0.02, atol=0.02)
        else:
            assert torch.equal(skeleton(x), model(x))
    assert type(skeleton.up) is SparseLinear
    assert type(skeleton.head) is nn.Linear


def test_sparse_layers_let_go_of_what_they_expanded_when_detached(baked, tmp_path):
    sparse = compress_baked(baked, tmp_path / "sparse.safetensors", WEIGHTS)
    skeleton, plan = attached(sparse)
    with sparse.map() as mapped:
        plan.attach(mapped)
        skeleton(torch.randn(1, 512).bfloat16())
        expanded = weakref.ref(skeleton.up._usable())
        assert expanded() is skeleton.up._usable()

    plan.detach()
    gc.collect()

    assert expanded() is None


def test_sparse_layers_without_weights_have_the_shape_of_their_answer(baked, tmp_path):
    sparse = compress_baked(baked, tmp_path / "sparse.safetensors", WEIGHTS)
    skeleton, _ = attached(sparse)

    assert skeleton(torch.empty(2, 512, dtype=torch.bfloat16, device="meta")).shape == (2, 64)


def test_accept_sparse_compiles_what_its_products_need(model, monkeypatch):
    prepared = []
    monkeypatch.setattr(wide_product, "prepare", lambda: prepared.append(True))
    accept_sparse(model, {"up.weight": tuple(model.up.weight.shape)}, {"up.weight": torch.bfloat16})

    assert prepared == [True]


def test_accept_sparse_refuses_other_layers_and_shapes(model):
    with pytest.raises(ValueError, match=r"'up\.bias' is not the weight"):
        accept_sparse(model, {"up.bias": (1024, 512)}, {})
    with pytest.raises(ValueError, match=r"is \[1024, 512\], not \[512, 1024\]"):
        accept_sparse(model, {"up.weight": (512, 1024)}, {})


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda shapes: {"down.weight": (512, 512)}, "down.weight_values.*is BF16"),
        (lambda shapes: shapes | {"head.weight": (64, 512)}, "head.weight.*is there"),
        (lambda shapes: shapes | {"gate.weight": (64, 512)}, "gate.weight.*no values"),
        (lambda shapes: shapes | {"up.weight": (1024, 12)}, "up.weight.*its shape"),
        (lambda shapes: shapes | {"up.weight": (True, 512)}, "up.weight.*its shape"),
    ],
)
def test_open_refuses_metadata_that_does_not_fit(spoil, match, baked, tmp_path, monkeypatch):
    encode = stored.encode
    monkeypatch.setattr(stored, "encode", lambda shapes: encode(spoil(dict(shapes))))

    with pytest.raises(HeaderError, match=match):
        compress_baked(baked, tmp_path / "sparse.safetensors", WEIGHTS)


@pytest.mark.parametrize("text", ["", "{}", '{"sparsity":"1:4","weights":{}}', '{"weights":3}'])
def test_parse_refuses_broken_metadata(text):
    with pytest.raises(HeaderError, match="broken metadata key"):
        stored.parse(text, "key", "a")


def test_compressed_file_is_read_again(model, baked, tmp_path):
    compress_baked(baked, tmp_path / "sparse.safetensors", WEIGHTS)

    opened = BakedCheckpoint.open(tmp_path / "sparse.safetensors")

    assert opened.sparse.keys() == {"up.weight", "down.weight"}
    assert is_compressible(model.up.weight)
