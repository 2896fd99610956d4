"""What the disk is given while it lags behind."""

from __future__ import annotations

from pilotlight_loader.layout import CHUNK_BYTES
from pilotlight_loader.pipeline.backlog import Backlog
from pilotlight_loader.transfer.parts import Part

HALF = CHUNK_BYTES // 2


def part(number: int, file: str = "a") -> Part:
    """The *number*th half of a chunk."""
    start = number * HALF
    return Part(index=number, file=file, start=start, end=start + HALF, range=0, at=start)


def test_backlog_takes_all_that_the_disk_keeps_up_with():
    backlog = Backlog(4)

    for number in range(100):
        assert backlog.take(part(number))
        backlog.done()
    assert not backlog.is_short_of("a")


def test_backlog_begins_no_chunk_while_it_is_half_full():
    backlog = Backlog(4)

    assert [backlog.take(part(number)) for number in (0, 2, 4)] == [True, True, False]


def test_backlog_finishes_chunks_that_were_begun():
    backlog = Backlog(4)
    taken = [backlog.take(part(number)) for number in (0, 2, 1, 3)]

    assert taken == [True] * 4
    assert not backlog.take(part(5))


def test_backlog_leaves_out_whole_chunks():
    backlog = Backlog(2)
    backlog.take(part(0))
    left_out = backlog.take(part(2))
    backlog.done()

    assert not left_out
    assert not backlog.take(part(3))  # there would be room, but its chunk cannot be finished
    assert backlog.take(part(4))


def test_backlog_knows_which_file_is_short():
    backlog = Backlog(2)
    backlog.take(part(0))
    backlog.take(part(0, "b"))

    assert backlog.is_short_of("b")
    assert not backlog.is_short_of("a")


def test_backlog_counts_buffers_of_all_files():
    backlog = Backlog(2)
    backlog.take(part(0))

    assert not backlog.take(part(0, "b"))


def test_backlog_counts_only_what_lacks_in_chunks_that_were_left_out():
    backlog = Backlog(2)
    backlog.take(part(0))
    backlog.take(part(2))  # left out: all of chunk 1
    lacking = [(HALF, 3 * HALF), (4 * HALF, 5 * HALF)]

    assert backlog.left_out_bytes("a", lacking) == HALF
    assert backlog.left_out_bytes("b", lacking) == 0
