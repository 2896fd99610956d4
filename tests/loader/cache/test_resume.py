"""What an earlier leader left: used where it is sound, and only there."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest
from support.cache_content import begin, write_missing

from pilotlight_loader.cache.journal import Journal, JournalContent, read_journal
from pilotlight_loader.cache.ranges import ByteRange
from pilotlight_loader.errors import LoadCancelledError
from pilotlight_loader.layout import CHUNK_BYTES

FIRST = ByteRange(0, CHUNK_BYTES)


@pytest.fixture
def half(cache, stored):
    """The first chunk and a bit of the second were written, then the leader gave up."""
    with begin(cache, stored.identity) as filling:
        filling.write(0, stored.data[: CHUNK_BYTES + 1000], lambda: None)
    return cache.directory / "fills" / stored.identity.key


def resumed(cache, identity):
    with begin(cache, identity) as filling:
        return filling.resumed()


def test_resume_keeps_finished_chunks(cache, stored, half):
    with begin(cache, stored.identity) as filling:
        kept, missing = filling.resumed(), filling.missing()
        write_missing(filling, stored.data)
        with filling.publish() as lease:
            content = lease.path.read_bytes()

    assert kept == [FIRST]
    assert missing == [ByteRange(CHUNK_BYTES, len(stored.data))]
    assert content == stored.data


def test_resume_reads_what_is_there_for_the_device(cache, stored, half):
    into = bytearray(5000)
    with begin(cache, stored.identity) as filling:
        filling.read_into(1234, memoryview(into))

        assert into == stored.data[1234:6234]
        with pytest.raises(ValueError, match="were not there"):
            filling.read_into(CHUNK_BYTES - 10, memoryview(into))


def test_resume_counts_no_damaged_chunk(cache, stored, half):
    with half.with_suffix(".part").open("r+b") as part:
        part.seek(77)
        part.write(bytes([stored.data[77] ^ 1]))
    with begin(cache, stored.identity) as filling:
        kept = filling.resumed()
        write_missing(filling, stored.data)
        with filling.publish() as lease:
            content = lease.path.read_bytes()

    assert kept == []
    assert content == stored.data


def test_resume_of_another_etag_starts_anew(cache, stored, half):
    assert resumed(cache, replace(stored.identity, etag="v2")) == []


def test_part_of_another_version_goes_when_the_present_one_is_known(cache, stored, half):
    with begin(cache, replace(stored.identity, etag="v2")):
        left = half.with_suffix(".part").exists(), half.with_suffix(".journal").exists()

    assert left == (False, False)


def test_part_of_another_version_stays_while_somebody_writes_it(cache, stored):
    part = cache.directory / "fills" / f"{stored.identity.key}.part"
    with begin(cache, stored.identity), begin(cache, replace(stored.identity, etag="v2")):
        assert part.exists()


def test_part_of_another_object_stays(cache, stored, half):
    with begin(cache, replace(stored.identity, location="s3://bucket/other")):
        assert half.with_suffix(".part").exists()


def test_resume_without_a_journal_starts_anew(cache, stored, half):
    half.with_suffix(".journal").unlink()

    assert resumed(cache, stored.identity) == []


@pytest.mark.parametrize("cut", [1, 8, 9, 40, 73])
def test_resume_ignores_a_torn_line(cache, stored, half, cut):
    journal = half.with_suffix(".journal")
    os.truncate(journal, journal.stat().st_size - cut)

    assert resumed(cache, stored.identity) == []


def test_resume_ignores_a_torn_head(cache, stored, half):
    os.truncate(half.with_suffix(".journal"), 20)

    assert resumed(cache, stored.identity) == []


def test_resume_of_a_part_cut_short_fetches_the_rest_again(cache, stored, half):
    os.truncate(half.with_suffix(".part"), CHUNK_BYTES - 1)
    with begin(cache, stored.identity) as filling:
        kept = filling.resumed()
        write_missing(filling, stored.data)
        with filling.publish() as lease:
            content = lease.path.read_bytes()

    assert kept == []
    assert content == stored.data


def test_resume_tells_its_progress(cache, stored, half):
    told = []
    filling = cache.begin(stored.identity, progress=lambda *step: told.append(step))
    filling.abandon()

    assert told == [(CHUNK_BYTES, CHUNK_BYTES)]


def test_resume_can_be_cancelled_and_loses_nothing(cache, stored, half):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(LoadCancelledError):
        cache.begin(stored.identity, cancel=cancel)

    assert resumed(cache, stored.identity) == [FIRST]


def test_resume_after_abandon_without_keep_starts_anew(cache, stored, half):
    begin(cache, stored.identity).abandon(keep=False)

    assert not half.with_suffix(".part").exists()
    assert resumed(cache, stored.identity) == []


def test_journal_after_a_torn_line_is_read_again(tmp_path, stored):
    """What a full disk tore is one line; a later one stands on its own."""
    path = tmp_path / "journal"
    journal = Journal(path, JournalContent(stored.identity, {0: bytes(32)}))
    with path.open("ab") as file:
        file.write(b"\n1 00112233")
    journal.add(2, bytes([2]) * 32)
    journal.close()

    assert read_journal(path).checksums == {0: bytes(32), 2: bytes([2]) * 32}


def test_journal_line_of_no_chunk_of_the_object_is_ignored(tmp_path, stored):
    path = tmp_path / "journal"
    Journal(path, JournalContent(stored.identity, {3: bytes(32), 2: bytes(32)})).close()

    assert set(read_journal(path).checksums) == {2}
