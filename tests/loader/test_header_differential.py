"""This parser against safetensors' own: alike, or stricter for a reason that is named."""

from __future__ import annotations

import json
import random
import struct

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.header_checks import STRICTER, check_agreement, encode, read
from support.header_mutations import mutate_file, with_prefix

from pilotlight_loader.dtypes import DTYPE_BITS
from pilotlight_loader.errors import LoaderError
from pilotlight_loader.header import Header

relaxed = settings(deadline=None)  # the machine may be busy
thorough = settings(deadline=None, max_examples=500)

# Each is whole bytes in every dtype of the format.
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(lambda sizes: [*sizes, 8])
NAMES = st.text(max_size=6).filter(lambda name: name != "__metadata__")
SPECS = st.lists(
    st.tuples(NAMES, st.sampled_from(sorted(DTYPE_BITS)), SHAPES),
    max_size=6,
    unique_by=lambda spec: spec[0],
)
METADATA = st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3)


def laid_out(specs, metadata, order: random.Random) -> tuple[dict[str, object], int]:
    """A valid header of *specs* one after another, written in any order; and its bytes of data."""
    entries: list[tuple[str, object]] = [] if metadata is None else [("__metadata__", metadata)]
    position = 0
    for name, dtype, shape in specs:
        size = DTYPE_BITS[dtype]
        for length in shape:
            size *= length
        offsets = [position, position + size // 8]
        entries.append((name, {"dtype": dtype, "shape": shape, "data_offsets": offsets}))
        position += size // 8
    order.shuffle(entries)
    return dict(entries), position


def to_file(header: object, data: bytes) -> bytes:
    return with_prefix(json.dumps(header).encode()) + data


@thorough
@given(SPECS, METADATA, st.randoms(use_true_random=False))
def test_valid_headers_are_read_as_safetensors_reads_them(specs, metadata, order):
    header, data_bytes = laid_out(specs, metadata, order)
    found = check_agreement(to_file(header, order.randbytes(data_bytes)))

    assert found is not None
    assert list(found.metadata.items()) == list((metadata or {}).items())
    assert {(i.name, i.dtype, i.shape) for i in found.tensors.values()} == {
        (name, dtype, tuple(shape)) for name, dtype, shape in specs
    }


@thorough
@given(
    SPECS.filter(bool),
    st.randoms(use_true_random=False),
    st.sampled_from(["begin", "end", "shape", "dtype", "tail", "cut"]),
    st.integers(-9, 9),
)
def test_headers_with_one_wrong_number_are_refused_as_by_safetensors(specs, order, what, change):
    header, data_bytes = laid_out(specs, None, order)
    entry = header[order.choice(specs)[0]]
    match what:
        case "begin":
            entry["data_offsets"][0] += change
        case "end":
            entry["data_offsets"][1] += change
        case "shape":
            entry["shape"][order.randrange(len(entry["shape"]))] += change
        case "dtype":
            entry["dtype"] = order.choice(sorted(DTYPE_BITS))
        case "tail":
            data_bytes += abs(change)
        case "cut":
            data_bytes = max(0, data_bytes - abs(change))

    check_agreement(to_file(header, bytes(data_bytes)))


SEEDS = [
    safetensors.torch.save(
        {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.bool), "e": torch.ones(0)},
        metadata={"format": "pt"},
    ),
    to_file(*(lambda header, size: (header, bytes(size)))(
        *laid_out([(name, name, [2, 8]) for name in DTYPE_BITS], None, random.Random(1))
    )),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_mutated_headers_are_judged_as_by_safetensors(seed):
    """Each is made from one that was accepted before; scripts/fuzz_header.py does many more."""
    rng = random.Random(seed)
    pool = list(SEEDS)
    for _ in range(1000):
        raw = mutate_file(rng.choice(pool), rng)
        if check_agreement(raw) is not None:
            pool.append(raw)

    assert 100 < len(pool) < 900


FOUND = {
    # Accepted, with a string that no UTF-8 can hold.
    "half of a surrogate": b'd\0\0\0\0\0\0\0{\n\t"\\u005f\\u005f\\u006d\\u0065\\u0074\\u0061\\u0064'
    b'\\u0061\\u0074\\u0061\\u005f\\u005f"\n\t:{\n\t"k"\n\t:"\\ud800"}} ',
    # Accepted, as a size of 0; safetensors reads a float.
    "-0 is a whole number": b'9\0\0\0\0\0\0\0{"t52":{"dtype":"U16","shape":[-0],'
    b'"data_offsets":[0,0]}}',
    # Accepted, and torch raised "Stride calculation overflowed" when the file was mapped.
    "2**63 bits": b'Q\0\0\0\0\0\0\0{"t79":{"dtype":"U64","shape":[0,64,4611686018427387904,0],'
    b'"data_offsets":[0,0]}}',
}


@pytest.mark.parametrize("reason", FOUND)
def test_header_refuses_what_fuzzing_once_found_accepted(reason):
    raw = FOUND[reason]
    refusal = read(raw, len(raw))

    assert isinstance(refusal, LoaderError)
    assert reason in str(refusal)


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]} | changes


