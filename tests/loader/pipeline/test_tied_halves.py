"""Halves of a tie, of several blocks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pilotlight_loader.errors import AttachMismatchError, SourceReadError
from pilotlight_loader.header import TensorInfo
from pilotlight_loader.pipeline import tied_halves
from pilotlight_loader.pipeline.tied_halves import BLOCK_BYTES, Half, check_tied_halves
from pilotlight_loader.sources.local import LocalSource

NBYTES = 2 * BLOCK_BYTES + 12


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


@pytest.mark.parametrize("changed", [0, NBYTES - 1, 70_000, BLOCK_BYTES - 1, BLOCK_BYTES])
def test_tied_halves_are_compared_in_every_byte(tmp_path, changed):
    with pytest.raises(AttachMismatchError, match="head and embed are tied in the module"):
        check_tied_halves("here", [halves(tmp_path, changed)])


@pytest.fixture
def reads(monkeypatch):
    """The length of each read."""
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
    return asked


def test_tied_halves_are_read_once_in_bounded_memory(tmp_path, reads):
    check_tied_halves("here", [halves(tmp_path, None)])

    assert sum(reads) == 2 * NBYTES
    assert max(reads) == BLOCK_BYTES


def test_tied_halves_that_differ_early_are_not_read_to_the_end(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(tied_halves, "BLOCK_BYTES", 64 * 1024)
    with pytest.raises(AttachMismatchError):
        check_tied_halves("here", [halves(tmp_path, 0)])

    assert sum(reads) < NBYTES


def test_tied_halves_of_no_bytes_are_the_same(tmp_path):
    (tmp_path / "one").touch()
    info = TensorInfo("embed", "U8", (0,), 0, 0)
    empty = Half("embed", info, LocalSource(tmp_path / "one"))

    check_tied_halves("here", [(empty, empty)])


def test_tied_halves_that_cannot_be_read_are_an_error(tmp_path):
    one, other = halves(tmp_path, None)
    (tmp_path / "other").write_bytes(b"cut")

    with pytest.raises(SourceReadError):
        check_tied_halves("here", [(one, other)])
