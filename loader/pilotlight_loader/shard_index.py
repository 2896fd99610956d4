"""Read model.safetensors.index.json and believe nothing in it. No I/O.

`weight_map` alone says which files belong to the checkpoint: repositories hold others beside them,
such as Mistral's consolidated.safetensors. `total_size` is often wrong, and is not looked at.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from pilotlight_loader.errors import CheckpointError, UnsafeCheckpointError
from pilotlight_loader.strict_json import StrictJsonError, parse_object

SUFFIX = ".safetensors"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
CONVERT = (
    "pickle checkpoints are refused; convert it with save_pretrained(), which writes safetensors"
)
MAX_SHARDS = 10_000  # the largest checkpoints have some hundred; each is opened


def parse_shard_index(raw: bytes, where: str) -> dict[str, str]:
    """Tensor to file, relative to the index and spelled in one way. *where* is for messages.

    Raises CheckpointError; UnsafeCheckpointError for a file outside, or one that is a pickle.
    """
    try:
        weight_map = parse_object(raw.lstrip()).get("weight_map")
    except StrictJsonError as error:
        raise CheckpointError(where, f"broken index: {error}") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(where, "broken index: it has no weight_map")
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise CheckpointError(where, f"broken index: {tensor!r} is mapped to no file name")
    shards = {name: _shard_name(name, where) for name in set(weight_map.values())}
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(where, f"{len(shards)} shards; at most {MAX_SHARDS} are opened")
    return {tensor: shards[name] for tensor, name in weight_map.items()}


def _shard_name(name: str, where: str) -> str:
    """Where the index may point: into its own directory, at a safetensors file."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name.isprintable():
        raise UnsafeCheckpointError(where, f"the index points outside its directory: {name!r}")
    if pure.suffix != SUFFIX:
        raise UnsafeCheckpointError(where, f"the index names {name!r}: {CONVERT}")
    return pure.as_posix()  # "a" and "./a" are one
