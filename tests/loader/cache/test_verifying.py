"""Damage on the disk is found, named and taken out."""

from __future__ import annotations

import os

import pytest
from support.cache_content import publish, write_missing

from pilotlight_loader.cache.filling import Filling
from pilotlight_loader.errors import CacheError, ChecksumError
from pilotlight_loader.layout import CHUNK_BYTES


@pytest.fixture
def blob(cache, stored):
    return cache.directory / "blobs" / publish(cache, stored.identity, stored.data)


def damage(blob, at):
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_verify_of_sound_bytes_tells_how_many(cache, stored, blob):
    told = []

    assert cache.verify(blob.name, progress=lambda *step: told.append(step)) == len(stored.data)
    assert told[-1] == (len(stored.data), len(stored.data))
    assert len(told) == 3


def test_verify_names_the_first_damaged_chunk(cache, blob):
    damage(blob, 2 * CHUNK_BYTES + 1)
    damage(blob, CHUNK_BYTES)
    where = rf"{blob}: chunk 1 \(bytes {CHUNK_BYTES} to {2 * CHUNK_BYTES}\) is damaged, 2 of 3"
    with pytest.raises(ChecksumError, match=where):
        cache.verify(blob.name)


def test_verify_takes_a_damaged_blob_out_even_while_leased(cache, stored, blob):
    damage(blob, 5)
    with cache.lease(stored.identity) as lease:
        with pytest.raises(ChecksumError):
            cache.verify(blob.name)

        assert os.fstat(lease._file.fileno()).st_size == len(stored.data)
        assert cache.lease(stored.identity) is None
    assert cache.entries() == []


def test_verify_finds_a_blob_that_was_cut_short(cache, stored, blob):
    blob.chmod(0o600)
    os.truncate(blob, 100)

    assert cache.lease(stored.identity) is None
    with pytest.raises(ChecksumError, match="100 bytes, it was published with"):
        cache.verify(blob.name)


def test_verify_is_no_use(cache, stored, blob):
    ref = next((cache.directory / "refs").iterdir())
    os.utime(ref, (1, 1))
    cache.verify(blob.name)

    assert ref.stat().st_mtime == 1


def test_verify_of_nothing_is_an_error(cache):
    with pytest.raises(CacheError, match="there is no blob abc"):
        cache.verify("abc")


def test_blob_cut_short_is_replaced_by_the_next_fill(cache, stored, blob):
    blob.chmod(0o600)
    os.truncate(blob, 100)
    found = cache.claim(stored.identity, 30.0)
    assert isinstance(found, Filling)
    with found as filling:
        write_missing(filling, stored.data)
        with filling.publish() as lease:
            assert lease.path.read_bytes() == stored.data
