from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from pilotlight_loader.dtypes import dtype_bits, dtype_name, torch_dtype
from pilotlight_loader.errors import UnsupportedDtypeError

WHERE = Path("model.safetensors")
NAMES = [
    "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64",
    "C64", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_dtype_round_trips(name):
    assert dtype_name(torch_dtype(name, "w", WHERE), "w", WHERE) == name


@pytest.mark.parametrize("name", NAMES)
def test_dtype_bits_are_those_of_torch(name):
    assert dtype_bits(name, "w", WHERE) == 8 * torch_dtype(name, "w", WHERE).itemsize


def test_dtype_agrees_with_safetensors():
    for name, dtype in safetensors.torch._TYPES.items():
        assert torch_dtype(name, "w", WHERE) == dtype


def test_dtype_float8_variants_are_never_aliased():
    float8 = {torch_dtype(name, "w", WHERE) for name in NAMES if name.startswith("F8")}

    assert len(float8) == 5


def test_dtype_that_safetensors_cannot_store_is_refused():
    with pytest.raises(UnsupportedDtypeError, match=r"'w' is torch\.complex128"):
        dtype_name(torch.complex128, "w", WHERE)
