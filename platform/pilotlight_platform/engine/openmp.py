"""One OpenMP pool in a process: that of the compute thread.

libgomp counts the threads of all pools. With more of them than cores a thread that waits for the
next parallel region spins 100 times, not 300,000, and then sleeps; waking it again costs more than
most regions of a small model take. Measured (0.63 GB bf16 Llama, 16 tokens, two cores): a prefill
took 50 ms, and 80 ms once a second thread had computed anything large enough to be shared out.
"""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

import torch

logger = logging.getLogger(__name__)


def compute_alone() -> None:
    """Let the calling thread compute without a pool, whatever the others do.

    torch.set_num_threads(1) would also change MKL's number, which is that of all threads.
    """
    torch.get_num_threads()  # the first call in a thread sets its number: not afterwards
    # dlsym looks into what the library is linked with: this is torch's own OpenMP.
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    for function in ("omp_set_num_threads", "MKL_Set_Num_Threads_Local"):
        try:
            getattr(library, function)(1)
        except AttributeError:  # a torch built without it
            logger.info("openmp_function_missing name=%s", function)
