"""How many threads run a kernel."""

import pytest
import torch

from pilotlight_loader.kernels import compiler
from pilotlight_loader.kernels.assembly import Function
from pilotlight_loader.kernels.compiler import Compiler, run


@pytest.fixture(scope="module")
def threads():
    """A kernel that adds to its word how many threads each of them sees."""
    pytest.importorskip("llvmlite")
    made = Compiler()
    body = Function("threads_body", made.target)
    count = body.let("call i32 @omp_get_num_threads()")
    body.let(f"atomicrmw add ptr {body.word(0, 'ptr')}, i32 {count} monotonic")
    entry = Function("threads", made.target)
    entry.run_by_threads(body)
    (kernel,) = made.compile([[body, entry]])

    def seen(work):
        total = torch.zeros(1, dtype=torch.int32)
        run(kernel, total.data_ptr(), work=work)
        return int(total)

    seen.owner = made
    return seen


def test_kernel_with_little_to_do_runs_by_one_thread(threads, monkeypatch) -> None:
    monkeypatch.setattr(compiler, "_ALONE_BELOW", 1000)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)

        assert (threads(999), threads(1000)) == (1, 9)
    finally:
        torch.set_num_threads(before)
