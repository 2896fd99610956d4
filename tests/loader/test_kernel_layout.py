"""Packed weights multiply like plain ones, and their memory lives as long as they do."""

from __future__ import annotations

import gc
import platform
import threading
import weakref

import pytest
import torch
from torch.nn.functional import linear as plain_linear

from pilotlight_loader import kernel_layout
from pilotlight_loader.kernel_layout import layout_of, linear, pack, parameter, view

needs_kernel = pytest.mark.skipif(
    kernel_layout.kernel_id() is None, reason="this CPU or torch packs nothing"
)
NOT_ONEDNN = 4096  # multiplications, up to which F.linear takes another way
SHAPES = [(64, 64), (128, 96), (65, 33), (97, 130), (1, 7), (384, 1000), (1000, 384)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def matrix(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).bfloat16()


def raw_bytes(weight: torch.Tensor) -> torch.Tensor:
    """The packed bytes in memory of their own, as a mapping has them."""
    packed = torch.frombuffer(pack(weight), dtype=torch.uint8)
    room = torch.empty(len(packed) + 64, dtype=torch.uint8)
    start = -room.data_ptr() % 64
    return room[start : start + len(packed)].copy_(packed)


def repacked(weight: torch.Tensor) -> torch.Tensor:
    return view(raw_bytes(weight), layout_of(tuple(weight.shape)))


@pytest.mark.skipif(
    platform.machine() != "x86_64"
    or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    or [int(part) for part in torch.__version__.split(".")[:2]] < [2, 13],
    reason="no bf16 kernels on this CPU, or a torch with which plain weights have other bits",
)
def test_kernel_id_is_known_where_the_cpu_multiplies_bf16():
    """Else every test below would be skipped, and nobody would notice."""
    assert kernel_layout.kernel_id() is not None


@needs_kernel
def test_kernel_id_is_fit_for_a_file_name():
    name = kernel_layout.kernel_id()

    assert name.replace("-", "").isalnum()
    assert len(name) < 64


def test_kernel_id_is_none_where_a_part_of_torch_is_missing(monkeypatch):
    def missing():
        raise AttributeError("_reorder_linear_weight")

    monkeypatch.setattr(kernel_layout, "_onednn", missing)

    assert kernel_layout.kernel_id.__wrapped__() is None


@needs_kernel
def test_kernel_id_is_none_where_a_product_has_other_bits(monkeypatch):
    monkeypatch.setattr(kernel_layout, "linear", lambda x, *rest: linear(x, *rest) * 1.01)

    assert kernel_layout.kernel_id.__wrapped__() is None


@needs_kernel
@pytest.mark.parametrize("threads", [1, 16])
def test_layout_does_not_depend_on_the_threads(threads):
    """oneDNN itself would take another one: 128 rows are few for 16 threads."""
    shape = (128, 1024)
    made, after = [], []

    def make():
        torch.set_num_threads(threads)
        made.append(layout_of.__wrapped__(shape))
        after.append(torch.get_num_threads())

    thread = threading.Thread(target=make)  # the number is the thread's own
    thread.start()
    thread.join()

    torch.set_num_threads(1)
    assert made == [layout_of(shape)]
    assert after == [threads]


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_has_the_bits_of_f_linear(shape, has_bias):
    weight, bias = matrix(*shape), matrix(shape[0]) if has_bias else None
    packed = repacked(weight)

    for rows in (1, 2, 7, 16, 33, 128):
        x = matrix(rows, shape[1])
        product, expected = linear(x, packed, bias), plain_linear(x, weight, bias)
        if rows * weight.numel() > NOT_ONEDNN:
            assert torch.equal(product, expected), rows
        else:
            torch.testing.assert_close(product, expected)


@needs_kernel
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    "x",
    [
        lambda: matrix(96),
        lambda: matrix(2, 5, 96),
        lambda: matrix(2, 3, 4, 96),
        lambda: matrix(0, 96),
        lambda: matrix(2, 0, 96),
        lambda: matrix(96, 7).t(),
        lambda: matrix(5, 2, 96).transpose(0, 1),
        lambda: matrix(2, 9, 96)[:, -1:, :],
        lambda: matrix(2, 9, 192)[..., ::2],
        lambda: matrix(1, 96).expand(5, 96),
        lambda: matrix(1000)[3 : 3 + 288].view(3, 96),
    ],
    ids=[
        *("vector", "3-d", "4-d", "no rows", "no tokens"),
        *("transposed", "swapped", "last token", "every second", "expanded", "misaligned"),
    ],
)
def test_linear_takes_any_input(x, has_bias):
    weight, bias = matrix(128, 96), matrix(128) if has_bias else None
    x = x()
    expected = plain_linear(x.contiguous(), weight, bias)
    product = linear(x, repacked(weight), bias)

    assert product.shape == expected.shape
    assert torch.equal(product, expected)


