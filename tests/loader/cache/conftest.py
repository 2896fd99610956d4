"""A cache of the test's own, and an object of three chunks in a real file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.layout import CHUNK_BYTES

NBYTES = 2 * CHUNK_BYTES + 12_345


@dataclass(frozen=True)
class Stored:
    """An object where it comes from."""

    path: Path
    data: memoryview
    identity: ObjectIdentity


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Three chunks, the last one small. Read only."""
    path = tmp_path_factory.mktemp("origin") / "model.safetensors"
    path.write_bytes(os.urandom(NBYTES))
    identity = ObjectIdentity("s3://bucket/model.safetensors", "v1", NBYTES)
    return Stored(path, memoryview(path.read_bytes()), identity)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")
