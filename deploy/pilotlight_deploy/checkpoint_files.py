"""Which files of a store are its checkpoint: weights, configuration, tokenizer."""

from __future__ import annotations

from pathlib import PurePosixPath

from pilotlight_loader.checkpoint import INDEX_FILE, SIDE_FILE_SUFFIXES, SINGLE_FILE, SUFFIX
from pilotlight_loader.errors import ObjectMissingError, SourceReadError
from pilotlight_loader.header import MAX_HEADER_BYTES
from pilotlight_loader.sources.source import Store
from pilotlight_loader.strict_json import StrictJsonError, parse_object


def checkpoint_files(store: Store) -> list[str]:
    """Names in *store*, weights first. The index decides where there is no single file.

    Other weights beside them (consolidated, ONNX, pickles) are not the checkpoint. Raises
    ObjectMissingError where there is neither, SourceReadError for a broken index.
    """
    listed = store.names()
    if listed is None:
        return _unlisted(store)
    side = [name for name in listed if PurePosixPath(name).suffix in SIDE_FILE_SUFFIXES]
    if SINGLE_FILE in listed:
        return [SINGLE_FILE, *side]
    if INDEX_FILE in listed:
        return [*_shards(store), *side]
    raise ObjectMissingError(store.location, f"holds neither {SINGLE_FILE} nor {INDEX_FILE}")


def _unlisted(store: Store) -> list[str]:
    """Of a place that cannot be asked for names, the weights only."""
    try:
        return [*_shards(store), INDEX_FILE]
    except ObjectMissingError:
        return [SINGLE_FILE]


def _shards(store: Store) -> list[str]:
    source = store.open(INDEX_FILE)
    try:
        if source.version.nbytes > MAX_HEADER_BYTES:
            raise SourceReadError(source.location, f"larger than {MAX_HEADER_BYTES} bytes")
        content = bytearray(source.version.nbytes)
        reader = source.reader()
        try:
            reader.read_into(0, memoryview(content))
        finally:
            reader.close()
    finally:
        source.close()
    try:
        weight_map = parse_object(bytes(content).lstrip()).get("weight_map")
    except StrictJsonError as error:
        raise SourceReadError(source.location, f"broken index: {error}") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceReadError(source.location, "broken index: it has no weight_map")
    return sorted({_checked(name, source.location) for name in weight_map.values()})


def _checked(name: object, location: str) -> str:
    """A name that stays inside the store."""
    if not isinstance(name, str) or not name.isprintable() or "\\" in name:
        raise SourceReadError(location, f"broken index: {name!r} is no file name")
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or pure.suffix != SUFFIX:
        raise SourceReadError(location, f"the index names {name!r}, which is no weights in it")
    return str(pure)
