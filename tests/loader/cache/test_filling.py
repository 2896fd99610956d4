"""One fill: bytes in any order, published whole or not at all."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cache_content import begin, publish, small, write_missing
from support.waiting import until

from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.identity import ObjectIdentity
from pilotlight_loader.cache.ranges import ByteRange
from pilotlight_loader.cache.tree_digest import tree_digest
from pilotlight_loader.errors import CacheError
from pilotlight_loader.layout import CHUNK_BYTES


def checksums(data):
    return [
        hashlib.sha256(data[start : start + CHUNK_BYTES]).digest()
        for start in range(0, len(data), CHUNK_BYTES)
    ]


def parts_of(nbytes, part_bytes):
    return [(start, min(start + part_bytes, nbytes)) for start in range(0, nbytes, part_bytes)]


@pytest.mark.parametrize("part_bytes", [1_000_003, CHUNK_BYTES, 40_000_000])
def test_filling_out_of_order_gives_the_same_blob_as_in_order(cache, stored, part_bytes):
    parts = parts_of(len(stored.data), part_bytes)
    random.Random(7).shuffle(parts)
    with begin(cache, stored.identity) as filling:
        for start, end in parts:
            filling.write(start, stored.data[start:end], lambda: None)
        with filling.publish() as lease:
            content, digest = lease.path.read_bytes(), lease.digest

    assert content == stored.data
    assert digest == tree_digest(len(stored.data), checksums(stored.data))


def test_filling_from_many_threads(cache, stored):
    parts = parts_of(len(stored.data), 700_001)
    released = []
    with begin(cache, stored.identity) as filling:

        def write(mine):
            for start, end in mine:
                filling.write(start, stored.data[start:end], lambda: released.append(1))

        threads = [threading.Thread(target=write, args=(parts[i::3],)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        digest = publish_and_close(filling)

    assert digest == tree_digest(len(stored.data), checksums(stored.data))
    assert len(released) == len(parts)


def publish_and_close(filling):
    with filling.publish() as lease:
        return lease.digest


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 40)), max_size=12))
def test_filling_overlapping_writes_keep_the_first_bytes(spans):
    expected = bytearray(100)
    with (
        tempfile.TemporaryDirectory() as folder,
        begin(Cache(Path(folder)), small("a", bytes(100))) as filling,
    ):
        for number, (start, length) in enumerate(spans, 1):
            data = bytes([number]) * min(length, 100 - start)
            for at in range(start, start + len(data)):
                expected[at] = expected[at] or number
            filling.write(start, memoryview(data), lambda: None)
        missing = filling.missing()
        write_missing(filling, memoryview(bytes(100)))
        with filling.publish() as lease:
            content = lease.path.read_bytes()

    assert content == bytes(expected)
    assert [at for gap in missing for at in range(gap.start, gap.end)] == [
        at for at in range(100) if not expected[at]
    ]


def test_filling_missing_names_what_was_not_written(cache, stored):
    with begin(cache, stored.identity) as filling:
        filling.write(100, stored.data[100:200], lambda: None)
        filling.write(300, stored.data[300:350], lambda: None)

        assert filling.missing() == [
            ByteRange(0, 100),
            ByteRange(200, 300),
            ByteRange(350, len(stored.data)),
        ]


def test_filling_publish_with_a_hole_says_where_and_stays_open(cache):
    with begin(cache, small("a")) as filling:
        filling.write(0, memoryview(b"some"), lambda: None)
        with pytest.raises(CacheError, match="6 of 10 bytes are missing, the first at 4"):
            filling.publish()
        filling.write(4, memoryview(b" bytes"), lambda: None)
        with filling.publish() as lease:
            assert lease.path.read_bytes() == b"some bytes"


def test_filling_of_nothing_is_published(cache):
    identity = small("empty", b"")
    publish(cache, identity, b"")

    with cache.lease(identity) as lease:
        assert (lease.nbytes, lease.path.read_bytes()) == (0, b"")


def test_filling_refuses_bytes_outside_the_object(cache):
    with begin(cache, small("a")) as filling, pytest.raises(ValueError, match="an object of 10"):
        filling.write(8, memoryview(b"123"), lambda: None)


def test_filling_blob_is_immutable_and_private(cache, stored):
    digest = publish(cache, stored.identity, stored.data)
    blob = cache.directory / "blobs" / digest

    assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    assert stat.S_IMODE(cache.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(blob.parent.stat().st_mode) == 0o700


def test_filling_leaves_only_blob_and_ref(cache, stored):
    digest = publish(cache, stored.identity, stored.data)

    files = {path.relative_to(cache.directory) for path in cache.directory.rglob("*.*")}
    assert {path.name for path in files} == {".lock", f"{stored.identity.key}.json"}
    assert [path.name for path in (cache.directory / "blobs").iterdir()] == [digest]


def test_filling_the_part_has_its_room_from_the_start(cache, stored):
    with begin(cache, stored.identity):
        part = cache.directory / "fills" / f"{stored.identity.key}.part"

        assert part.stat().st_size == len(stored.data)
        assert part.stat().st_blocks * 512 >= len(stored.data)


def test_filling_of_known_bytes_shares_the_blob(cache, stored):
    other = ObjectIdentity("https://host/copy.safetensors", "e", len(stored.data))
    first = publish(cache, stored.identity, stored.data)
    inode = (cache.directory / "blobs" / first).stat().st_ino
    second = publish(cache, other, stored.data)

    assert first == second
    assert (cache.directory / "blobs" / first).stat().st_ino == inode
    assert cache.nbytes() == len(stored.data)


def test_filling_waits_for_the_disk_when_too_much_is_in_flight(tmp_path, stored):
    """A second buffer is let in only when the first is back: its release holds the one writer."""
    cache = Cache(tmp_path / "cache", in_flight_bytes=1_000_000, writer_threads=1)
    first_back, go_on, events = threading.Event(), threading.Event(), []

    def hold():
        first_back.set()
        go_on.wait(30)

    with begin(cache, stored.identity) as filling:
        # The second piece waits behind the first one's release, in the writer's queue.
        filling.write(0, stored.data[:900_000], hold)
        assert first_back.wait(30)
        filling.write(900_000, stored.data[900_000:1_800_000], lambda: events.append("second"))
        refused = filling.write(
            1_800_000,
            stored.data[1_800_000:2_700_000],
            lambda: events.append("refused"),
            wait=False,
        )
        assert events == ["refused"]
        third = threading.Thread(
            target=lambda: events.append(
                filling.write(2_700_000, stored.data[2_700_000:3_600_000], lambda: None)
            )
        )
        third.start()
        third.join(0.1)
        waited = third.is_alive()
        go_on.set()
        third.join(30)
        missing = filling.missing()

    assert not refused
    assert waited
    assert events == ["refused", "second", True]
    assert missing[0] == ByteRange(1_800_000, 2_700_000)


def test_filling_of_a_disk_that_takes_nothing_fails_and_frees_the_caller(
    tmp_path, stored, monkeypatch
):
    monkeypatch.setattr("pilotlight_loader.cache.filling.STALL_S", 0.3)
    cache = Cache(tmp_path / "cache", in_flight_bytes=1_000_000, writer_threads=1)
    first_back, go_on, released = threading.Event(), threading.Event(), []

    def hold():
        first_back.set()
        go_on.wait(30)

    with begin(cache, stored.identity) as filling:
        filling.write(0, stored.data[:900_000], hold)
        assert first_back.wait(30)
        filling.write(900_000, stored.data[900_000:1_800_000], lambda: released.append("queued"))
        taken = filling.write(1_800_000, stored.data[:900_000], lambda: released.append("third"))
        later = filling.write(0, stored.data[:10], lambda: released.append("later"))
        go_on.set()

        assert (taken, later) == (False, False)
        with pytest.raises(CacheError, match=r"the disk took nothing for 0\.3 s"):
            filling.publish()
    assert released == ["third", "later", "queued"]


def test_filling_takes_a_buffer_larger_than_the_limit_alone(tmp_path, stored):
    cache = Cache(tmp_path / "cache", in_flight_bytes=1000)

    assert publish(cache, stored.identity, stored.data)


def test_filling_gives_the_buffer_back_without_a_view_of_it(cache):
    buffer = bytearray(b"some bytes")
    released = threading.Event()
    with begin(cache, small("a")) as filling:
        filling.write(0, memoryview(buffer), released.set)
        assert released.wait(30)
        buffer += b"!"  # BufferError while anybody views it

        assert len(buffer) == 11


def test_filling_after_its_end_releases_at_once(cache):
    released = []
    filling = begin(cache, small("a"))
    filling.abandon()

    assert not filling.write(0, memoryview(b"some"), lambda: released.append(1))
    assert released == [1]
    with pytest.raises(CacheError, match="has ended"):
        filling.publish()


def test_filling_with_a_release_that_raises_fails_and_ends(cache):
    def broken():
        raise RuntimeError("mine")

    with begin(cache, small("a")) as filling:
        filling.write(0, memoryview(b"some bytes"), broken)
        until(lambda: filling.error is not None)
        with pytest.raises(CacheError, match="RuntimeError: mine"):
            filling.publish()


def test_filling_drops_its_pages_on_request(tmp_path, stored):
    kept = Cache(tmp_path / "kept")
    kept_blob = kept.directory / "blobs" / publish(kept, stored.identity, stored.data)
    cache = Cache(tmp_path / "cache", drop_pages=True)
    blob = cache.directory / "blobs" / publish(cache, stored.identity, stored.data)

    assert resident_pages(kept_blob) > 0
    if not can_drop_pages(kept_blob):
        pytest.skip("this file system is memory")
    assert resident_pages(blob) == 0


def can_drop_pages(path):
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident_pages(path) == 0


def resident_pages(path):
    import ctypes  # noqa: PLC0415 - only here
    import mmap  # noqa: PLC0415

    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        answer = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        view = ctypes.c_char.from_buffer(mapped)
        ctypes.CDLL(None).mincore(
            ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), answer
        )
        del view
        return sum(byte & 1 for byte in answer)


def test_filling_without_fallocate_is_sparse_and_whole(cache, stored, monkeypatch):
    """A file system that cannot reserve: the C call is the only thing that is replaced."""
    import ctypes  # noqa: PLC0415 - only here
    import errno  # noqa: PLC0415

    from pilotlight_loader.cache import space  # noqa: PLC0415

    class Libc:
        @staticmethod
        def fallocate(*arguments):
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr(space, "_libc", Libc)
    with begin(cache, stored.identity) as filling:
        part = cache.directory / "fills" / f"{stored.identity.key}.part"
        size, blocks = part.stat().st_size, part.stat().st_blocks
        write_missing(filling, stored.data)
        with filling.publish() as lease:
            content = lease.path.read_bytes()

    assert (size, blocks) == (len(stored.data), 0)
    assert content == stored.data
    assert os.listdir(cache.directory / "fills") == []
