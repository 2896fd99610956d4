"""A Hugging Face checkpoint, wherever it is: found, checked, pinned; no weights are read.

Files go by their names relative to the checkpoint, on disk and elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from types import TracebackType

from pilotlight_loader.baked import baked_tensors
from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.cached_store import CachedStore
from pilotlight_loader.errors import (
    AccessDeniedError,
    CheckpointError,
    ObjectMissingError,
    SourceReadError,
)
from pilotlight_loader.header import Header, TensorInfo
from pilotlight_loader.manifest import is_baked
from pilotlight_loader.sources.location import parse_location
from pilotlight_loader.sources.retry import RetryPolicy, retried
from pilotlight_loader.sources.small_read import open_retried
from pilotlight_loader.sources.source import ByteSource, Store
from pilotlight_loader.sources.stores import SourceOptions, open_store
from pilotlight_loader.weight_files import WeightFile, open_weight_files

# Configuration, tokenizer and chat template: what else decides how the model answers.
SIDE_FILE_SUFFIXES = frozenset({".json", ".jinja", ".model", ".txt"})
# Asked for one by one where nothing lists the files: a web server, a bucket without that right.
KNOWN_SIDE_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "quant_config.json",
    "quantize_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_READ_BYTES = 4 * 1024 * 1024

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Checkpoint:
    """A checked checkpoint, each weight file pinned to one version. Thread-safe; owns its store.

    One that bake() has written is known by its header: its ties, and that its order is that of
    execution. `tensors` never names its pads.
    """

    def __init__(self, store: Store, files: Sequence[WeightFile], *, is_one_file: bool) -> None:
        self.location = store.location
        self.headers: Mapping[str, Header] = {file.name: file.header for file in files}
        self.tensors: Mapping[str, TensorInfo] = {
            name: tensor for file in files for name, tensor in file.header.tensors.items()
        }
        self.ties: Mapping[str, str] = {}  # alias -> the name under which the tensor is stored
        self.in_execution_order = False
        if len(files) == 1 and is_baked(files[0].header.metadata):
            self.tensors, manifest = baked_tensors(files[0].header, self.location)
            self.ties, self.in_execution_order = manifest.ties, True
        self._files = {name: file.name for file in files for name in file.header.tensors}
        self._store = store
        self._lock = threading.Lock()
        self._sources = {file.name: file.source for file in files}
        self._side_files: tuple[str, ...] | None = () if is_one_file else None
        self._is_closed = False

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def files(self) -> tuple[str, ...]:
        """The weight files, in the order of their names."""
        return tuple(self.headers)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def side_files(self) -> tuple[str, ...]:
        """What decides about the answers beside the weights; none for a single file.

        Looked up at the first call; from a place that cannot be listed, KNOWN_SIDE_FILES.
        """
        if self._side_files is None:
            names = self._store.names()
            if names is None:
                found = tuple(name for name in KNOWN_SIDE_FILES if self._is_there(name))
            else:
                found = tuple(n for n in names if PurePosixPath(n).suffix in SIDE_FILE_SUFFIXES)
            self._side_files = found
        return self._side_files

    def file_of(self, tensor: str) -> str:
        """The weight file that holds *tensor*. Raises KeyError."""
        return self._files[tensor]

    def source(self, file: str) -> ByteSource:
        """Where a weight or side file is read from: one and the same for all, closed by close().

        A side file is pinned at the first call. Raises SourceReadErrors; ValueError once closed.
        """
        with self._lock:
            if self._is_closed:
                raise ValueError(f"{self.location}: the checkpoint is closed")
            source = self._sources.get(file)
        if source is not None:
            return source
        opened = open_retried(self._store, file)  # takes its time: not under the lock
        with self._lock:
            closed = self._is_closed
            source = opened if closed else self._sources.setdefault(file, opened)
        if closed or source is not opened:
            opened.close()
        if closed:
            raise ValueError(f"{self.location}: the checkpoint is closed")
        return source

    def digest(self, progress: Progress | None = None) -> str:
        """SHA-256 (hex) over names, sizes and contents of the weights, config and tokenizer.

        Reads every byte. Raises CheckpointError where that fails or a file was changed.
        """
        digest = hashlib.sha256()
        try:
            names = sorted((*self.headers, *self.side_files), key=PurePosixPath)
            total = sum(self.source(name).version.nbytes for name in names)
            done = 0
            for name in names:
                # Names and sizes keep bytes from moving between files unnoticed.
                digest.update(f"{name}\0{self.source(name).version.nbytes}\0".encode())
                for block in _blocks(self.source(name)):
                    digest.update(block)
                    done += len(block)
                    if progress is not None:
                        progress(done, total)
        except SourceReadError as error:
            raise CheckpointError(error.location, f"cannot be read: {error.reason}") from error
        return digest.hexdigest()

    def close(self) -> None:
        """Close sources and store; readers must be closed before. Idempotent."""
        with self._lock:
            self._is_closed = True
            sources = list(self._sources.values())
            self._sources.clear()
        for source in sources:
            source.close()
        self._store.close()

    def _is_there(self, name: str) -> bool:
        try:
            self.source(name)
        except (ObjectMissingError, AccessDeniedError):
            # S3 says 403 of a missing key to who may not list the bucket.
            return False
        return True


def open_checkpoint(
    location: str | Path, options: SourceOptions | None = None, *, cache: Cache | None = None
) -> Checkpoint:
    """Check a directory with model.safetensors or shards, or one .safetensors file.

    *location* is a path, or an s3://, http(s):// or hf:// URL; *options* are those of its kind.
    What *cache* has of the present version is read from there; to fill it is load's part.
    Symlinks are followed: the Hugging Face cache is made of them. Raises a CheckpointError of the
    kind that names the cause, or a SourceReadError where the place does not give its bytes.
    """
    where = parse_location(location)
    store = open_store(where, options)
    return open_stored(store if cache is None else CachedStore(store, cache), where.file_name)


def open_stored(store: Store, file_name: str | None = None) -> Checkpoint:
    """The checkpoint in *store*, or its one file *file_name*. The checkpoint owns the store."""
    with contextlib.ExitStack() as failed:
        failed.callback(store.close)
        files = open_weight_files(store, file_name)
        failed.pop_all()
    return Checkpoint(store, files, is_one_file=file_name is not None)


def _blocks(source: ByteSource) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(_READ_BYTES, source.version.nbytes)))
    with contextlib.closing(source.reader()) as reader:
        for start in range(0, source.version.nbytes, _READ_BYTES):
            block = buffer[: source.version.nbytes - start]
            retried(partial(reader.read_into, start, block), RetryPolicy())
            yield block
