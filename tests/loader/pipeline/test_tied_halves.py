"""Halves of a tie too large to be read as a whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pilotlight_loader.errors import AttachMismatchError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.pipeline.tied_halves import PLACE_BYTES, PLACES, Half, check_tied_halves
from pilotlight_loader.sources.local import LocalSource

NBYTES = 2 * PLACES * PLACE_BYTES + 12


def half(path: Path, name: str) -> Half:
    return Half(name, TensorInfo(name, "U8", (NBYTES,), 0, NBYTES), LocalSource(path))


def halves(tmp_path: Path, changed: int | None) -> tuple[Half, Half]:
    """Two files that differ in byte *changed*."""
    content = bytearray(random.Random(0).randbytes(NBYTES))
    (tmp_path / "one").write_bytes(content)
    if changed is not None:
        content[changed] ^= 1
    (tmp_path / "other").write_bytes(content)
    return half(tmp_path / "one", "embed"), half(tmp_path / "other", "head")


def test_tied_halves_that_are_the_same_are_let_through(tmp_path):
    check_tied_halves("here", [halves(tmp_path, None)])


@pytest.mark.parametrize("changed", [0, NBYTES - 1, (NBYTES - PLACE_BYTES) // (PLACES - 1)])
def test_tied_halves_are_looked_at_from_the_first_byte_to_the_last(tmp_path, changed):
    with pytest.raises(AttachMismatchError, match="head and embed are tied in the module"):
        check_tied_halves("here", [halves(tmp_path, changed)])


def test_tied_halves_read_a_bounded_share(tmp_path, monkeypatch):
    asked = []
    real = LocalSource.reader

    def reader(source):
        found = real(source)
        read_into = found.read_into

        def counted(start, into):
            asked.append(len(into))
            read_into(start, into)

        found.read_into = counted
        return found

    monkeypatch.setattr(LocalSource, "reader", reader)
    check_tied_halves("here", [halves(tmp_path, None)])

    assert sum(asked) == 2 * PLACES * PLACE_BYTES
