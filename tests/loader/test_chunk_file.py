from __future__ import annotations

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_loader.chunk_file import ChunkFile

relaxed = settings(deadline=None, max_examples=20)  # each example holds a chunk
CHUNK = 16 * 1024 * 1024


class Recorder(io.RawIOBase):
    """A raw file that takes at most *limit* bytes at once, and remembers where writes began."""

    def __init__(self, limit: int = 2**62) -> None:
        self.limit = limit
        self.content = bytearray()
        self.at = 0
        self.starts: list[int] = []

    def write(self, data) -> int:
        self.starts.append(self.at)
        piece = bytes(data[: self.limit])
        self.content[self.at : self.at + len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def seek(self, at: int, whence: int = 0) -> int:
        self.at = at
        return at


def test_chunk_file_writes_on_chunk_boundaries():
    raw = Recorder()
    chunks = ChunkFile(raw)
    for size in (4096, CHUNK, 5, CHUNK - 7):
        chunks.write(memoryview(bytes(size)))
    chunks.flush()

    assert raw.starts == [0, CHUNK, 2 * CHUNK]


@relaxed
@given(st.lists(st.binary(max_size=50), max_size=10), st.integers(1, 20))
def test_chunk_file_keeps_every_byte_through_short_writes(pieces, limit):
    raw = Recorder(limit)
    chunks = ChunkFile(raw)
    for piece in pieces:
        chunks.write(memoryview(piece))
    chunks.flush()

    assert bytes(raw.content) == b"".join(pieces)


def test_chunk_file_rewrites_its_first_bytes():
    raw = Recorder()
    chunks = ChunkFile(raw)
    chunks.write(memoryview(b"blank, then data"))
    chunks.flush()
    chunks.rewrite(memoryview(b"known"))

    assert bytes(raw.content) == b"known, then data"
