from __future__ import annotations

import struct
from math import prod
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from pilotlight_loader import (
    AttachMismatchError,
    AttachPlan,
    MappedCheckpoint,
    StandInCheckpoint,
    bake,
    read_header,
)
from pilotlight_loader.dtypes import (
    DTYPE_BITS,
    dtype_bits,
    dtype_name,
    stored_shape,
    torch_dtype,
    torch_shape,
)
from pilotlight_loader.errors import UnsupportedDtypeError

WHERE = Path("model.safetensors")
NAMES = [
    "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64",
    "C64", "F4", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0",
]  # fmt: skip
WITHOUT_TORCH = ["F6_E2M3", "F6_E3M2"]
SHAPES = [(), (1,), (0,), (3, 0), (0, 2, 5), (7,), (2, 3), (2, 1, 3, 1)]  # as torch has them


def tensor_of(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Bytes that differ from each other, seen as *dtype*."""
    count = prod(shape) * dtype.itemsize
    data = torch.arange(1, count + 1, dtype=torch.int64).to(torch.uint8)
    if dtype == torch.bool:
        data %= 2  # other bytes are no booleans
    return data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def bytes_of(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist()


def views_of(path: Path) -> dict[str, torch.Tensor]:
    with MappedCheckpoint(path, read_header(path).tensors, path.stat().st_size) as mapped:
        return mapped.tensors()


@pytest.fixture
def packed(tmp_path):
    """A module with a float4 buffer of 3 x 8 elements, baked."""
    module = nn.Module()
    module.register_buffer("w", tensor_of(torch.float4_e2m1fn_x2, (3, 4)))
    return bake(module, tmp_path / "packed.safetensors", order=[], metadata={})


def test_dtypes_are_those_of_the_format():
    assert DTYPE_BITS.keys() == {*NAMES, *WITHOUT_TORCH}


@pytest.mark.parametrize("name", NAMES)
def test_dtype_round_trips(name):
    assert dtype_name(torch_dtype(name, "w", WHERE), "w", WHERE) == name


@pytest.mark.parametrize("name", sorted({*NAMES} - {"F4"}))
def test_dtype_bits_are_those_of_torch(name):
    assert dtype_bits(name, "w", WHERE) == 8 * torch_dtype(name, "w", WHERE).itemsize


def test_dtype_agrees_with_safetensors():
    for name, dtype in safetensors.torch._TYPES.items():
        assert torch_dtype(name, "w", WHERE) == dtype


def test_dtype_float8_variants_are_never_aliased():
    float8 = {torch_dtype(name, "w", WHERE) for name in NAMES if name.startswith("F8")}

    assert len(float8) == 5


@pytest.mark.parametrize("name", NAMES)
def test_dtype_reads_what_safetensors_saves(tmp_path, name):
    path = tmp_path / "saved.safetensors"
    dtype = torch_dtype(name, "w", WHERE)
    # Half a byte has no place in the format: float4 without dimensions cannot be saved.
    shapes = [shape for shape in SHAPES if shape or name != "F4"]
    saved = {str(shape): tensor_of(dtype, shape) for shape in shapes}
    safetensors.torch.save_file(saved, path)
    views = views_of(path)

    assert views.keys() == saved.keys()
    for key, tensor in saved.items():
        assert views[key].dtype == tensor.dtype
        assert views[key].shape == tensor.shape
        assert bytes_of(views[key]) == bytes_of(tensor)


@pytest.mark.parametrize("name", NAMES)
def test_dtype_reads_what_safetensors_reads(tmp_path, name):
    path = tmp_path / "saved.safetensors"
    dtype = torch_dtype(name, "w", WHERE)
    safetensors.torch.save_file(
        {"w": tensor_of(dtype, (2, 6)), "e": tensor_of(dtype, (0, 2))}, path
    )
    views = views_of(path)

    with safetensors.safe_open(path, "pt") as file:
        for key in ("w", "e"):
            theirs = file.get_tensor(key)
            assert views[key].dtype == theirs.dtype
            assert views[key].shape == theirs.shape
            assert bytes_of(views[key]) == bytes_of(theirs)


def test_dtype_reads_a_tensor_that_an_odd_one_put_out_of_line(tmp_path):
    path = tmp_path / "odd.safetensors"
    text = (
        b'{"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},'
        b'"b":{"dtype":"F64","shape":[2],"data_offsets":[1,17]}}'
    )
    path.write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<?2d", True, 1.5, -2.0))

    assert views_of(path)["b"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_dtype_that_torch_lacks_is_refused_by_name_when_it_is_wanted(tmp_path, name):
    path = tmp_path / "six.safetensors"
    text = (
        f'{{"six":{{"dtype":"{name}","shape":[2,4],"data_offsets":[0,6]}},'
        '"w":{"dtype":"U8","shape":[1],"data_offsets":[6,7]}}'
    ).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(6) + b"\7")
    infos = dict(read_header(path).tensors)

    with pytest.raises(UnsupportedDtypeError, match=f"'six' is {name}: torch .* no 6-bit floats"):
        views_of(path)
    del infos["six"]
    with MappedCheckpoint(path, infos, path.stat().st_size) as mapped:
        assert mapped.tensors()["w"].tolist() == [7]


def test_dtype_that_safetensors_cannot_store_is_refused():
    with pytest.raises(UnsupportedDtypeError, match=r"'w' is torch\.complex128"):
        dtype_name(torch.complex128, "w", WHERE)


@pytest.mark.parametrize("function", [dtype_bits, torch_dtype])
def test_dtype_that_nobody_knows_is_refused(function):
    with pytest.raises(UnsupportedDtypeError, match="'w' has the unknown dtype 'F7'"):
        function("F7", "w", WHERE)


def test_dtype_float4_halves_the_last_dimension():
    assert torch_shape("F4", (3, 8), "w", WHERE) == (3, 4)
    assert stored_shape(torch.float4_e2m1fn_x2, (3, 4), "w", WHERE) == (3, 8)


def test_dtype_float4_of_an_odd_last_dimension_is_refused():
    with pytest.raises(UnsupportedDtypeError, match=r"'w' is F4\[2, 3\]: .*3 is odd"):
        torch_shape("F4", (2, 3), "w", WHERE)


def test_dtype_float4_without_dimensions_is_refused(tmp_path):
    module = nn.Module()
    module.register_buffer("w", tensor_of(torch.float4_e2m1fn_x2, ()))

    with pytest.raises(UnsupportedDtypeError, match=r"'w' is .* without dimensions"):
        bake(module, tmp_path / "never.safetensors", order=[], metadata={})
    assert list(tmp_path.iterdir()) == []


def test_dtype_other_shapes_are_the_same_in_torch():
    assert torch_shape("F8_E4M3", (3, 7), "w", WHERE) == (3, 7)
    assert stored_shape(torch.float8_e4m3fn, (3, 7), "w", WHERE) == (3, 7)


def test_dtype_float4_is_baked_and_mapped(packed):
    with packed.map() as mapped:
        view = mapped.tensors()["w"]

    assert packed.tensors["w"].shape == (3, 8)
    assert view.shape == (3, 4)
    assert bytes_of(view) == list(range(1, 13))


def test_dtype_float4_has_a_stand_in(packed):
    assert StandInCheckpoint(packed).tensors()["w"].shape == (3, 4)


def test_dtype_float4_is_attached(packed):
    module = nn.Module()
    module.register_buffer("w", torch.empty((3, 4), dtype=torch.float4_e2m1fn_x2, device="meta"))
    with packed.map() as mapped:
        AttachPlan.compile(module, packed).attach(mapped)

    assert bytes_of(module.w) == list(range(1, 13))


def test_dtype_float4_of_another_shape_is_not_attached(packed):
    module = nn.Module()
    module.register_buffer("w", torch.empty((3, 8), dtype=torch.float4_e2m1fn_x2, device="meta"))

    with pytest.raises(AttachMismatchError, match=r"w is \[3, 4\], the module wants \[3, 8\]"):
        AttachPlan.compile(module, packed)