def nested(depth: int) -> list[object]:
    return [nested(depth - 1)] if depth else []


ON_PURPOSE = {
    "white space before the header": b' {"w":' + json.dumps(entry()).encode() + b"}",
    "a name twice": b'{"w":%b,"w":%b}' % ((json.dumps(entry()).encode(),) * 2),
    "a name twice, once escaped": rb'{"w":%b,"\u0077":%b}' % ((json.dumps(entry()).encode(),) * 2),
    "a key of the metadata twice": b'{"__metadata__":{"k":"1","k":"2"},"w":%b}'
    % json.dumps(entry()).encode(),
    "no metadata": {"__metadata__": None, "w": entry()},
    "a fourth field": {"w": entry(more=1)},
    "a fourth field, deep": {"w": entry(more=nested(100))},
    "an entry as a list": {"w": ["U8", [1], [0, 1]]},
    "a dtype as an object": {"w": entry(dtype={"U8": None})},
    "a long name": {"n" * 4097: entry()},
    "65 dimensions": {"w": entry(shape=[1] * 65)},
    "2**63 elements, times 0": {"e": entry(shape=[2**63, 0], data_offsets=[0, 0]), "w": entry()},
    "2**66 elements, times 0": {
        "e": entry(shape=[0, 2**33, 2**33], data_offsets=[0, 0]),
        "w": entry(),
    },
}


@pytest.mark.parametrize("what", ON_PURPOSE)
def test_headers_that_only_safetensors_takes_are_refused_on_purpose(what):
    header = ON_PURPOSE[what]
    raw = (with_prefix(header) if isinstance(header, bytes) else to_file(header, b"")) + b"a"
    refusal = read(raw, len(raw))

    assert isinstance(refusal, LoaderError)
    assert STRICTER.search(str(refusal))
    assert "w" in dict(safetensors.deserialize(raw)) or what == "a long name"


@relaxed
@given(SPECS, METADATA, st.randoms(use_true_random=False))
def test_header_is_the_same_when_it_is_written_again(specs, metadata, order):
    header, data_bytes = laid_out(specs, metadata, order)
    raw = to_file(header, bytes(data_bytes))
    found = read(raw, len(raw))
    assert isinstance(found, Header)
    again = encode(found)

    assert encode(read(again, len(again) + data_bytes)) == again


@pytest.mark.parametrize(
    "kind", ["length 0", "length 2**63", "length 2**64 - 1", "seven bytes", "empty", "no data"]
)
def test_files_that_are_hardly_files_are_refused_as_by_safetensors(kind):
    raw = {
        "length 0": struct.pack("<Q", 0) + b"{}",
        "length 2**63": struct.pack("<Q", 2**63) + b"{}",
        "length 2**64 - 1": struct.pack("<Q", 2**64 - 1) + b"{}",
        "seven bytes": bytes(7),
        "empty": b"",
        "no data": to_file({"w": entry()}, b""),
    }[kind]

    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(raw)
    assert check_agreement(raw) is None