@needs_kernel
def test_linear_takes_a_strided_bias():
    weight, bias, x = matrix(64, 64), matrix(64, 2)[:, 0], matrix(3, 64)

    assert torch.equal(linear(x, repacked(weight), bias), plain_linear(x, weight, bias))


@needs_kernel
@pytest.mark.parametrize("x", [torch.ones(2, 64), torch.ones(2, 32).bfloat16()], ids=str)
def test_linear_refuses_another_dtype_or_width(x):
    with pytest.raises(RuntimeError):
        linear(x, repacked(matrix(64, 64)), None)


@needs_kernel
def test_arithmetic_refuses_a_packed_weight():
    """A model that reads the weight itself must fail, not get the bytes in another order."""
    packed = repacked(matrix(64, 64))

    for use in (
        lambda: matrix(2, 64) @ packed.t(),
        lambda: plain_linear(matrix(2, 64), packed),
        lambda: packed[:8],
        lambda: packed.float(),
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            use()


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pack_gives_the_bytes_that_the_layout_describes(shape):
    weight = matrix(*shape)

    assert len(pack(weight)) == layout_of(shape).nbytes
    assert bytes(pack(weight)) == bytes(pack(weight.t().contiguous().t()))


@needs_kernel
@pytest.mark.parametrize(
    "weight", [torch.ones(8, 8), torch.ones(8).bfloat16(), torch.ones(0, 8).bfloat16()], ids=str
)
def test_pack_refuses_what_is_no_bf16_matrix(weight):
    with pytest.raises(ValueError, match="no bfloat16 matrix"):
        pack(weight)


@needs_kernel
def test_view_is_the_memory_it_is_given():
    weight, x = matrix(64, 64), matrix(3, 64)
    raw = raw_bytes(weight)
    packed = view(raw, layout_of((64, 64)))
    assert (packed.dtype, packed.shape) == (weight.dtype, weight.shape)

    raw.zero_()

    assert linear(x, packed, None).count_nonzero() == 0


@needs_kernel
@pytest.mark.parametrize(
    "spoil",
    [lambda r: r[:-1], lambda r: r.view(torch.int8), lambda r: r.view(64, -1)],
    ids=["short", "dtype", "dimensions"],
)
def test_view_refuses_what_the_layout_does_not_describe(spoil):
    raw = raw_bytes(matrix(64, 64))

    with pytest.raises(ValueError, match="does not describe"):
        view(spoil(raw), layout_of((64, 64)))


@needs_kernel
def test_view_refuses_bytes_that_are_not_aligned():
    raw = torch.zeros(layout_of((64, 64)).nbytes + 65, dtype=torch.uint8)
    start = -raw.data_ptr() % 64 + 1

    with pytest.raises(ValueError, match="must stand on"):
        view(raw[start:-64] if start == 1 else raw[start : start + 8192], layout_of((64, 64)))


@needs_kernel
@pytest.mark.parametrize("wrap", [lambda t: t, parameter, lambda t: parameter(parameter(t))])
def test_view_keeps_its_memory_alive(wrap):
    raw = raw_bytes(matrix(64, 64))
    memory = weakref.ref(raw)
    packed = wrap(view(raw, layout_of((64, 64))))
    del raw
    gc.collect()
    assert memory() is not None

    del packed

    assert memory() is None


@needs_kernel
def test_parameter_is_one_of_the_weight():
    made = parameter(repacked(matrix(64, 96)))

    assert isinstance(made, torch.nn.Parameter)
    assert not made.requires_grad
    assert kernel_layout.is_packed(made)


@needs_kernel
def test_zeros_is_a_weight_of_zeros():
    x = matrix(3, 96)

    assert torch.equal(
        linear(x, kernel_layout.zeros(layout_of((64, 96))), None), torch.zeros(3, 64).bfloat16()
    )
