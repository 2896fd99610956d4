"""One NVIDIA GPU. The only file that knows torch.cuda."""

from __future__ import annotations

import contextlib
import mmap
import weakref

import torch

from pilotlight_loader.devices.device import DeviceMemory
from pilotlight_loader.devices.host_memory import HostMemory, anonymous
from pilotlight_loader.errors import DeviceError

# One call for 512 GiB or more fails on drivers from r580 on (vllm #51081).
REGISTER_BYTES = 64 * 1024**3


class CudaEvent:
    """The end of one copy on the copy stream."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        self._device = device
        # Blocking: a thread that waits sleeps, it does not spin.
        self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._event.record(stream)

    def done(self) -> bool:
        try:
            return bool(self._event.query())  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise DeviceError(f"{self._device}: a copy failed: {error}") from error

    def wait(self) -> None:
        try:
            self._event.synchronize()
        except RuntimeError as error:
            raise DeviceError(f"{self._device}: a copy failed: {error}") from error

    def gate(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._event)


class CudaMemory:
    """A large tensor of torch's caching allocator. Views share its storage and keep it."""

    def __init__(self, memory: torch.Tensor) -> None:
        self._memory = memory

    @property
    def nbytes(self) -> int:
        return self._memory.numel()

    def view(self, start: int, nbytes: int) -> torch.Tensor:
        return self._memory[start : start + nbytes]

    def host(self, start: int, nbytes: int) -> memoryview | None:
        return None


class CudaDevice:
    """Copies on a stream of its own; a context is made on this GPU only."""

    def __init__(self, index: int | None = None) -> None:
        """GPU *index* of those visible; None: torch's current one. Raises DeviceError."""
        count = torch.cuda.device_count()
        if not 0 <= (index or 0) < count:
            raise DeviceError(f"there is no GPU {index or 0}: torch sees {count}")
        self._device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        # Every call that takes no device works on the current one, and makes a context there.
        with torch.cuda.device(self._device):
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @property
    def torch_device(self) -> torch.device:
        return self._device

    def allocate(self, nbytes: int) -> DeviceMemory:
        try:
            memory = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{self._device}: no {nbytes} bytes: {error}") from error
        # The caller's stream may still use what stood here before: copies come after it. And
        # when the last tensor dies, the block waits for the copies before it is given out again.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        memory.record_stream(self._stream)
        return CudaMemory(memory)

    def staging(self, nbytes: int) -> torch.Tensor:
        # Pages of our own, touched by their registration, instead of torch's pinned memory, which
        # rounds up to a power of two; registering is also 5 times faster than cudaHostAlloc.
        buffer = anonymous(nbytes)
        tensor = HostMemory(buffer, nbytes).view(0, nbytes)
        self._register(buffer, tensor.data_ptr(), nbytes)
        return tensor

    def copy(self, source: torch.Tensor, target: DeviceMemory, start: int) -> CudaEvent:
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                target.view(start, source.numel()).copy_(source, non_blocking=True)
                return CudaEvent(self._device, self._stream)
        except RuntimeError as error:
            raise DeviceError(f"{self._device}: a copy was refused: {error}") from error

    def close(self) -> None:
        """Wait for the copies; pinned memory is given back with its last tensor."""
        self._stream.synchronize()

    def _register(self, buffer: mmap.mmap, address: int, nbytes: int) -> None:
        cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        with torch.cuda.device(self._device):
            for start in range(0, nbytes, REGISTER_BYTES):
                size = min(REGISTER_BYTES, nbytes - start)
                code = int(cudart.cudaHostRegister(address + start, size, 0))
                if code != 0:
                    self._clear_error()
                    raise DeviceError(
                        f"{self._device}: {size} bytes of host memory cannot be pinned (CUDA error "
                        f"{code}): raise `ulimit -l`, or stage less"
                    )
                # Runs before the buffer is unmapped, which it does not keep alive.
                undo = weakref.finalize(buffer, cudart.cudaHostUnregister, address + start)
                undo.atexit = False  # the end of the process does it, after CUDA has gone

    def _clear_error(self) -> None:
        """CUDA reports an error once more, at the next kernel: let that be ours."""
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=self._device)
