"""Small checkpoints of each published quantization format, with what its own package makes of them.

``PYTHONPATH=<where PACKAGE is unpacked> python scripts/golden_formats.py PACKAGE DIRECTORY``

The packages pull in much that the tests do not need, so their answers are kept in
tests/loader/quantize/formats/golden, one file per case: the tensors of a layer as the package
stores them, ``expected`` as it dequantizes them, and the config in the metadata. Made with
auto-gptq 0.7.1, autoawq 0.2.9, bitsandbytes 0.50.2, compressed-tensors 0.20.0, and 0.12.2 for its
act-order. Seeded: the same package gives the same file.
"""
# ruff: noqa: PLC0415  # each package is imported only where it is asked for

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

ROWS, COLUMNS = 64, 256
LAYER = "model.layers.0.mlp.up_proj"

Case = tuple[str, dict[str, Any], dict[str, torch.Tensor], torch.Tensor]


def weight() -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS) * 0.02


def limits(
    values: torch.Tensor, group: int, bits: int, *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scales, unsigned zero points), [N, groups], of round-to-nearest."""
    grouped = values.view(len(values), -1, group)
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    if symmetric:
        scales = torch.maximum(-low, high) * 2 / (2**bits - 1)
        return scales.half().float(), torch.full_like(scales, 2 ** (bits - 1))
    scales = ((high - low) / (2**bits - 1)).half().float()
    return scales, (-low / scales).round().clamp(1, 2**bits - 1)


def from_file(package: str, path: str) -> ModuleType:
    """One module of *package*, without what its __init__ imports."""
    root = next(Path(entry) / package for entry in sys.path if (Path(entry) / package).is_dir())
    spec = importlib.util.spec_from_file_location(Path(path).stem, root / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def auto_gptq() -> Iterator[Case]:
    in_order = from_file("auto_gptq", "nn_modules/qlinear/qlinear_cuda_old.py").QuantLinear
    by_index = from_file("auto_gptq", "nn_modules/qlinear/qlinear_cuda.py").QuantLinear
    for bits, group, symmetric, act_order in (
        (4, 128, True, False),
        (4, 32, False, False),
        (4, -1, False, False),
        (8, 128, False, False),
        (4, 128, False, True),
    ):
        linear = nn.Linear(COLUMNS, ROWS, bias=False)
        linear.weight.data = weight()
        size = COLUMNS if group == -1 else group
        order = torch.randperm(COLUMNS) if act_order else torch.arange(COLUMNS)
        groups = torch.empty(COLUMNS, dtype=torch.int32)
        groups[order] = (torch.arange(COLUMNS) // size).int()
        scales, zeros = limits(linear.weight.data[:, order], size, bits, symmetric=symmetric)
        layer = (by_index if act_order else in_order)(bits, group, COLUMNS, ROWS, bias=False)
        linear.half()
        layer.pack(linear, scales.half(), zeros, groups)
        layer.g_idx = groups
        tensors = {key: getattr(layer, key) for key in ("qweight", "qzeros", "scales", "g_idx")}
        config = {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": group,
            "sym": symmetric,
            "desc_act": act_order,
        }
        name = f"gptq-{bits}-{'act' if act_order else group if group > 0 else 'row'}"
        yield name, config, tensors, layer(torch.eye(COLUMNS).half()).t()
    # 15 is stored for a zero point of 0: AutoGPTQ's comment says where it must be masked.
    layer = in_order(4, 128, COLUMNS, ROWS, bias=False)
    layer.qweight.random_(-(2**31), 2**31)
    layer.qzeros.random_(-(2**31), 2**31)
    layer.scales.uniform_(0.001, 0.01)
    tensors = {key: getattr(layer, key) for key in ("qweight", "qzeros", "scales", "g_idx")}
    config = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
    yield "gptq-4-any-zero", config, tensors, layer(torch.eye(COLUMNS).half()).t()


def awq() -> Iterator[Case]:
    package = from_file("awq", "utils/packing_utils.py")
    for group in (64, -1):
        size = COLUMNS if group == -1 else group
        tensors = {
            "qweight": torch.randint(-(2**31), 2**31, (COLUMNS, ROWS // 8)).int(),
            "qzeros": torch.randint(-(2**31), 2**31, (COLUMNS // size, ROWS // 8)).int(),
            "scales": torch.empty(COLUMNS // size, ROWS).uniform_(0.001, 0.01).half(),
        }
        config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
        config["zero_point"] = True
        expected = package.dequantize_gemm(
            tensors["qweight"], tensors["qzeros"], tensors["scales"], 4, size
        )
        yield f"awq-4-{group if group > 0 else 'row'}", config, tensors, expected.t()


def bitsandbytes() -> Iterator[Case]:
    import bitsandbytes.functional as package

    for kind, nested, shape in (
        ("nf4", True, (ROWS, COLUMNS)),
        ("nf4", False, (ROWS, COLUMNS)),
        ("fp4", True, (7, 100)),  # blocks across rows, and a short one at the end
    ):
        values = (torch.randn(shape) * 0.02).bfloat16()
        codes, state = package.quantize_4bit(
            values, blocksize=64, quant_type=kind, compress_statistics=nested
        )
        parts = {f"weight.{key}": part for key, part in state.as_dict(packed=True).items()}
        config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}
        config |= {"bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}
        expected = package.dequantize_4bit(codes, state)
        yield (
            f"bnb-{kind}{'-nested' if nested else ''}",
            config,
            {"weight": codes} | parts,
            expected,
        )
    codes, row_maxima, _ = package.int8_vectorwise_quant(weight().half())
    config = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}
    tensors = {"weight": codes, "SCB": row_maxima, "weight_format": torch.tensor(0).byte()}
    expected = package.int8_vectorwise_dequant(codes, row_maxima)
    yield "bnb-int8", config, tensors, expected


def compressed_tensors() -> Iterator[Case]:
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    integer = {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 64}
    floating = {"type": "float", "num_bits": 8, "symmetric": True}
    blocks = {"strategy": "block", "block_structure": [16, 128]}
    for name, kind, args in (
        ("int4-group", "pack", integer | {"symmetric": True}),
        ("int4-group-zeros", "pack", integer | {"symmetric": False}),
        ("int8-row-zeros", "pack", {"num_bits": 8, "strategy": "channel", "symmetric": False}),
        ("int8-row", "int", {"num_bits": 8, "strategy": "channel", "symmetric": True}),
        ("int8-tensor-zeros", "int", {"num_bits": 8, "strategy": "tensor", "symmetric": False}),
        ("fp8-row", "float", floating | {"strategy": "channel"}),
        ("fp8-tensor", "float", floating | {"strategy": "tensor"}),
        ("fp8-block", "float", floating | blocks),
    ):
        values = weight().bfloat16()
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
        compressor = BaseCompressor.get_value_from_registry(f"{kind}-quantized")
        state = {"weight": values, **_parameters(values, args)}
        stored = compressor.compress(state, scheme)
        yield (
            f"ct-{name}",
            _config(f"{kind}-quantized", args),
            stored,
            compressor.decompress(stored, scheme)["weight"],
        )


def compressed_tensors_act_order() -> Iterator[Case]:
    from compressed_tensors.compressors.quantized_compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs

    args = {"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": True}
    args["actorder"] = "group"
    values = weight().bfloat16()
    order = torch.randperm(COLUMNS)
    groups = torch.empty(COLUMNS, dtype=torch.int32)
    groups[order] = (torch.arange(COLUMNS) // 64).int()
    scales = limits(values[:, order].float(), 64, 4, symmetric=True)[0].bfloat16()
    compressor = PackedQuantizationCompressor()
    checked = QuantizationArgs(**args)
    stored = compressor.compress_weight(values, scales, checked, g_idx=groups)
    stored |= {"weight_scale": scales, "weight_g_idx": groups}
    yield (
        "ct-int4-act",
        _config("pack-quantized", args),
        stored,
        compressor.decompress_weight(stored, checked),
    )


def _parameters(values: torch.Tensor, args: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Scale and zero point in the shapes of the strategy."""
    strategy = args["strategy"]
    if args.get("type") == "float":
        if strategy == "block":
            rows, columns = args["block_structure"]
            grid = values.float().view(ROWS // rows, rows, COLUMNS // columns, columns)
            scales = grid.abs().amax((1, 3)) / 448
        else:
            scales = values.float().abs().amax(1, keepdim=True) / 448
            scales = scales.amax(0) if strategy == "tensor" else scales
        return {"weight_scale": scales.float() if strategy == "block" else scales.bfloat16()}
    bits, group = args["num_bits"], args.get("group_size", COLUMNS)
    flat = values.float().view(1, -1) if strategy == "tensor" else values.float()
    group = flat.shape[1] if strategy == "tensor" else group
    scales, zeros = limits(flat, group, bits, symmetric=args["symmetric"])
    zeros = (zeros - 2 ** (bits - 1)).to(torch.int8)
    if strategy == "tensor":
        scales, zeros = scales.view(1), zeros.view(1)
    return {"weight_scale": scales.bfloat16(), "weight_zero_point": zeros}


def _config(stored_as: str, args: dict[str, Any]) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": stored_as,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args}},
        "ignore": ["lm_head"],
    }


PACKAGES: dict[str, Callable[[], Iterator[Case]]] = {
    "auto-gptq": auto_gptq,
    "autoawq": awq,
    "bitsandbytes": bitsandbytes,
    "compressed-tensors": compressed_tensors,
    "compressed-tensors-0.12": compressed_tensors_act_order,
}


def main(package: str, directory: Path) -> None:
    torch.manual_seed(0)
    directory.mkdir(parents=True, exist_ok=True)
    for name, config, tensors, expected in PACKAGES[package]():
        stored = {f"{LAYER}.{key}": part.contiguous() for key, part in tensors.items()}
        stored["expected"] = expected.contiguous()
        path = directory / f"{name}.safetensors"
        save_file(stored, path, {"config": json.dumps(config), "package": package})
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
