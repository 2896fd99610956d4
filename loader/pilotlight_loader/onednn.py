"""The private parts of torch that pack weights as oneDNN's bf16 kernel wants them. Nowhere else.

kernel_layout.py tries them once before it believes them.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# For how many rows oneDNN chooses the layout. Measured with 16: faster than plain for 1 to 256.
_ROWS = 16
# It also looks at the number of threads, where N is small. Any choice is right and works with any
# number (no difference measured for 1, 8 and 32 on two cores), if writer and reader make the same.
_PLANNED_THREADS = 1
_CPU = 0  # aoti_torch_device_type_cpu(), which every libtorch numbers so
_Pair = ctypes.c_int64 * 2


class OneDnn:
    """The private parts of torch. Making it raises AttributeError or OSError where one is missing.

    The operators are those that torch's inductor freezes weights with. That packed bytes can be
    seen as a tensor without a copy is from the C interface that its compiled models use.
    """

    def __init__(self) -> None:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise NotImplementedError("oneDNN has no bf16 kernels for this CPU")
        operators = torch.ops.mkldnn
        self._reorder = operators._reorder_linear_weight.default
        self.product: Any = operators._linear_pointwise.default
        self.nbytes: Any = operators._nbytes.default
        self.address: Any = operators.data_ptr.default
        self._serialized_descriptor = operators._get_mkldnn_serialized_md.default
        # The one for a single tensor does not steal, whatever its name: it would never be freed.
        self._adopt = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        for name in ("aoti_torch_dtype_bfloat16", "aoti_torch_layout__mkldnn"):
            getattr(library, name).restype = ctypes.c_int32
        self._bfloat16 = library.aoti_torch_dtype_bfloat16()
        self._mkldnn = library.aoti_torch_layout__mkldnn()
        self._from_blob = library.aoti_torch_create_tensor_from_blob_v2
        sizes = ctypes.POINTER(ctypes.c_int64)
        self._from_blob.restype = ctypes.c_int32
        self._from_blob.argtypes = (
            *(ctypes.c_void_p, ctypes.c_int64, sizes, sizes, ctypes.c_int64),
            *(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32),  # dtype, device type and index
            *(ctypes.POINTER(ctypes.c_void_p), ctypes.c_int32),  # result, layout
            *(ctypes.c_char_p, ctypes.c_int64),  # descriptor
        )
        self._capsule = ctypes.PyDLL(None).PyCapsule_New  # pythonapi's would be everybody's
        self._capsule.restype = ctypes.py_object
        self._capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        # dlsym looks into what the library is linked with: this is torch's own OpenMP.
        self._max_threads = library.omp_get_max_threads
        self._set_threads = library.omp_set_num_threads

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        with self._planned_threads():
            packed: torch.Tensor = self._reorder(weight.detach().contiguous(), _ROWS)
        if not packed.is_mkldnn:
            raise NotImplementedError(f"oneDNN does not pack {list(weight.shape)}")
        return packed

    def descriptor(self, packed: torch.Tensor) -> bytes:
        return bytes(self._serialized_descriptor(packed).tolist())

    def tensor(self, address: int, shape: tuple[int, int], descriptor: bytes) -> torch.Tensor:
        """A weight of *shape* on packed bytes, which it does not own. *descriptor* is copied."""
        handle = ctypes.c_void_p()
        sizes, strides = _Pair(*shape), _Pair(shape[1], 1)
        code = self._from_blob(
            *(address, 2, sizes, strides, 0, self._bfloat16, _CPU, 0),
            *(ctypes.byref(handle), self._mkldnn, descriptor, len(descriptor)),
        )
        if code != 0 or not handle.value:
            raise RuntimeError(f"torch made no tensor of packed bytes (code {code})")
        tensor: torch.Tensor
        (tensor,) = self._adopt([self._capsule(handle.value, None, None)])
        return tensor

    @contextlib.contextmanager
    def _planned_threads(self) -> Iterator[None]:
        """The layout of a fixed number of threads. Only for the calling thread.

        torch.set_num_threads would also change MKL's, which is that of all threads.
        """
        torch.get_num_threads()  # the first call of a thread sets the number: not in between
        before = self._max_threads()
        self._set_threads(_PLANNED_THREADS)
        try:
            yield
        finally:
            self._set_threads(before)
