"""Compilers for this CPU, and as for ones with other registers that round step by step."""

import pytest

from pilotlight_loader.kernels import compiler
from pilotlight_loader.kernels.assembly import Target
from pilotlight_loader.kernels.compiler import Compiler

NARROW = Target(lanes=8, rounds_to_bfloat=False)
WIDE = Target(lanes=16, rounds_to_bfloat=False)  # of two registers, where the CPU has no such one


@pytest.fixture(autouse=True)
def by_threads(monkeypatch):
    """However little there is to do."""
    monkeypatch.setattr(compiler, "_ALONE_BELOW", 0)


@pytest.fixture(scope="session")
def compilers():
    pytest.importorskip("llvmlite")
    ours, narrow, wide = Compiler(), Compiler(), Compiler()
    narrow.target, wide.target = NARROW, WIDE
    return {"ours": ours, "narrow": narrow, "wide": wide}
