"""Kernels read and write nothing beyond what they are given: a page that nobody may touch follows.

In a process of its own, which such an access would end.
"""

import subprocess
import sys

import pytest

_GUARDED = r"""
import ctypes, mmap, sys
import torch
from pilotlight_loader.kernels import bfloat_attention, bfloat_norm, bfloat_rotary
from pilotlight_loader.kernels import bfloat_product, byte_product, float_product
from pilotlight_loader.kernels import int4_product, int8_product
from pilotlight_loader.kernels import compiler as compiler_module, int4_weight, trellis_weight
from pilotlight_loader.kernels.compiler import Compiler
from pilotlight_loader.quantize import int4_layout, trellis_layout
from pilotlight_loader.quantize.matrix import TrellisMatrix

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PRIVATE, NOTHING, PAGE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0, mmap.PAGESIZE
given = []

def address(nbytes):
    "Of so many bytes, which end where a page begins; before them 0xAB."
    size = -(-nbytes // PAGE) * PAGE
    begin = libc.mmap(None, size + PAGE, mmap.PROT_READ | mmap.PROT_WRITE, PRIVATE, -1, 0)
    libc.mprotect(begin + size, PAGE, NOTHING)
    ctypes.memset(begin, 0xAB, size)
    given.append((begin, size, nbytes))
    return begin + size - nbytes

def check_and_free():
    for begin, size, nbytes in given:
        before = size - nbytes
        assert ctypes.string_at(begin, before) == b"\xab" * before, "written before it"
        libc.munmap(begin, size + PAGE)
    given.clear()

theirs = torch.empty_like, torch.Tensor.new_empty

def empty(*shape, dtype, device=None):
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    memory = (ctypes.c_char * nbytes).from_address(address(nbytes))
    return torch.frombuffer(memory, dtype=dtype).view(shape)

def place(on):
    "What kernels write to, as they ask torch for it."
    torch.empty_like, torch.Tensor.new_empty = placing if on else theirs

def placed(tensor):
    return empty(*tensor.shape, dtype=tensor.dtype).copy_(tensor)

def like(tensor):
    return empty(tensor.numel(), dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())

placing = like, lambda x, *shape: empty(*shape, dtype=x.dtype)

def near(actual, expected):
    assert float((actual.double() - expected).norm()) < 6e-3 * float(expected.norm())

for module in (bfloat_attention, float_product, int4_product, int8_product):
    module.scratch_address = address
compiler = Compiler()
products = {
    "bf16": bfloat_product.BfloatProduct(compiler),
    "int8": byte_product.ByteProduct(compiler, "int8"),
    "fp8": byte_product.ByteProduct(compiler, "fp8"),
    "int8 in 16 bits": int8_product.Int8Product(compiler),
}
int4 = {b: int4_product.Int4Product(compiler, b) for b in int4_layout.BLOCKS}
numbers = {b: int4_weight.Int4Weight(compiler, b) for b in int4_layout.BLOCKS}
trellis = int4_product.TrellisProduct(compiler)
trellis_numbers = trellis_weight.TrellisWeight(compiler)
norm = bfloat_norm.BfloatNorm(compiler)
rotary = bfloat_rotary.BfloatRotary(compiler)
attention = bfloat_attention.BfloatAttention(compiler)
generator = torch.Generator().manual_seed(0)

def some(*shape):
    return torch.randn(*shape, generator=generator).bfloat16()

def rows_case(rows, height, width):
    x, scales = placed(some(rows, width)), placed(some(height))
    plain = placed(some(height, width))
    codes = placed(torch.randint(-127, 128, (height, width), generator=generator).to(torch.int8))
    fp8 = placed(plain.to(torch.float8_e4m3fn).view(torch.int8)).view(torch.float8_e4m3fn)
    weights = {"bf16": plain, "int8": codes, "int8 in 16 bits": codes, "fp8": fp8}
    for name, product in products.items():
        if rows > byte_product.MAX_ROWS and name in ("int8", "fp8"):
            continue
        weight = weights[name]
        place(True)
        found = product.rows(x, weight, scales)
        place(False)
        expected = x.double() @ weight.double().t()
        near(found, expected + scales.double() if name == "bf16" else expected * scales.double())
    converted = empty(height, width, dtype=torch.bfloat16)
    products["fp8"].numbers(fp8, converted)
    near(converted, fp8.double())
    check_and_free()

def int4_case(rows, block, blocks, groups, group):
    height, width = blocks * block, groups * group
    codes = torch.randint(0, 16, (height, width), generator=generator).to(torch.uint8)
    scales, zeros = some(height, groups), some(height, groups)
    dense = (codes.double() - 8).view(height, groups, group) * scales.double()[..., None]
    dense = (dense + zeros.double()[..., None]).view(height, width)
    packed = placed(int4_layout.pack(codes, block))
    pairs, x = placed(int4_layout.pack_scales(scales, zeros)), placed(some(rows, width))
    place(True)
    product = int4[block].rows(x, packed, pairs)
    place(False)
    weight = empty(width, height, dtype=torch.bfloat16)
    numbers[block].dequantize(packed, pairs, 0, weight)
    near(product, x.double() @ dense.t())
    near(weight, dense.t())
    check_and_free()

def trellis_case(rows, blocks, groups, group):
    height, width = blocks * 32, groups * group
    codes = torch.randint(0, 16, (height, width), generator=generator).to(torch.uint8)
    scales = some(height, groups)
    dense = TrellisMatrix(codes, scales).dequantize().double()
    packed, scales = placed(trellis_layout.pack(codes)), placed(scales.t().contiguous())
    x = placed(some(rows, width))
    place(True)
    product = trellis.rows(x, packed, scales)
    place(False)
    near(product, x.double() @ dense.t())
    for first in range(0, height, 32):
        weight = empty(width, height - first, dtype=torch.bfloat16)
        trellis_numbers.dequantize(packed, scales, first, weight)
        near(weight, dense.t()[:, first:])
    check_and_free()

def norm_case(rows, width):
    x, weight = placed(some(rows, width)), placed(some(width))
    place(True)
    normal = norm.rows(x, weight, 0.5)
    place(False)
    wide = x.double()
    near(normal, wide / (wide.square().mean(-1, keepdim=True) + 0.5).sqrt() * weight.double())
    check_and_free()

def rotary_case(rows, tokens, width):
    query = placed(some(rows, tokens, 3, width)).transpose(1, 2)
    key = placed(some(rows, tokens, 1, width)).transpose(1, 2)
    zeros, ones = (placed(torch.full((1, tokens, width), value).bfloat16()) for value in (0.0, 1.0))
    place(True)
    turned = rotary.turn(query, key, ones, zeros)
    place(False)
    near(turned[0], query.double())
    near(turned[1], key.double())
    check_and_free()

def attention_case(rows, sharing, columns, width):
    query = placed(some(rows, 2 * sharing, 1, width))
    key, value = placed(some(rows, 2, columns, width)), placed(some(rows, 2, columns, width + 16))
    place(True)
    output = attention.attend(query, key, value, 0.5)
    place(False)
    wide = [part.double().repeat_interleave(sharing, 1) for part in (key, value)]
    shares = (query.double() @ wide[0].mT * 0.5).softmax(-1)
    near(output, (shares @ wide[1]).transpose(1, 2))
    check_and_free()

check_and_free()
for threads in (1, 2, 9):
    torch.set_num_threads(threads)
    compiler_module._ALONE_BELOW = 0 if threads > 2 else 1 << 17
    for rows in (1, 2, 3, 5, 259):
        for height, width in ((1, 16), (17, 272), (33, 304)):
            rows_case(rows, height, width)
        for block in int4_layout.BLOCKS:
            for shape in ((1, 1, 32), (2, 3, 32), (1, 2, 256)):
                int4_case(rows, block, *shape)
        for shape in ((1, 1, 32), (3, 3, 32), (1, 2, 256)):
            trellis_case(rows, *shape)
    for rows in (1, 3):
        for width in (1, 15, 16, 100):
            norm_case(rows, width)
            rotary_case(rows, 3, 2 * width)
        for sharing in (1, 2, 3):
            for columns in (1, 3, 8, 33):
                attention_case(rows, sharing, columns, 48)
print("done")
"""


def test_kernels_touch_only_what_they_are_given() -> None:
    pytest.importorskip("llvmlite")
    done = subprocess.run(
        [sys.executable, "-c", _GUARDED], capture_output=True, text=True, timeout=120
    )

    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]
