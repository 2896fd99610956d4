"""Bytes in host memory, read as a source where no device copies them."""

from __future__ import annotations

import pytest
import torch

from pilotlight_loader.errors import RangeAnswerError, ReadAbortedError
from pilotlight_loader.sources.host import HostSource


@pytest.fixture
def source() -> HostSource:
    return HostSource("arena:k", torch.arange(10, dtype=torch.uint8))


def test_host_source_reads_its_bytes(source):
    into = bytearray(3)

    source.reader().read_into(4, memoryview(into))

    assert into == bytes([4, 5, 6])


def test_host_source_knows_its_size(source):
    assert source.version.nbytes == 10


def test_host_source_refuses_what_is_past_its_end(source):
    with pytest.raises(RangeAnswerError, match="3 bytes at 8"):
        source.reader().read_into(8, memoryview(bytearray(3)))


def test_host_source_reads_nothing_after_an_abort(source):
    reader = source.reader()

    reader.abort()

    with pytest.raises(ReadAbortedError):
        reader.read_into(0, memoryview(bytearray(1)))


def test_host_source_gives_its_memory_back(source):
    source.close()

    with pytest.raises(ValueError, match="given back"):
        source.reader()
