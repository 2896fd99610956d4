"""Compilers for this CPU, and for one with narrower registers that rounds step by step."""

import pytest

from pilotlight_loader.kernels import compiler
from pilotlight_loader.kernels.assembly import Target
from pilotlight_loader.kernels.compiler import Compiler

NARROW = Target(lanes=8, rounds_to_bfloat=False)


@pytest.fixture(autouse=True)
def by_threads(monkeypatch):
    """However little there is to do."""
    monkeypatch.setattr(compiler, "_ALONE_BELOW", 0)


@pytest.fixture(scope="session")
def compilers():
    pytest.importorskip("llvmlite")
    ours, narrow = Compiler(), Compiler()
    narrow.target = NARROW
    return {"ours": ours, "narrow": narrow}
