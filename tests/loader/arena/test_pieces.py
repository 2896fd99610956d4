from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_loader.arena.pieces import MAX_PIECE_BYTES, Piece, cut, pieces


def test_pieces_of_a_small_arena_are_one():
    assert pieces(4096, 10) == (Piece(4096, 10),)


def test_pieces_are_far_below_what_a_driver_refuses():
    assert MAX_PIECE_BYTES <= 64 * 2**30


@given(st.integers(0, 2**47), st.integers(1, 2**40), st.integers(2**33, 2**38))
def test_pieces_cover_everything_once(address, nbytes, limit):
    found = pieces(address, nbytes, limit)

    assert found[0].address == address
    assert sum(piece.nbytes for piece in found) == nbytes
    assert all(0 < piece.nbytes <= limit for piece in found)
    assert all(one.address + one.nbytes == two.address for one, two in pairwise(found))


def test_cut_leaves_whole_what_is_in_one_piece():
    assert cut(105, 10, pieces(100, 20)) == [(0, 10)]


def test_cut_leaves_whole_what_is_in_none():
    assert cut(5, 10, pieces(100, 20)) == [(0, 10)]


def test_cut_ends_a_span_at_every_edge():
    assert cut(95, 30, pieces(100, 20, max_piece_bytes=8)) == [
        (0, 5),
        (5, 13),
        (13, 21),
        (21, 25),
        (25, 30),
    ]


def test_cut_at_an_edge_makes_no_empty_span():
    assert cut(108, 8, pieces(100, 20, max_piece_bytes=8)) == [(0, 8)]
