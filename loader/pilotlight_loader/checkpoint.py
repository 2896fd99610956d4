"""Open a Hugging Face checkpoint: safetensors files, found and checked before anything is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pilotlight_loader.errors import (
    CheckpointError,
    MissingShardError,
    UnsafeCheckpointError,
)
from pilotlight_loader.header import MAX_HEADER_BYTES, Header, TensorInfo, read_header
from pilotlight_loader.strict_json import StrictJsonError, parse_object

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SUFFIX = ".safetensors"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
# Configuration, tokenizer and chat template: what else decides how the model answers.
SIDE_FILE_SUFFIXES = frozenset({".json", ".jinja", ".model", ".txt"})
_READ_BYTES = 4 * 1024 * 1024
_CONVERT = (
    "pickle checkpoints are refused; convert it with save_pretrained(), which writes safetensors"
)

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked checkpoint on disk. Offsets in `tensors` are those of the tensor's own file."""

    path: Path
    headers: Mapping[Path, Header]  # by file, in the order of their names
    side_files: tuple[Path, ...] = ()
    tensors: Mapping[str, TensorInfo] = field(init=False)

    def __post_init__(self) -> None:
        merged = {name: t for header in self.headers.values() for name, t in header.tensors.items()}
        object.__setattr__(self, "tensors", merged)

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.headers)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def digest(self, progress: Progress | None = None) -> str:
        """SHA-256 (hex) over names, sizes and contents of the weights, config and tokenizer."""
        files = sorted((*self.headers, *self.side_files))
        root = self.path if self.path.is_dir() else self.path.parent
        digest = hashlib.sha256()
        try:
            total = sum(file.stat().st_size for file in files)
            done = 0
            for file in files:
                with file.open("rb") as stream:
                    size = os.fstat(stream.fileno()).st_size
                    # Names and sizes keep bytes from moving between files unnoticed.
                    digest.update(f"{file.relative_to(root).as_posix()}\0{size}\0".encode())
                    while block := stream.read(_READ_BYTES):
                        digest.update(block)
                        done += len(block)
                        if progress is not None:
                            progress(done, total)
        except OSError as error:
            raise CheckpointError(self.path, f"cannot be read: {error.strerror}") from error
        return digest.hexdigest()


def open_checkpoint(path: Path) -> Checkpoint:
    """Check a directory with model.safetensors or shards, or one .safetensors file.

    Raises a CheckpointError of the kind that names the cause. Symlinks are followed: the
    Hugging Face cache is made of them.
    """
    try:
        return _open(path)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error


def _open(path: Path) -> Checkpoint:
    if path.is_file():
        if path.suffix in PICKLE_SUFFIXES:
            raise UnsafeCheckpointError(path, _CONVERT)
        return Checkpoint(path, {path: read_header(path)})
    if not path.is_dir():
        raise CheckpointError(path, "no such file or directory")
    side_files = tuple(
        sorted(f for f in path.iterdir() if f.suffix in SIDE_FILE_SUFFIXES and f.is_file())
    )
    single = path / SINGLE_FILE
    if single.is_file():  # wins over an index, as in transformers
        return Checkpoint(path, {single: read_header(single)}, side_files)
    index = path / INDEX_FILE
    if not index.is_file():
        raise _nothing_to_open(path)
    return Checkpoint(path, _read_shards(path, index), side_files)


def _nothing_to_open(path: Path) -> CheckpointError:
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        return UnsafeCheckpointError(path, f"holds only {pickles[0]}: {_CONVERT}")
    return CheckpointError(path, f"holds neither {SINGLE_FILE} nor {INDEX_FILE}")


def _read_shards(directory: Path, index: Path) -> dict[Path, Header]:
    weight_map = _read_weight_map(index)
    shards = {name: _shard_path(index, name) for name in set(weight_map.values())}
    headers: dict[Path, Header] = {}
    holder: dict[str, Path] = {}
    for shard in sorted(set(shards.values())):  # "a" and "./a" are one
        if not shard.is_file():
            raise MissingShardError(directory, f"the index names {shard.name}, which is not there")
        headers[shard] = read_header(shard)
        for tensor in headers[shard].tensors:
            if tensor in holder:
                raise CheckpointError(
                    directory, f"{tensor!r} stands in {holder[tensor].name} and in {shard.name}"
                )
            holder[tensor] = shard
    for tensor, name in weight_map.items():
        if tensor not in headers[shards[name]].tensors:
            raise CheckpointError(directory, f"the index puts {tensor!r} in {name}: not there")
    return headers


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        if index.stat().st_size > MAX_HEADER_BYTES:
            raise CheckpointError(index, f"larger than {MAX_HEADER_BYTES} bytes")
        weight_map = parse_object(index.read_bytes().lstrip()).get("weight_map")
    except StrictJsonError as error:
        raise CheckpointError(index, f"broken index: {error}") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(index, "broken index: it has no weight_map")
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise CheckpointError(index, f"broken index: {tensor!r} is mapped to no file name")
    return weight_map


def _shard_path(index: Path, name: str) -> Path:
    """Where the index may point: into its own directory, at a safetensors file."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name.isprintable():
        raise UnsafeCheckpointError(index, f"the index points outside its directory: {name!r}")
    if pure.suffix != SUFFIX:
        raise UnsafeCheckpointError(index, f"the index names {name!r}: {_CONVERT}")
    return index.parent / pure
