"""LLVM assembly to functions of this process, by llvmlite; their threads are those of torch.

One OpenMP pool in a process: with a second one the threads of both would sleep between products.
"""

from __future__ import annotations

import ctypes
import itertools
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pilotlight_loader.kernels.assembly import Function, Target, module

_NEEDED = ("avx2", "fma", "f16c")  # measured with these only
_OPENMP = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_parallel")

# With less work a thread does all of it: that takes some 10 us, and the others 4 to wake, or 8 ms
# where another process computes on their cores. torch's own operators are as frugal.
_ALONE_BELOW = 1 << 17
WIDTHS = 16  # what K is a multiple of: the most lanes of a register
Kernel = Any  # a ctypes function that takes the address of its words


class Compiler:
    """Compiles for the CPU it runs on.

    Making it raises ImportError without llvmlite, NotImplementedError for a CPU whose kernels were
    not measured, AttributeError or OSError for a torch without OpenMP.
    """

    def __init__(self) -> None:
        # A tenth of a second and optional: only where a quantized weight is multiplied.
        import llvmlite.binding as llvm  # noqa: PLC0415

        self._llvm = llvm
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        missing = [name for name in _NEEDED if not features.get(name)]
        if missing:
            raise NotImplementedError(f"the CPU has no {', '.join(missing)}")
        wide = bool(features.get("avx512f") and features.get("avx512bw"))
        self.target = Target(16 if wide else 8, wide and bool(features.get("avx512bf16")))
        # dlsym looks into what the library is linked with: this is torch's own OpenMP.
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        self._openmp = {name: _address(library, name) for name in _OPENMP}
        self._machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
        )
        self._compiler = llvm.create_lljit_compiler(self._machine)
        self._libraries: list[object] = []  # the code is theirs
        self._numbers = itertools.count()  # each needs a name of its own

    def compile(self, kernels: Sequence[Sequence[Function]]) -> list[Kernel]:
        """The last function of each.

        Raises RuntimeError for what LLVM refuses, or code that calls what is not there.
        """
        names = [kernel[-1].name for kernel in kernels]
        linked = self._link([function for kernel in kernels for function in kernel], names)
        self._libraries.append(linked)
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # gives up the interpreter's lock
        return [prototype(linked[name]) for name in names]

    def _link(self, functions: Sequence[Function], names: Sequence[str]) -> Any:
        llvm = self._llvm
        parsed = llvm.parse_assembly(module(functions))
        parsed.verify()
        parsed.triple = self._machine.triple
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        builder = llvm.create_pass_builder(self._machine, options)
        builder.getModulePassManager().run(parsed, builder)
        library = llvm.JITLibraryBuilder()
        library.add_object_img(self._machine.emit_object(parsed))
        for name, address in self._openmp.items():
            library.import_symbol(name, address)
        for name in names:
            library.export_symbol(name)
        return library.link(self._compiler, f"pilotlight_{next(self._numbers)}")


def run(kernel: Kernel, *words: int, work: int) -> None:
    """Call it with addresses and sizes; *work*: multiplications, or numbers that it makes."""
    torch.get_num_threads()  # the first in a thread tells that thread's OpenMP how many it may have
    added = (0, work < _ALONE_BELOW)
    memory = array("q", added + words)  # 0.6 us, where an array of ctypes takes 1.7
    kernel(memory.buffer_info()[0])


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address
