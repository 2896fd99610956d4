"""Locks whose files come and go."""

from __future__ import annotations

import threading

import pytest
from support.cache_process import CacheProcess

from pilotlight_loader.cache.locks import FileLock, is_held
from pilotlight_loader.errors import CacheError


def test_lock_excludes_although_its_file_is_unlinked_by_each_holder(tmp_path):
    path = tmp_path / "lock"
    inside, together, taken = [], [], []

    def work():
        for _ in range(2000):
            lock = FileLock.try_take(path)
            if lock is None:
                continue
            inside.append(1)
            path.exists()  # lets the others run
            together.append(len(inside))
            inside.pop()
            lock.release(unlink=True)
            taken.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(together) == {1}
    assert len(taken) > 100


def test_lock_is_told_to_be_held_only_while_it_is(tmp_path):
    path = tmp_path / "lock"
    before = is_held(path)
    with FileLock.take(path, 1.0):
        during = is_held(path)

    assert (before, during, is_held(path)) == (False, True, False)


def test_lock_waits_no_longer_than_asked(tmp_path):
    with (
        FileLock.take(tmp_path / "lock", 1.0),
        pytest.raises(CacheError, match=r"held by another process for 0\.05 s"),
    ):
        FileLock.take(tmp_path / "lock", 0.05)


def test_lock_of_a_fill_ends_with_its_process(cache, stored):
    path = cache.directory / "fills" / f"{stored.identity.key}.lock"
    with CacheProcess(cache.directory, "fill", stored.identity, stored.path, 10) as process:
        assert process.line() == "written"
        during = is_held(path)
        process.kill()

    assert (during, is_held(path)) == (True, False)
