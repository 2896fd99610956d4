"""A quantized file holds the same model in fewer bits, and is believed only after checks."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pilotlight_loader import AttachPlan, BakedCheckpoint, HeaderError, bake
from pilotlight_loader.errors import CheckpointError, QuantizationError
from pilotlight_loader.kernels import chosen
from pilotlight_loader.quantize import device_layout
from pilotlight_loader.quantize.convert import quantize_baked
from pilotlight_loader.quantize.layers import accept_quantized
from pilotlight_loader.quantize.matrix import FP8, INT4, INT8, TRELLIS, Scheme, TrellisMatrix
from pilotlight_loader.quantize.nearest import NearestRounding

SCHEMES = {
    "embed.weight": INT8,
    "up.weight": INT4,
    "side.weight": TRELLIS,
    "down.weight": FP8,
}


class Net(nn.Module):
    """An embedding, tied to the head, and three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(96, 128, dtype=torch.bfloat16)
        self.up = nn.Linear(128, 192, dtype=torch.bfloat16)
        self.side = nn.Linear(128, 192, dtype=torch.bfloat16)
        self.down = nn.Linear(192, 128, bias=False, dtype=torch.bfloat16)
        self.head = nn.Linear(128, 96, bias=False, dtype=torch.bfloat16)
        self.head.weight = self.embed.weight
        self.requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        return self.head(x + self.down(torch.relu(self.up(x)) + self.side(x)))


IDS = torch.arange(40).view(2, 20)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def plain(net, bake_module) -> BakedCheckpoint:
    return bake_module(net)


@pytest.fixture
def quantized(plain, tmp_path) -> BakedCheckpoint:
    return quantize_baked(plain, tmp_path / "q.safetensors", SCHEMES, NearestRounding())


def skeleton(quantized: BakedCheckpoint) -> nn.Module:
    with torch.device("meta"):
        module = Net()
    named = {**quantized.quantized, "head.weight": quantized.quantized["embed.weight"]}
    accept_quantized(module, named, dict.fromkeys(named, torch.bfloat16))
    return module


@pytest.mark.parametrize(("device", "compiled"), [("cpu", True), ("cuda", False)])
def test_quantized_layers_compile_for_a_cpu_only(quantized, monkeypatch, device, compiled) -> None:
    prepared = []
    monkeypatch.setattr(chosen, "prepare", lambda kind, block: prepared.append(kind))
    module = Net().to("meta")
    dtypes = dict.fromkeys(quantized.quantized, torch.bfloat16)
    accept_quantized(module, quantized.quantized, dtypes, device)

    kinds = {matrix.scheme.kind for matrix in quantized.quantized.values()}
    assert set(prepared) == (kinds if compiled else set())


def restored(net: nn.Module, quantized: BakedCheckpoint) -> nn.Module:
    """*net* with the weights that the codes stand for."""
    with quantized.map() as mapped:
        tensors = mapped.tensors()
        for name, stored in quantized.quantized.items():
            matrix = device_layout.matrix(
                stored, tensors[f"{name}_codes"], tensors[f"{name}_scales"]
            )
            net.get_parameter(name).data = matrix.dequantize().bfloat16()
    return net


