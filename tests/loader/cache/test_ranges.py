"""Range bookkeeping against a plain set of positions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_loader.cache.chunk_writers import split
from pilotlight_loader.cache.ranges import ByteRange, RangeSet
from pilotlight_loader.layout import CHUNK_BYTES

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20)


def positions(ranges):
    return {at for span in ranges for at in range(span.start, span.end)}


@given(SPANS, st.integers(0, 60), st.integers(0, 60))
def test_ranges_gaps_are_what_was_not_added(spans, start, end):
    kept, model = RangeSet(), set()
    for first, last in spans:
        kept.add(first, last)
        model |= set(range(first, last))

    assert positions(kept.gaps(start, end)) == set(range(start, end)) - model
    assert positions(kept.ranges()) == model
    assert kept.nbytes == len(model)


@given(SPANS)
def test_ranges_add_answers_what_is_new(spans):
    kept, model = RangeSet(), set()
    for first, last in spans:
        fresh = kept.add(first, last)

        assert positions(fresh) == set(range(first, last)) - model
        assert sum(span.nbytes for span in fresh) == len(positions(fresh))
        model |= set(range(first, last))


@given(SPANS)
def test_ranges_gaps_are_ordered_and_apart(spans):
    kept = RangeSet()
    for first, last in spans:
        kept.add(first, last)
    edges = [edge for gap in kept.gaps(0, 100) for edge in (gap.start, gap.end)]

    assert edges == sorted(set(edges))


@given(st.integers(0, 5 * CHUNK_BYTES), st.integers(1, 3 * CHUNK_BYTES))
def test_ranges_split_stays_within_chunks(start, nbytes):
    pieces = split([ByteRange(start, start + nbytes)])

    assert all(index * CHUNK_BYTES <= piece.start for index, piece in pieces)
    assert all(piece.end <= (index + 1) * CHUNK_BYTES for index, piece in pieces)
    assert [piece.start for _, piece in pieces[1:]] == [piece.end for _, piece in pieces[:-1]]
    assert (pieces[0][1].start, pieces[-1][1].end) == (start, start + nbytes)
