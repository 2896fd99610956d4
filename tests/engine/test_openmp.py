"""Only the compute thread has an OpenMP pool. In a process of its own: pools outlive tests."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
import torch
from pilotlight_loader import kernel_layout
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.engine.openmp import compute_alone

def threads():
    return len(os.listdir("/proc/self/task"))

def multiply():
    kernel_layout.kernel_id()
    square = torch.ones(512, 512)
    for dtype in (torch.float32, torch.bfloat16):
        torch.nn.functional.linear(square.to(dtype), square.to(dtype))
    square.add(1).sum()
    torch.zeros(10_000_000).fill_(1)
    return threading.get_ident()

with Engine(3):
    before = threads()
    with ThreadPoolExecutor(1, initializer={initializer}) as other:
        other.submit(multiply).result()
        print(threads() - before)
"""


def added_threads(initializer: str) -> int:
    """Threads in the process once another thread than the engine's has computed."""
    program = _PROGRAM.replace("{initializer}", initializer)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    return int(done.stdout)


def test_compute_alone_keeps_a_thread_from_making_a_pool():
    assert added_threads("compute_alone") == 1  # the thread itself


def test_other_threads_would_make_pools_of_their_own():
    assert added_threads("None") > 1
