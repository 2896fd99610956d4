"""The CUDA layout against torch's own packing, thread by thread, and how the kernel is checked."""

import logging

import pytest
import torch

from pilotlight_loader.quantize import tile_layout
from pilotlight_loader.quantize.cuda_products import dequantized

CPU = torch.device("cpu")
GROUPS = [32, 64, 128, 256]


def some_codes(rows=16, columns=256):
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(0, 16, (rows, columns), generator=generator, dtype=torch.uint8)


def torch_packs(pairs: torch.Tensor, inner_tiles: int) -> torch.Tensor:
    """aten::_convert_weight_to_int4pack on CUDA: matrix_to_m16n8k16_Bint4_layout in int4mm.cu."""
    rows, width = pairs.shape
    chunks = width * 2 // (inner_tiles * 16)
    packed = torch.zeros(rows // 8, chunks, 32, inner_tiles // 2, dtype=torch.int64)
    for tile, chunk, thread, inner in (
        (tile, chunk, thread, inner)
        for tile in range(rows // 8)
        for chunk in range(chunks)
        for thread in range(32)
        for inner in range(0, inner_tiles, 2)
    ):
        row = pairs[tile * 8 + thread // 4]
        base = (chunk * inner_tiles + inner) * 16 // 2 + thread % 4
        v = [int(row[base + step]) for step in (0, 4, 8, 12)]
        word = (v[3] & 0xF) << 28 | (v[2] & 0xF) << 24 | (v[1] & 0xF) << 20 | (v[0] & 0xF) << 16
        word |= (v[3] & 0xF0) << 8 | (v[2] & 0xF0) << 4 | (v[1] & 0xF0) | (v[0] & 0xF0) >> 4
        packed[tile, chunk, thread, inner // 2] = word
    return packed.to(torch.int32)


def torch_multiplies(x, tiles, group, pairs):
    """aten::_weight_int4pack_mm, by dequantizing."""
    packed = tiles.contiguous().view(torch.uint8).view(len(tiles) * 8, -1)
    return x @ dequantized(packed, pairs, tile_layout.BLOCK, x.dtype).t()


@pytest.fixture
def kernels(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(tile_layout, "_CONVERT", torch_packs)
    monkeypatch.setattr(tile_layout, "_KERNEL", torch_multiplies)
    return monkeypatch


@pytest.mark.parametrize("group", GROUPS)
def test_tile_layout_is_that_of_torchs_own_packing(group) -> None:
    codes = some_codes()
    packed = tile_layout.pack(codes, group)
    theirs = torch_packs(codes[:, ::2] << 4 | codes[:, 1::2], min(8, group // 16))

    assert torch.equal(packed.view(torch.int32).view(theirs.shape), theirs)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", [(8, 256), (64, 512)])
def test_tile_layout_is_undone(shape, group) -> None:
    codes = some_codes(*shape)

    assert torch.equal(tile_layout.unpack(tile_layout.pack(codes, group), group), codes)


@pytest.mark.parametrize("group", GROUPS)
def test_tile_kernel_that_is_as_documented_is_taken(kernels, group) -> None:
    tile_layout.check_kernel(CPU, (64, 256), group)


def test_tile_kernel_that_packs_otherwise_is_refused(kernels) -> None:
    kernels.setattr(tile_layout, "_CONVERT", lambda *given: torch_packs(*given).roll(1))

    with pytest.raises(NotImplementedError, match="packs 4-bit weights in another way"):
        tile_layout.check_kernel(CPU, (64, 256), 128)


@pytest.mark.parametrize("spoil", [lambda y: y * 1.05, lambda y: y.roll(1, 1), lambda y: y * 0])
def test_tile_kernel_that_computes_something_else_is_refused(kernels, spoil) -> None:
    kernels.setattr(tile_layout, "_KERNEL", lambda *given: spoil(torch_multiplies(*given)))

    with pytest.raises(NotImplementedError, match="the 4-bit kernel is off by"):
        tile_layout.check_kernel(CPU, (64, 256), 128)


def test_tile_kernel_is_not_asked_of_a_cpu(caplog) -> None:
    tile_layout._has_kernel.cache_clear()
    caplog.set_level(logging.WARNING)

    assert not tile_layout.has_kernel(CPU, (64, 256), 128)
    assert "int4_cuda_kernel_unsupported" in caplog.text


def test_tile_kernel_is_tried_once_on_part_of_the_rows(monkeypatch) -> None:
    tried = []
    monkeypatch.setattr(tile_layout, "check_kernel", lambda *asked: tried.append(asked))
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    gpu = torch.device("cuda:7")  # of which no other test asks
    has = [tile_layout.has_kernel(gpu, (rows, 256), 128) for rows in (64, 4096, 8192, 4104)]

    assert has == [True] * 4
    assert tried == [(gpu, (rows, 256), 128) for rows in (64, 1024, 904)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("group", GROUPS)
def test_tile_kernel_of_this_gpu_is_as_documented(group) -> None:
    tile_layout.check_kernel(torch.device("cuda:0"), (128, 512), group)
