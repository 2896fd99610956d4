from __future__ import annotations

import errno
import mmap
import os
from contextlib import closing
from pathlib import Path

import pytest
from support.reading import DATA, read, read_with, reader_of

from pilotlight_loader.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ObjectMissingError,
    RangeAnswerError,
    ReadAbortedError,
    SourceReadError,
    TransientReadError,
)
from pilotlight_loader.sources.direct_read import ALIGN_BYTES, MIN_DIRECT_BYTES, direct_span
from pilotlight_loader.sources.local import LocalOptions, LocalSource, LocalStore
from pilotlight_loader.sources.os_errors import os_error
from pilotlight_loader.sources.residency import Residency

BIG = (DATA * 12)[: 3 * MIN_DIRECT_BYTES + 123]  # with a last page that is not whole


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def big(tmp_path):
    """A file on a disk, none of it in the page cache; skipped where that cannot be had."""
    path = tmp_path / "big"
    path.write_bytes(BIG)
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
    evict(path)
    if resident(path):
        pytest.skip("this file system keeps its pages: it has no disk")
    return path


def evict(path) -> None:
    with path.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(path) -> bool:
    """Whether half of the file is in the page cache."""
    with path.open("rb") as opened, closing(Residency(len(BIG))) as residency:
        return residency.is_cached(opened.fileno(), 0, len(BIG))


def aligned(nbytes: int, offset: int) -> memoryview:
    """Memory whose address is *offset* after an aligned one."""
    return memoryview(mmap.mmap(-1, nbytes + ALIGN_BYTES))[offset : offset + nbytes]


def refuse_direct(monkeypatch, error: Exception) -> None:
    """A file system without O_DIRECT, as overlayfs can be."""

    def open_(path, flags, *rest, **options):
        if flags & os.O_DIRECT:
            raise error
        return real(path, flags, *rest, **options)

    real = os.open
    monkeypatch.setattr(os, "open", open_)


def test_local_reads_a_range(file):
    assert read(LocalSource(file), 1000, 5000) == DATA[1000:6000]


def test_local_reads_nothing(file):
    assert read(LocalSource(file), len(DATA), 0) == b""


def test_local_fills_a_view_of_another_type(file):
    into = memoryview(bytearray(80)).cast("d")
    with closing(LocalSource(file).reader()) as reader:
        reader.read_into(8, into)

    assert into.tobytes() == DATA[8:88]


def test_local_knows_the_size(file):
    assert LocalSource(file).version.nbytes == len(DATA)


@pytest.mark.parametrize(("start", "nbytes"), [(-1, 1), (len(DATA), 1), (0, len(DATA) + 1)])
def test_local_refuses_a_range_outside(file, start, nbytes):
    with pytest.raises(RangeAnswerError, match=f"it has {len(DATA)}"):
        read(LocalSource(file), start, nbytes)


@pytest.mark.parametrize("offset", [0, 512], ids=["aligned", "bounced"])
def test_local_reads_cold_pages_past_the_page_cache(big, offset):
    into = aligned(len(BIG), offset)
    with closing(LocalSource(big).reader()) as reader:
        reader.read_into(0, into)

    assert into == BIG
    assert not resident(big)


@pytest.mark.parametrize(
    ("start", "nbytes"),
    [(1, len(BIG) - 1), (4095, 2 * MIN_DIRECT_BYTES), (4096, 2 * MIN_DIRECT_BYTES + 1)],
)
def test_local_direct_read_completes_unaligned_edges(big, start, nbytes):
    # Congruent with the file: the aligned middle needs no bounce buffer.
    into = aligned(nbytes, start % ALIGN_BYTES)
    with closing(LocalSource(big).reader()) as reader:
        reader.read_into(start, into)

    assert into == BIG[start : start + nbytes]
    assert not resident(big)


def test_local_reads_cached_pages_through_the_page_cache(big, monkeypatch):
    big.read_bytes()
    refuse_direct(monkeypatch, AssertionError("asked for O_DIRECT"))

    assert read(LocalSource(big), 0, len(BIG)) == BIG


def test_local_asks_for_no_o_direct_where_there_is_no_disk(big, monkeypatch):
    # As NFS does, procfs has a device number without a driver; it has no pages to be cold.
    refuse_direct(monkeypatch, AssertionError("asked for O_DIRECT"))
    monkeypatch.setattr(os, "major", lambda device: 0)

    assert not LocalSource(Path("/proc/version")).is_on_disk
    assert read(LocalSource(big), 0, len(BIG)) == BIG