def test_quantized_file_answers_as_its_codes_say(net, quantized) -> None:
    module = skeleton(quantized)
    plan = AttachPlan.compile(module, quantized)
    with torch.inference_mode(), quantized.map() as mapped:
        plan.attach(mapped)
        actual = module(IDS).float()
        plan.detach()
    expected = restored(net, quantized)(IDS).float()

    assert float((actual - expected).norm() / expected.norm()) < 0.02
    assert all(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def test_quantized_file_is_safetensors_in_the_order_of_the_plain_one(plain, quantized) -> None:
    order = [
        name.removesuffix("_codes") for name in quantized.tensors if not name.endswith("_scales")
    ]

    assert order == list(plain.tensors)
    tensors = load_file(quantized.path)
    assert tensors["up.weight_codes"].shape == tensors["side.weight_codes"].shape == (192, 64)
    assert tensors["up.weight_scales"].shape == (1, 192, 2)
    assert tensors["side.weight_scales"].shape == (1, 192)
    quantized.verify()


def test_quantized_file_says_a_trellis_and_means_the_same_codes(net, quantized) -> None:
    stored = quantized.quantized["side.weight"]
    matrix = NearestRounding().matrix("w", net.side.weight, TRELLIS)
    with quantized.map() as mapped:
        codes, scales = (mapped.tensors()["side.weight" + end] for end in ("_codes", "_scales"))
        found = device_layout.matrix(stored, codes, scales)

        assert isinstance(found, TrellisMatrix)
        assert torch.equal(found.codes, matrix.codes)
        assert torch.equal(found.scales, matrix.scales)
    assert (stored.scheme, stored.shape, stored.block) == (TRELLIS, (192, 128), 32)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_quantized_trellis_is_stored_alike_for_any_device(device) -> None:
    assert device_layout.plan(TRELLIS, (96, 256), device).block == 32


@pytest.mark.parametrize(
    ("group", "shape", "message"),
    [
        (128, (48, 256), "48 rows are not in blocks of 32"),
        (128, (64, 200), "200 columns are not in groups of 128"),
        (16, (64, 256), "256 columns are not in groups of 16"),
        (0, (64, 256), "256 columns are not in groups of 0"),
        (512, (64, 1024), "1024 columns are not in groups of 512"),  # sums pass 32 bits
    ],
)
def test_quantize_refuses_a_trellis_that_the_kernel_refuses(group, shape, message) -> None:
    with pytest.raises(ValueError, match=message):
        device_layout.plan(Scheme("trellis", group), shape)


@pytest.mark.parametrize("group", [32, 64, 128, 256])
def test_quantized_trellis_of_any_group_of_the_kernels_is_stored(group) -> None:
    weight = torch.randn(64, 512).bfloat16()
    stored = device_layout.plan(Scheme("trellis", group), (64, 512))
    matrix = NearestRounding().matrix("w", weight, stored.scheme)
    codes, scales = device_layout.tensors(matrix, stored, torch.bfloat16)
    found = device_layout.matrix(stored, codes, scales)

    assert (codes.shape, scales.shape) == (stored.codes_shape, stored.scales_shape)
    assert torch.equal(found.dequantize(), matrix.dequantize())


def test_quantize_refuses_a_matrix_of_another_kind_or_grouping() -> None:
    weight = torch.randn(64, 256).bfloat16()
    matrices = {s: NearestRounding().matrix("w", weight, s) for s in (TRELLIS, INT4, INT8, FP8)}
    for scheme, matrix in matrices.items():
        stored = device_layout.plan(scheme, (64, 256))
        for other, wrong in matrices.items():
            if other is not scheme:
                with pytest.raises(ValueError, match=f"not .*{scheme.kind}"):
                    device_layout.tensors(wrong, stored, torch.bfloat16)
        assert device_layout.tensors(matrix, stored, torch.bfloat16)
    with pytest.raises(ValueError, match="a trellis with groups of 128"):
        device_layout.tensors(
            matrices[TRELLIS],
            device_layout.plan(Scheme("trellis", 64), (64, 256)),
            torch.bfloat16,
        )


def test_quantize_refuses_trellis_scales_that_the_dtype_cannot_hold() -> None:
    weight = torch.randn(64, 128).mul(1e8).bfloat16()
    matrix = NearestRounding().matrix("w", weight, TRELLIS)

    with pytest.raises(ValueError, match="too large for"):
        device_layout.tensors(matrix, device_layout.plan(TRELLIS, (64, 128)), torch.float16)


def test_quantized_file_keeps_what_is_tied(quantized) -> None:
    assert quantized.ties == {
        "head.weight_codes": "embed.weight_codes",
        "head.weight_scales": "embed.weight_scales",
    }


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_quantize_refuses_what_is_no_number_by_name(net, bake_module, tmp_path, bad) -> None:
    net.down.weight[5, 6] = bad

    with pytest.raises(QuantizationError, match=r"'down\.weight' cannot be quantized"):
        quantize_baked(bake_module(net), tmp_path / "q", SCHEMES, NearestRounding())
    assert list(tmp_path.glob("q*")) == []


def test_quantize_refuses_a_shape_that_the_kernel_refuses(bake_module, tmp_path) -> None:
    baked = bake_module(nn.Sequential(nn.Linear(100, 64, dtype=torch.bfloat16)))

    with pytest.raises(QuantizationError, match="100 columns are not in groups of 128"):
        quantize_baked(baked, tmp_path / "q", {"0.weight": INT4}, NearestRounding())


def test_quantize_refuses_codes_that_stand_for_another_weight(plain, tmp_path) -> None:
    class Negative(NearestRounding):
        def matrix(self, name, weight, scheme):
            return super().matrix(name, -weight, scheme)

    with pytest.raises(QuantizationError, match="its error would be 2 of it"):
        quantize_baked(plain, tmp_path / "q", SCHEMES, Negative())


def test_quantize_refuses_a_quantized_file(quantized, tmp_path) -> None:
    with pytest.raises(ValueError, match="already"):
        quantize_baked(quantized, tmp_path / "again", {}, NearestRounding())


def test_quantize_reports_progress_to_the_end(plain, tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    quantize_baked(
        plain, tmp_path / "q", SCHEMES, NearestRounding(), progress=lambda *at: seen.append(at)
    )

    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def with_metadata(path: Path, change) -> Path:
    """A copy whose quantization manifest went through *change*."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    manifest = json.loads(header["__metadata__"]["pilotlight.quantized"])
    change(manifest)
    header["__metadata__"]["pilotlight.quantized"] = json.dumps(manifest)
    text = json.dumps(header, separators=(",", ":")).encode()
    size = -(-(len(text) + 8) // 4096) * 4096 - 8
    copy = path.with_name("changed")
    copy.write_bytes(struct.pack("<Q", size) + text.ljust(size) + data[8 + length :])
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["up.weight"].update(kind="int3"), "its kind"),
        (lambda m: m["up.weight"].update(group=48), "groups of 48"),
        (lambda m: m["up.weight"].update(block=7), "blocks of 7"),
        (lambda m: m["side.weight"].update(block=0), "blocks of 0"),
        (lambda m: m["side.weight"].update(block=64), "blocks of 64"),
        (lambda m: m["side.weight"].update(block=8), "blocks of 8"),
        (lambda m: m["side.weight"].update(group=0), "groups of 0"),
        (lambda m: m["side.weight"].update(group=48), "groups of 48"),
        (lambda m: m["side.weight"].update(group=256), "groups of 256"),
        (lambda m: m["side.weight"].update(group=64), "side.weight_scales' is BF16"),
        (lambda m: m["side.weight"].update(kind="int4"), "side.weight_scales' is BF16"),
        (lambda m: m["side.weight"].update(shape=[200, 128]), "blocks of 32"),
        (lambda m: m["side.weight"].update(shape=[96, 256]), "side.weight_codes' is U8"),
        (lambda m: m["side.weight"].update(kind="int8", block=0, group=0), "_codes' is U8"),
        (lambda m: m["up.weight"].update(kind="trellis", block=32), "up.weight_scales' is BF16"),
        (lambda m: m["up.weight"].update(shape=[192, 256]), "up.weight_codes' is U8"),
        (lambda m: m["up.weight"].update(shape=[1.5, 128]), "no integer"),
        (lambda m: m["down.weight"].update(kind="int8"), "down.weight_codes' is F8_E4M3"),
        (lambda m: m["up.weight"].pop("block"), "has not"),
        (lambda m: m.update({"up.bias": m["up.weight"]}), "is there"),
        (lambda m: m.update({"none": m["up.weight"]}), "no codes"),
    ],
)
def test_quantized_file_that_lies_is_refused(quantized, change, message) -> None:
    with pytest.raises(HeaderError, match=message):
        BakedCheckpoint.open(with_metadata(quantized.path, change))


def test_quantized_file_that_was_cut_is_refused(quantized) -> None:
    os.truncate(quantized.path, quantized.nbytes - 1)

    with pytest.raises(CheckpointError):
        quantized.map()


def test_quantized_file_replaced_under_a_mapping_changes_nothing(
    plain, quantized, tmp_path
) -> None:
    with quantized.map() as mapped:
        before = mapped.tensors()["up.weight_codes"]
        kept = before.clone()
        zeros = Net()
        for parameter in zeros.parameters():
            parameter.zero_()
        other = bake(zeros, tmp_path / "zeros", order=[], metadata={})
        quantize_baked(other, quantized.path, SCHEMES, NearestRounding())

        assert torch.equal(before, kept)


_MEASURED = """
import resource, sys
from pathlib import Path
import torch
from pilotlight_loader import BakedCheckpoint
from pilotlight_loader.quantize.convert import quantize_baked
from pilotlight_loader.quantize.matrix import INT4, INT8
from pilotlight_loader.quantize.nearest import NearestRounding
torch.set_num_threads(1)
baked = BakedCheckpoint.open(Path(sys.argv[1]))
NearestRounding().matrix("w", torch.ones(64, 128).bfloat16(), INT4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
schemes = {name: INT8 for name in baked.tensors}
quantize_baked(baked, Path(sys.argv[2]), schemes, NearestRounding())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_quantizing_holds_one_weight_at_a_time(bake_module, tmp_path) -> None:
    layer_bytes = 2048 * 4096 * 2
    layers = [nn.Linear(4096, 2048, bias=False, dtype=torch.bfloat16) for _ in range(12)]
    baked = bake_module(nn.Sequential(*layers))
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(baked.path), str(tmp_path / "q")],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
    )

    assert int(done.stdout) < 4 * layer_bytes + (32 << 20)  # of 12; the writer has a chunk
