"""The parts of `pilotlight bench load` that a wrong figure could come from."""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from pilotlight_deploy.bench.load.memcpy import memcpy_seconds
from pilotlight_deploy.bench.load.peak_memory import peak_memory
from pilotlight_deploy.bench.load.raw_sockets import raw_seconds
from pilotlight_deploy.bench.load.throttled_server import SENT_PATH, TokenBucket, throttled
from pilotlight_deploy.bench.load.touched_memory import TouchedMemory

DATA = os.urandom(300_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "x").write_bytes(DATA)
    return tmp_path


def get(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, headers=named)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, answer.read(), dict(answer.headers)


def test_throttled_server_answers_ranges(root: Path) -> None:
    with throttled(root, 1e9) as url:
        status, body, headers = get(f"{url}/x", Range="bytes=10-19")

    assert (status, body) == (206, DATA[10:20])
    assert headers["Content-Range"] == f"bytes 10-19/{len(DATA)}"


def test_throttled_server_knows_its_version(root: Path) -> None:
    with throttled(root, 1e9) as url, pytest.raises(urllib.error.HTTPError, match="412"):
        get(f"{url}/x", If_Match='"other"')


def test_throttled_server_counts_what_it_sends(root: Path) -> None:
    with throttled(root, 1e9) as url:
        get(f"{url}/x")
        get(f"{url}/x", Range="bytes=0-99")
        _, sent, _ = get(url + SENT_PATH)

    assert int(sent) == len(DATA) + 100


def test_token_bucket_is_shared_by_all_who_take() -> None:
    bucket = TokenBucket(bytes_per_s=1e6)
    began_s = time.monotonic()
    takers = [threading.Thread(target=bucket.take, args=(25_000,)) for _ in range(8)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()

    # 200 000 bytes: the last may begin 0.175 s after the first, less the burst.
    assert time.monotonic() - began_s >= 0.16


def test_raw_sockets_refuse_what_is_no_range(root: Path) -> None:
    with throttled(root, 1e9) as url:
        assert raw_seconds(f"{url}/x", len(DATA), connections=3, part_bytes=64_000) > 0
        with pytest.raises(OSError, match="404"):
            raw_seconds(f"{url}/none", len(DATA), connections=1, part_bytes=64_000)


def test_memcpy_copies_every_byte() -> None:
    source = torch.randint(0, 255, (100_003,), dtype=torch.uint8)
    target = torch.zeros_like(source)
    memcpy_seconds(source, target, threads=3)

    assert torch.equal(source, target)


def test_peak_memory_begins_anew() -> None:
    with peak_memory() as peak:
        block = bytearray(64 << 20)
        high = peak()
        del block
    with peak_memory() as peak:
        low = peak()

    assert high - low > 32 << 20


def test_touched_memory_gives_each_byte_once_until_it_is_reset() -> None:
    memory = TouchedMemory(3 * 4096)
    first, second = memory.allocate(5000), memory.allocate(4096)
    first[:] = b"a" * 5000
    second[:] = b"b" * 4096

    assert bytes(first) == b"a" * 5000
    with pytest.raises(MemoryError):
        memory.allocate(1)
    memory.reset()
    assert bytes(memory.allocate(1)) == b"a"
