"""A thread's memory is used again, grows, and is nobody else's."""

import ctypes
import threading

import torch

from pilotlight_loader import scratch as scratch_module
from pilotlight_loader.scratch import scratch, scratch_address


def test_scratch_address_holds_what_was_asked_for() -> None:
    for nbytes in (1, 100, 1 << 20, 7):
        ctypes.memset(scratch_address(nbytes), 255, nbytes)

        assert ctypes.string_at(scratch_address(nbytes), nbytes) == b"\xff" * nbytes
        assert scratch_address(nbytes) % 64 == 0
        block = scratch_module._MINE.block
        assert scratch_address(nbytes) + nbytes <= block.data_ptr() + len(block)


def test_scratch_address_stays_until_more_is_needed() -> None:
    first = scratch_address(4096)

    assert scratch_address(16) == first
    assert scratch_address(4096) == first


def test_scratch_is_each_threads_own() -> None:
    mine = scratch_address(64), scratch((8,), torch.float32).data_ptr()
    theirs = []

    def ask():
        theirs.append((scratch_address(64), scratch((8,), torch.float32).data_ptr()))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(10)

    assert theirs[0][0] != mine[0]
    assert theirs[0][1] != mine[1]
