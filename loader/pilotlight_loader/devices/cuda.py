"""One NVIDIA GPU. The only file that knows torch.cuda."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from functools import partial

import torch

from pilotlight_loader.arena.pieces import Piece, cut, pieces
from pilotlight_loader.devices.device import DeviceMemory
from pilotlight_loader.devices.host_memory import HostMemory, PinnedMap, anonymous_as
from pilotlight_loader.errors import DeviceError

MEASURED_BYTES = 1024**3  # one copy: 20 ms and more on every link, beside 10 µs to begin it
MEASURED_COPIES = 4


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
        self._registered: tuple[Piece, ...] = ()

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
        buffer = anonymous_as(PinnedMap, nbytes)
        tensor = HostMemory(buffer, nbytes).view(0, nbytes)
        pinned = self._pinned(pieces(tensor.data_ptr(), nbytes))
        buffer.unpin = partial(_unpin_all, self._device, pinned)
        return tensor

    def register(self, pieces: Sequence[Piece]) -> None:
        """One device of a process registers them: CUDA refuses what is registered already."""
        self._registered += self._pinned(pieces)

    def copy(self, source: torch.Tensor, target: DeviceMemory, start: int) -> CudaEvent:
        # cudaMemcpyAsync is asynchronous for what CUDA knows as pinned, whoever pinned it: torch
        # passes the address on. One copy across two registrations is refused as invalid.
        spans = cut(source.data_ptr(), source.numel(), self._registered)
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                for begin, end in spans:
                    part = target.view(start + begin, end - begin)
                    part.copy_(source[begin:end], non_blocking=True)
                return CudaEvent(self._device, self._stream)
        except RuntimeError as error:
            raise DeviceError(f"{self._device}: a copy was refused: {error}") from error

    def close(self) -> None:
        """Wait for the copies; staging memory is given back with its last tensor."""
        registered, self._registered = self._registered, ()
        try:
            self._stream.synchronize()
        finally:
            _unpin_all(self._device, registered)

    def _pinned(self, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        """Pin all of *pieces*, or none and raise DeviceError."""
        cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        with contextlib.ExitStack() as undo, torch.cuda.device(self._device):
            for piece in pieces:
                code = cudart.cudaHostRegister(piece.address, piece.nbytes, 0)
                if code != cudart.cudaError.success:  # as torch.cuda.check_error has it
                    self._clear_error()
                    raise DeviceError(
                        f"{self._device}: {piece.nbytes} bytes of host memory cannot be pinned "
                        f"(CUDA error {code}): raise `ulimit -l`, stage less, or have one device "
                        "of this process register them"
                    )
                undo.callback(_unpin, self._device, piece)
            undo.pop_all()
        return tuple(pieces)

    def _clear_error(self) -> None:
        """CUDA reports an error once more, at the next kernel: let that be ours."""
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=self._device)


def _unpin(device: torch.device, piece: Piece) -> None:
    """A code that is not 0 says that it was not pinned: nothing is left to do."""
    with torch.cuda.device(device):
        torch.cuda.cudart().cudaHostUnregister(piece.address)  # type: ignore[no-untyped-call]


def _unpin_all(device: torch.device, pieces: Sequence[Piece]) -> None:
    for piece in pieces:
        _unpin(device, piece)


def measure_h2d_bytes_per_s(index: int | None = None) -> float:
    """What the link to GPU *index* gives: pinned copies of 1 GiB, after one that warms up.

    Raises DeviceError where there is no GPU, or not so much memory.
    """
    device = CudaDevice(index)
    try:
        slab, memory = device.staging(MEASURED_BYTES), device.allocate(MEASURED_BYTES)
        device.copy(slab, memory, 0).wait()
        start_s = time.perf_counter()
        for _ in range(MEASURED_COPIES):
            last = device.copy(slab, memory, 0)
        last.wait()
        return MEASURED_COPIES * MEASURED_BYTES / (time.perf_counter() - start_s)
    finally:
        device.close()
