"""Each product by every operator that could compute it: how long, and how far from the weights."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_load.bench import SHAPES, Bench
from gpu_load.cases import leased
from torch.nn import functional

from gpu_quant.checkpoint import layers_by_matrix, random_codes, some_scales
from pilotlight_loader import load
from pilotlight_loader.quantize import cuda_products, tile_layout
from pilotlight_loader.quantize.matrix import FP8_MAX
from pilotlight_loader.quantize.stored import StoredMatrix
from pilotlight_loader.sparse import semi_structured

ROWS = (1, 16, 32, 64, 128, 512)
REPEATS = 20
# Copies of a weight take turns until so many bytes are read: more than an H100's L2 cache holds.
TURN_BYTES = 200_000_000

Product = Callable[[torch.Tensor], torch.Tensor]


def logits_error(bench: Bench) -> float:
    """Of the kernels' logits against those of dequantized weights, ÷ the largest."""
    module = bench.module()
    with leased(bench) as checkpoint:
        load(checkpoint, module, bench.device)
    few_rows = cuda_products.INT4_KERNEL_ROWS, cuda_products.BYTE_KERNEL_ROWS
    with torch.inference_mode():
        actual = module(bench.prompt, use_cache=False).logits[0, -1].float()
        try:
            cuda_products.INT4_KERNEL_ROWS = cuda_products.BYTE_KERNEL_ROWS = 0
            expected = module(bench.prompt, use_cache=False).logits[0, -1].float()
        finally:
            cuda_products.INT4_KERNEL_ROWS, cuda_products.BYTE_KERNEL_ROWS = few_rows
    return float((actual - expected).abs().max() / expected.abs().max())


def products(bench: Bench) -> list[dict[str, Any]]:
    """Of each shape of weight that the model has."""
    found: list[dict[str, Any]] = []
    for stored in layers_by_matrix(bench.module()):
        found += _compared(stored, bench.torch_device)
    return found


def _compared(stored: StoredMatrix, device: torch.device) -> Iterator[dict[str, Any]]:
    kind, shape = stored.scheme.kind, stored.shape
    generator = torch.Generator(device).manual_seed(1)
    nbytes = stored.codes_shape[0] * stored.codes_shape[1]
    count = max(2, TURN_BYTES // nbytes + 1) if device.type == "cuda" else 1
    codes = [random_codes(stored, generator) for _ in range(count)]
    scales = some_scales(stored).to(device)
    dense = _dense(stored, codes[0], scales)
    for rows in ROWS:
        x = torch.randn(rows, shape[1], generator=generator, device=device).bfloat16()
        expected = x.float() @ dense.t()
        ways: dict[str, list[Product]] = {
            name: [_bound(way, stored, each, scales) for each in codes]
            for name, way in WAYS[kind].items()
        }
        ways["bf16"] = [_bound_dense(dense.bfloat16())]
        for name, turns in ways.items():
            case = {"case": "product", "kind": kind, "shape": list(shape), "rows": rows}
            yield case | {"by": name} | _measured(turns, x, expected)


def _measured(turns: list[Product], x: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    """*turns* are the same product with copies of its weight; the first one is compared."""
    try:
        actual = turns[0](x).float()
        error = float((actual - expected).norm() / expected.norm())
        for turn in turns:
            turn(x)
        _wait(x)
        start_s = time.perf_counter()
        for at in range(REPEATS):
            turns[at % len(turns)](x)
        _wait(x)
        return {"us": (time.perf_counter() - start_s) / REPEATS * 1e6, "error": error}
    except Exception as refused:  # private operators, each with its own conditions
        return {"refused": f"{type(refused).__name__}: {refused}".splitlines()[0]}


def _wait(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _dense(stored: StoredMatrix, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The weight in float32."""
    if stored.scheme.kind == "int4":
        return cuda_products.dequantized(codes, scales, stored.block, torch.float32)
    return codes.float() * scales.float()[:, None]


def _bound(
    way: Callable[..., torch.Tensor], stored: StoredMatrix, codes: torch.Tensor, scales: Any
) -> Product:
    return lambda x: way(stored, x, codes, scales)


def _bound_dense(weight: torch.Tensor) -> Product:
    return lambda x: functional.linear(x, weight)


def _int4_served(stored: StoredMatrix, x: Any, codes: Any, pairs: Any) -> torch.Tensor:
    return cuda_products.int4_linear(x, codes, pairs, stored.block)


def _int4_kernel(_stored: StoredMatrix, x: Any, codes: Any, pairs: Any) -> torch.Tensor:
    return tile_layout.linear(x, codes, pairs)


def _int4_dequantized(stored: StoredMatrix, x: Any, codes: Any, pairs: Any) -> torch.Tensor:
    weight = cuda_products.dequantized(codes, pairs, stored.block, x.dtype)
    return functional.linear(x, weight)


def _byte_served(_stored: StoredMatrix, x: Any, codes: Any, scales: Any) -> torch.Tensor:
    return cuda_products.byte_linear(x, codes, scales)


def _byte_dequantized(_stored: StoredMatrix, x: Any, codes: Any, scales: Any) -> torch.Tensor:
    return functional.linear(x, codes.to(x.dtype)) * scales


def _int8_pack(_stored: StoredMatrix, x: Any, codes: Any, scales: Any) -> torch.Tensor:
    return torch.ops.aten._weight_int8pack_mm(x, codes, scales)


def _scaled_mm(_stored: StoredMatrix, x: Any, codes: Any, scales: Any) -> torch.Tensor:
    """With inputs in e4m3, by their rows' largest; its error is mostly theirs."""
    largest = x.abs().amax(-1, keepdim=True).float() / FP8_MAX
    rounded = (x / largest).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return torch._scaled_mm(
        rounded,
        codes.t(),
        scale_a=largest,
        scale_b=scales.float()[None],
        out_dtype=torch.bfloat16,
    )


WAYS: dict[str, dict[str, Callable[..., torch.Tensor]]] = {
    "int4": {"served": _int4_served, "kernel": _int4_kernel, "dequantized": _int4_dequantized},
    "int8": {
        "served": _byte_served,
        "dequantized": _byte_dequantized,
        "_weight_int8pack_mm": _int8_pack,
    },
    "fp8": {"served": _byte_served, "dequantized": _byte_dequantized, "_scaled_mm": _scaled_mm},
}


def sparse_products(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """A 2:4 sparse weight as the layers would multiply with it, beside the dense one."""
    device = torch.device("cuda:0" if asked.device == "cuda" else "cpu")
    width = SHAPES[asked.shape][0]
    shape = (4 * width, width)
    generator = torch.Generator(device).manual_seed(2)
    weight = torch.randn(shape, generator=generator, device=device).mul_(0.02).bfloat16()
    weight.view(shape[0], -1, 4)[..., 2:] = 0
    used = semi_structured.compressed(weight) if device.type == "cuda" else weight
    by = "dense" if used is weight else "semi-structured"
    found = []
    for rows in ROWS:
        x = torch.randn(rows, width, generator=generator, device=device).bfloat16()
        expected = x.float() @ weight.float().t()
        for name, each in (("served", used), ("bf16", weight)):
            case = {"case": "product", "kind": "sparse24", "shape": list(shape), "rows": rows}
            measured = _measured([_bound_dense(each)], x, expected)
            found.append(case | {"by": name, "weight": by} | measured)
    return found
