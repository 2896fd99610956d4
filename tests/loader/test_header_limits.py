"""What a hostile header may cost: memory, time, and never the process."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pilotlight_loader import (
    CheckpointError,
    HeaderError,
    header,
    parse_header,
    read_header,
    strict_json,
)
from pilotlight_loader.strict_json import StrictJsonError, parse_object

WHERE = Path("model.safetensors")
TERABYTE = 2**40


@contextmanager
def allocating_at_most(limit_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= limit_bytes, f"{peak} bytes were allocated"


def sparse_file(path: Path, prefix: bytes, nbytes: int) -> Path:
    path.write_bytes(prefix)
    os.truncate(path, nbytes)
    return path


def header_of(count: int) -> bytes:
    entries = {
        f"model.layers.{n // 100}.experts.{n % 100}.w1.weight": {
            "dtype": "BF16",
            "shape": [2, 4],
            "data_offsets": [16 * n, 16 * n + 16],
        }
        for n in range(count)
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("length", "nbytes", "reason"),
    [
        (99_999_999, 1024, "a header of 99999999 bytes in a file of 1024"),
        (100_000_001, TERABYTE, "at most 100000000 are read"),
        (TERABYTE - 8, TERABYTE, "at most 100000000 are read"),
        (2**64 - 1, TERABYTE, "at most 100000000 are read"),
        (99_999_999, TERABYTE, "does not begin with '{'"),
        (0, TERABYTE, "does not begin with '{'"),
    ],
)
def test_read_header_allocates_nothing_for_a_bomb(tmp_path, length, nbytes, reason):
    path = sparse_file(tmp_path / "bomb.safetensors", struct.pack("<Q", length), nbytes)

    # A read buffer of 128 KiB (8 on Python 3.11), never the 100 MB that the header asks for.
    with allocating_at_most(256 * 1024), pytest.raises(HeaderError, match=reason):
        read_header(path)


def test_read_header_leaves_the_data_unread(tmp_path):
    text = json.dumps({"w": {"dtype": "U8", "shape": [2**39], "data_offsets": [0, 2**39]}})
    prefix = struct.pack("<Q", len(text)) + text.encode()
    path = sparse_file(tmp_path / "big.safetensors", prefix, len(prefix) + 2**39)

    with allocating_at_most(256 * 1024):
        assert read_header(path).tensors["w"].nbytes == 2**39


def test_read_header_of_a_directory_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="Is a directory"):
        read_header(tmp_path)


def test_header_takes_ten_thousand_tensors_in_eight_times_its_size():
    raw = header_of(10_000)

    with allocating_at_most(8 * len(raw)):
        parsed = parse_header(raw, len(raw) + 160_000, WHERE)
    assert len(parsed.tensors) == 10_000


def test_header_with_too_many_tensors_is_refused(monkeypatch):
    monkeypatch.setattr(header, "MAX_TENSORS", 99)
    raw = header_of(100)

    with pytest.raises(HeaderError, match="100 tensors; at most 99"):
        parse_header(raw, len(raw) + 1600, WHERE)


@pytest.mark.parametrize(
    "unit", [b"[],", b"{},", b"[[[[]]]],", b'{"":0},'], ids=lambda unit: unit.decode()
)
def test_json_of_millions_of_containers_is_refused_before_it_is_built(unit):
    text = b'{"a":[' + unit * 4_000_001 + b"0]}"

    with allocating_at_most(4 * len(text)), pytest.raises(StrictJsonError, match="over 4000000"):
        parse_object(text)


def test_json_of_millions_of_keys_is_refused_before_it_is_built():
    text = b"{" + b'"k":0,' * 5_000_001 + b'"k":0}'

    with (
        allocating_at_most(4 * len(text)),
        pytest.raises(StrictJsonError, match="or 5000000 pairs"),
    ):
        parse_object(text)


@pytest.mark.parametrize(
    "unit",
    [b"[],", b"{},", b"[[[[[[[[]]]]]]]],", b'{"":0},', b"999,", b'"ab",', b"1.5,"],
    ids=lambda unit: unit.decode(),
)
def test_json_takes_at_most_48_times_its_size(unit):
    text = b'{"a":[' + unit * (200_000 // len(unit)) + b"0]}"

    with allocating_at_most(48 * len(text)):
        parse_object(text)


BOMBS: dict[str, Callable[[int], bytes]] = {
    "lists": lambda n: b'{"a":' + b"[" * n,
    "closed lists": lambda n: b'{"a":' + b"[" * n + b"]" * n + b"}",
    "objects": lambda n: b'{"a":' * n,
    "lists between empty ones": lambda n: b'{"a":' + b"[[]," * n,
    "after brackets in a string": lambda n: b'{"]]]]":' + b"[" * n,
    "after an escaped quote": lambda n: rb'{"\"":' + b"[" * n,
    "after an escaped backslash": lambda n: rb'{"\\":' + b"[" * n,
    "before a broken string": lambda n: b'{"a":' + b"[" * n + b'"' + b"]" * n,
    "before a broken escape": lambda n: b'{"a":' + b"[" * n + b'\\"' + b"]" * n + b"}",
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("depth", [51, 200_000])
def test_json_nested_deeply_is_refused(kind, depth):
    with pytest.raises(StrictJsonError, match="nested too deeply"):
        parse_object(BOMBS[kind](depth))


@pytest.mark.parametrize(
    "text",
    [
        b'{"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[":1}',
        rb'{"\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[":1}',
        rb'{"\\":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[","a":"\\\\"}',
        b'{"a":[' + b'"[","{",' * 100 + b"0]}",
        b'{"a":' + b"[" * 15 + b"]" * 15 + b"}",
        b'{"a":[' + b"[[[[]]]]," * 1000 + b"[]]}",
    ],
    ids=lambda text: text.decode()[:20],
)
def test_json_with_brackets_that_nest_little_is_taken(text):
    assert parse_object(text) == json.loads(text)


def test_json_nested_deeply_does_not_end_a_process_that_raised_its_recursion_limit():
    # The file alone: the package would import torch.
    program = """
import runpy, sys
sys.setrecursionlimit(10**7)
strict_json = runpy.run_path(sys.argv[1])
for text in (b'{"a":' + b"[" * 1_000_000, b'{"a":' * 1_000_000):
    try:
        strict_json["parse_object"](text)
    except strict_json["StrictJsonError"] as error:
        print(error)
"""
    command = [sys.executable, "-c", program, strict_json.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nested too deeply") == 2


def test_json_numbers_keep_their_limit_where_the_process_gave_it_up():
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(StrictJsonError, match="more than 4300 digits"):
            parse_object(b'{"a":' + b"9" * 4301 + b"}")
    finally:
        sys.set_int_max_str_digits(before)
