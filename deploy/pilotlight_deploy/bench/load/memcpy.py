"""The floor of host memory: a plain copy in several threads, into memory that was touched."""

from __future__ import annotations

import ctypes
import threading
import time

import torch


def memcpy_seconds(source: torch.Tensor, target: torch.Tensor, threads: int) -> float:
    """Seconds to copy *source*, flat uint8, to *target*: one span of it per thread."""
    nbytes = source.numel()
    span = -(-nbytes // threads)

    def work(start: int) -> None:
        # ctypes lets go of the GIL around the call.
        count = min(span, nbytes - start)
        ctypes.memmove(target.data_ptr() + start, source.data_ptr() + start, count)

    workers = [threading.Thread(target=work, args=(at,)) for at in range(0, nbytes, span)]
    began_s = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began_s
