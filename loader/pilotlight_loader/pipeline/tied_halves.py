"""What a module ties and a file has twice: are both halves the same?

Where they differ, transformers gives up the tie; here the module is the caller's, and a load that
dropped one half unseen would answer otherwise than its checkpoint. Nothing but the bytes tells: a
checksum of one tensor is in no safetensors file, and in no answer of a store.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from pilotlight_loader.errors import AttachMismatchError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.sources.retry import RetryPolicy, retried
from pilotlight_loader.sources.source import ByteSource, Reader

# Both halves of a block, in each thread: 64 MiB in all, over sixteen connections.
BLOCK_BYTES = 4 * 1024 * 1024
THREADS = 8


@dataclass(frozen=True, slots=True)
class Half:
    """One of the two, by the module's name, and where its bytes are."""

    name: str
    info: TensorInfo
    source: ByteSource


def check_tied_halves(location: str, pairs: Sequence[tuple[Half, Half]]) -> None:
    """Read and compare all of both; ends at the first block of each pair that differs.

    Raises AttachMismatchError, which names both, where they differ; SourceReadError.
    """
    comparisons = [_Comparison(kept, other) for kept, other in pairs]
    spans = sum(-(-comparison.nbytes // BLOCK_BYTES) for comparison in comparisons)
    if not spans:
        return
    with ThreadPoolExecutor(min(THREADS, spans), "pilotlight-ties") as pool:
        for comparison in comparisons:
            workers = [pool.submit(comparison.run) for _ in range(min(THREADS, spans))]
            for worker in workers:
                worker.result()
    differing = sorted(
        (comparison.kept.name, comparison.other.name)
        for comparison in comparisons
        if comparison.differs.is_set()
    )
    if differing:
        raise AttachMismatchError(
            location,
            [
                f"{other} and {kept} are tied in the module and differ in the checkpoint: build it "
                "untied (tie_word_embeddings=False), or leave one out by rename"
                for kept, other in differing
            ],
        )


class _Comparison:
    """Of one pair, by several threads."""

    def __init__(self, kept: Half, other: Half) -> None:
        self.kept = kept
        self.other = other
        self.nbytes = kept.info.nbytes
        self.differs = threading.Event()
        self._failed = threading.Event()
        # next() of a range is atomic
        self._blocks: Iterator[int] = iter(range(0, self.nbytes, BLOCK_BYTES))

    def run(self) -> None:
        """Block after block until there is none. Raises SourceReadError."""
        try:
            self._run()
        except BaseException:
            self._failed.set()
            raise

    def _run(self) -> None:
        kept, other = self.kept, self.other
        size = min(BLOCK_BYTES, self.nbytes)
        one, two = memoryview(bytearray(size)), memoryview(bytearray(size))
        with closing(kept.source.reader()) as left, closing(other.source.reader()) as right:
            for offset in self._blocks:
                if self.differs.is_set() or self._failed.is_set():
                    return
                nbytes = min(BLOCK_BYTES, self.nbytes - offset)
                _read(left, kept.info.start + offset, one[:nbytes])
                _read(right, other.info.start + offset, two[:nbytes])
                if bytes(one[:nbytes]) != bytes(two[:nbytes]):  # memcmp, unlike two views
                    self.differs.set()


def _read(reader: Reader, start: int, into: memoryview) -> None:
    retried(lambda: reader.read_into(start, into), RetryPolicy())