def test_local_falls_back_where_o_direct_is_refused(big, monkeypatch):
    refuse_direct(monkeypatch, OSError(errno.EINVAL, "Invalid argument"))

    assert read(LocalSource(big), 0, len(BIG)) == BIG


def test_local_without_direct_leaves_pages_in_the_cache(big):
    read(LocalSource(big, options=LocalOptions(direct=False)), 0, len(BIG))

    assert resident(big)


def test_local_drops_cold_pages_when_told(big):
    options = LocalOptions(direct=False, drop_cold_pages=True)

    assert read(LocalSource(big, options=options), 0, len(BIG)) == BIG
    assert not resident(big)


def test_local_never_drops_pages_that_others_use(big):
    big.read_bytes()
    read(LocalSource(big, options=LocalOptions(direct=False, drop_cold_pages=True)), 0, len(BIG))

    assert resident(big)


@pytest.mark.parametrize(
    ("start", "nbytes", "expected"),
    [
        (0, 8 << 20, (0, 8 << 20)),
        (1, 8 << 20, (4096, 8 << 20)),
        (4096, (8 << 20) + 4095, (4096, (8 << 20) + 4096)),
        ((8 << 20) - 1, 1, None),
        (0, MIN_DIRECT_BYTES - 1, None),
        (1, MIN_DIRECT_BYTES, None),
    ],
)
def test_direct_span_is_the_aligned_middle(start, nbytes, expected):
    assert direct_span(start, nbytes, 64 << 20) == expected


def test_direct_span_leaves_the_last_page_out():
    assert direct_span(0, (2 << 20) + 5, (2 << 20) + 5) == (0, 2 << 20)


def test_local_file_that_was_written_into_is_an_error(file, owned):
    source = LocalSource(file)
    reader = reader_of(source, owned)
    read_with(reader, 0, 10)
    with file.open("r+b") as opened:
        opened.write(b"changed")
    os.utime(file, ns=(0, 0))  # the clock of a file system may be coarser than this test is fast

    with pytest.raises(ObjectChangedError, match="changed or replaced"):
        read_with(reader, 0, 10)


def test_local_file_that_was_replaced_before_a_reader_opens_it_is_an_error(file):
    source = LocalSource(file)
    other = file.with_name("other")
    other.write_bytes(DATA)
    other.replace(file)

    with pytest.raises(ObjectChangedError):
        read(source, 0, 10)


def test_local_reader_that_is_open_survives_a_replacement(file, owned):
    reader = reader_of(LocalSource(file), owned)
    read_with(reader, 0, 10)
    other = file.with_name("other")
    other.write_bytes(b"x" * len(DATA))
    other.replace(file)

    assert read_with(reader, 10, 10) == DATA[10:20]


def test_local_file_that_was_truncated_is_an_error(file, owned):
    reader = reader_of(LocalSource(file), owned)
    read_with(reader, 0, 1)
    os.truncate(file, 100)

    with pytest.raises(ObjectChangedError):
        read_with(reader, 50, 1000)


def test_local_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(ObjectMissingError, match="No such file"):
        LocalStore(tmp_path).open("absent")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_local_thing_that_is_no_file_is_missing(tmp_path, make):
    make(tmp_path / "thing")

    with pytest.raises(ObjectMissingError, match="not a regular file"):
        LocalStore(tmp_path).open("thing")


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EACCES, AccessDeniedError), (errno.ENOENT, ObjectMissingError),
     (errno.EIO, TransientReadError), (errno.EMFILE, SourceReadError)],
)  # fmt: skip
def test_local_os_error_has_its_name(code, kind):
    named = os_error(OSError(code, os.strerror(code)), "/there")

    assert type(named) is kind
    assert str(named) == f"/there: {os.strerror(code)}"


def test_local_reader_that_was_aborted_reads_no_more(file, owned):
    reader = reader_of(LocalSource(file), owned)
    reader.abort()

    with pytest.raises(ReadAbortedError):
        read_with(reader, 0, 10)


def test_local_closes_its_files(big):
    before = len(os.listdir("/proc/self/fd"))
    source = LocalSource(big)
    reader = source.reader()
    reader.read_into(0, aligned(len(BIG), 0))
    for opened in (reader, reader, source, source):
        opened.close()

    assert len(os.listdir("/proc/self/fd")) == before


def test_local_store_names_its_files_only(tmp_path, file):
    (tmp_path / "folder").mkdir()

    assert LocalStore(tmp_path).names() == ["blob"]


def test_local_store_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(ObjectMissingError):
        LocalStore(tmp_path / "absent").names()
