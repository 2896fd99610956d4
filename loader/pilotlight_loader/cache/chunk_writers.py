"""The threads that write a fill's bytes to its .part file and sum up its chunks."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from pilotlight_loader.cache.ranges import ByteRange
from pilotlight_loader.cache.tree_digest import chunk_span
from pilotlight_loader.layout import CHUNK_BYTES

_READ_BYTES = 4 * 1024 * 1024


class LentBuffer:
    """A caller's buffer; given back when the last piece of it is on its way to the disk."""

    def __init__(self, data: memoryview, start: int, pieces: int, give_back: Callable[[], None]):
        self.data = data
        self.start = start  # where in the object it begins
        self._left = pieces
        self._lock = threading.Lock()
        self._give_back = give_back

    def piece_done(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self.data.release()  # the owner may want to resize or close what it views
            self._give_back()


@dataclass(frozen=True, slots=True)
class Piece:
    """What of a buffer belongs to one chunk and was not there yet."""

    buffer: LentBuffer
    chunk: int
    range: ByteRange

    @property
    def data(self) -> memoryview:
        begin = self.range.start - self.buffer.start
        return self.buffer.data[begin : begin + self.range.nbytes]


class ChunkWriters:
    """*threads* threads; each chunk is always the same one's, so its sum needs no lock.

    Pieces of a chunk that come in order are summed up as they pass; what came too early is read
    back from the page cache when the chunk is full. Pieces must not overlap.
    """

    def __init__(
        self,
        descriptor: int,
        nbytes: int,
        *,
        threads: int,
        on_chunk: Callable[[int, bytes], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._descriptor = descriptor
        self._nbytes = nbytes
        self._on_chunk = on_chunk
        self._on_error = on_error
        self._failed = threading.Event()
        # Not bounded themselves: the fill lets in no more bytes than its limit.
        self._queues: list[SimpleQueue[Piece | None]] = [SimpleQueue() for _ in range(threads)]
        # Daemons, as a write to a dead network disk cannot be interrupted: join() is bounded.
        self._threads = [
            threading.Thread(target=self._run, args=(queue,), name="cache-write", daemon=True)
            for queue in self._queues
        ]
        for thread in self._threads:
            thread.start()

    def put(self, piece: Piece) -> None:
        """Never blocks. Not after join()."""
        self._queues[piece.chunk % len(self._queues)].put(piece)

    def fail(self) -> None:
        """Write nothing more; what was put is given back."""
        self._failed.set()

    def join(self, timeout_s: float) -> bool:
        """Finish what was put; False if a thread still hangs in the kernel. Call it once."""
        for queue in self._queues:
            queue.put(None)
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, queue: SimpleQueue[Piece | None]) -> None:
        sums: dict[int, _ChunkSum] = {}
        while (piece := queue.get()) is not None:
            try:
                try:
                    if not self._failed.is_set():
                        self._take(piece, sums)
                finally:
                    piece.buffer.piece_done()
            except Exception as error:  # also what a caller's release() raises: the thread goes on
                self._failed.set()
                self._on_error(error)

    def _take(self, piece: Piece, sums: dict[int, _ChunkSum]) -> None:
        write_all(self._descriptor, piece.data, piece.range.start)
        chunk = sums.get(piece.chunk)
        if chunk is None:
            chunk = sums[piece.chunk] = _ChunkSum(*chunk_span(piece.chunk, self._nbytes))
        chunk.add(piece)
        if chunk.is_full:
            del sums[piece.chunk]
            self._on_chunk(piece.chunk, chunk.finish(self._descriptor))


class _ChunkSum:
    """The running SHA-256 of one chunk."""

    def __init__(self, start: int, end: int) -> None:
        self._end = end
        self._summed_to = start
        self._missing = end - start
        self._sum = hashlib.sha256()

    @property
    def is_full(self) -> bool:
        return self._missing == 0

    def add(self, piece: Piece) -> None:
        self._missing -= piece.range.nbytes
        if piece.range.start == self._summed_to:
            self._sum.update(piece.data)
            self._summed_to = piece.range.end

    def finish(self, descriptor: int) -> bytes:
        block = memoryview(bytearray(min(_READ_BYTES, self._end - self._summed_to)))
        while self._summed_to < self._end:
            into = block[: self._end - self._summed_to]
            read_all(descriptor, into, self._summed_to)
            self._sum.update(into)
            self._summed_to += len(into)
        return self._sum.digest()


def split(fresh: list[ByteRange]) -> list[tuple[int, ByteRange]]:
    """Cut ranges on the chunk grid: chunk index and range."""
    pieces = []
    for part in fresh:
        at = part.start
        while at < part.end:
            index = at // CHUNK_BYTES
            end = min(part.end, (index + 1) * CHUNK_BYTES)
            pieces.append((index, ByteRange(at, end)))
            at = end
    return pieces


def write_all(descriptor: int, data: memoryview, start: int) -> None:
    """Raises OSError."""
    while data:  # one write may take a part only, as before a disk is full
        count = os.pwrite(descriptor, data, start)
        data = data[count:]
        start += count


def read_all(descriptor: int, into: memoryview, start: int) -> None:
    """Raises OSError, also where the file is shorter."""
    while into:
        count = os.preadv(descriptor, [into], start)
        if count == 0:
            raise OSError(f"it ends at byte {start}")
        into = into[count:]
        start += count
