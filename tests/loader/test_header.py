from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_loader import (
    CheckpointError,
    Header,
    HeaderError,
    LoaderError,
    UnsupportedDtypeError,
    parse_header,
    read_header,
)

relaxed = settings(deadline=None)  # the machine may be busy
WHERE = Path("model.safetensors")
DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
    max_size=5,
)


def raw_file(header: bytes | dict, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def parse(raw: bytes) -> Header:
    return parse_header(raw, len(raw), WHERE)


def entry(shape: object, offsets: object, dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@relaxed
@given(TENSORS)
def test_header_reads_what_safetensors_writes(specs):
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in specs.items()}
    header = parse(safetensors.torch.save(tensors))

    assert header.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert header.tensors[name].shape == tuple(tensor.shape)
        assert header.tensors[name].nbytes == tensor.nbytes


def test_header_offsets_are_those_of_the_file():
    tensor = torch.arange(6, dtype=torch.int32)
    raw = safetensors.torch.save({"a": torch.zeros(3), "b": tensor})
    info = parse(raw).tensors["b"]

    assert raw[info.start : info.end] == struct.pack("<6i", *range(6))


def test_header_keeps_metadata():
    raw = safetensors.torch.save({"a": torch.zeros(1)}, metadata={"format": "pt"})

    assert parse(raw).metadata == {"format": "pt"}


def test_header_lists_tensors_in_file_order():
    raw = raw_file({"late": entry([1], [1, 2]), "early": entry([1], [0, 1])}, b"ab")

    assert list(parse(raw).tensors) == ["early", "late"]


def test_header_without_tensors_is_valid():
    assert parse(raw_file({})).tensors == {}


def test_header_with_metadata_alone_is_valid():
    assert parse(raw_file({"__metadata__": {"k": "v"}})).metadata == {"k": "v"}


def test_header_of_no_bytes_is_refused():
    with pytest.raises(HeaderError, match="does not begin with"):
        parse(raw_file(b"", b"{}"))


def test_header_takes_any_name_that_is_unicode():
    names = ["", "a\0b", "\n", "é", "😀", ".", "../x", "n" * 4096]
    raw = raw_file({name: entry([1], [at, at + 1]) for at, name in enumerate(names)}, bytes(8))

    assert list(parse(raw).tensors) == names


def test_header_takes_a_surrogate_pair_for_one_character():
    raw = raw_file(b'{"\\ud83d\\ude00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"a")

    assert list(parse(raw).tensors) == ["😀"]


def test_header_takes_an_escaped_backslash_before_what_looks_like_a_surrogate():
    raw = raw_file(rb'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"a")

    assert list(parse(raw).tensors) == ["\\ud800"]


def test_header_takes_keys_of_an_entry_in_any_order():
    raw = raw_file({"w": {"data_offsets": [0, 1], "shape": [], "dtype": "U8"}}, b"a")

    assert parse(raw).tensors["w"].shape == ()


def test_header_takes_tensors_named_like_the_keys_of_an_entry():
    names = ["dtype", "shape", "data_offsets"]
    raw = raw_file({name: entry([1], [at, at + 1]) for at, name in enumerate(names)}, b"abc")

    assert list(parse(raw).tensors) == names


def test_header_takes_metadata_with_the_keys_of_an_entry():
    metadata = {"dtype": "a", "shape": "b", "data_offsets": "c"}

    assert parse(raw_file({"__metadata__": metadata})).metadata == metadata


def test_header_refuses_an_entry_for_metadata():
    with pytest.raises(HeaderError, match="__metadata__ is not an object"):
        parse(raw_file({"__metadata__": entry([1], [0, 1])}, b"a"))


@pytest.mark.parametrize("spaces", range(9))
def test_header_lets_data_begin_at_any_byte(spaces):
    text = json.dumps({"w": entry([2], [0, 2])}).encode() + b" " * spaces
    info = parse(raw_file(text, b"xy")).tensors["w"]

    assert raw_file(text, b"xy")[info.start : info.end] == b"xy"


def test_header_of_safetensors_aligns_data_to_eight_bytes_only():
    starts = {parse(safetensors.torch.save({"n" * n: torch.ones(1)})).data_start for n in range(65)}

    assert all(start % 8 == 0 for start in starts)
    assert any(start % 16 for start in starts)


def test_header_takes_trailing_spaces():
    assert parse(raw_file(b"{}   ")).data_start == 13


def test_header_takes_tensors_without_elements():
    raw = raw_file({"b": entry([2], [0, 2]), "a": entry([0, 3], [0, 0])}, b"xy")

    assert parse(raw).tensors["a"].nbytes == 0


def test_header_takes_many_empty_tensors_at_one_offset():
    where = {"z": 2, "y": 0, "x": 2, "w": 3, "v": 3}
    header = {name: entry([0], [at, at]) for name, at in where.items()}
    raw = raw_file(header | {"b": entry([1], [2, 3]), "a": entry([2], [0, 2])}, b"abc")

    assert list(parse(raw).tensors) == ["y", "a", "z", "x", "b", "w", "v"]


@pytest.mark.parametrize("at", [1, 4])
def test_header_refuses_an_empty_tensor_inside_another_or_outside(at):
    raw = raw_file({"a": entry([3], [0, 3]), "z": entry([0], [at, at])}, b"abc")

    with pytest.raises(HeaderError, match="'z'"):
        parse(raw)


VALID = safetensors.torch.save(
    {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.bool)}, metadata={"format": "pt"}
)


@relaxed
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6))
def test_header_with_mutated_bytes_raises_nothing_but_loader_errors(changes):
    raw = bytearray(VALID)
    for at, value in changes:
        raw[at] = value

    with contextlib.suppress(LoaderError):
        parse(bytes(raw))


@relaxed
@given(st.binary(max_size=200))
def test_header_of_any_bytes_raises_nothing_but_loader_errors(text):
    with contextlib.suppress(LoaderError):
        parse(raw_file(b"{" + text))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@relaxed
@given(
    st.dictionaries(
        st.text(max_size=5) | st.just("__metadata__"),
        JSON | st.fixed_dictionaries({"dtype": JSON, "shape": JSON, "data_offsets": JSON}),
        max_size=3,
    )
)
def test_header_of_any_json_raises_nothing_but_loader_errors(header):
    with contextlib.suppress(LoaderError):
        parse(raw_file(header))


@relaxed
@given(st.integers(0, len(VALID) - 1))
def test_header_of_a_truncated_file_is_refused(length):
    with pytest.raises(HeaderError):
        parse(VALID[:length])


def test_header_truncation_names_both_sizes():
    header_says = len(VALID)

    with pytest.raises(
        HeaderError,
        match=rf"the file is {header_says - 1} bytes, the header says {header_says}: tr",
    ):
        parse(VALID[:-1])


def test_header_with_bytes_left_over_is_refused():
    with pytest.raises(HeaderError, match="left over"):
        parse(VALID + b"\0")


def test_header_bomb_is_refused_before_it_is_read():
    with pytest.raises(HeaderError, match="at most 100000000"):
        parse_header(struct.pack("<Q", 100_000_001), 2**40, WHERE)


def test_header_longer_than_the_file_is_refused():
    with pytest.raises(HeaderError, match="a header of 90000000 bytes in a file of 8"):
        parse(struct.pack("<Q", 90_000_000))


def test_header_that_was_not_read_whole_is_refused():
    with pytest.raises(HeaderError, match="were read"):
        parse_header(VALID[:20], len(VALID), WHERE)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "begin with '{'"),
        (b" {}", "begin with '{'"),
        (b"", "begin with '{'"),
        (b"{", "not JSON"),
        (b"{} {}", "not JSON"),
        (b'{"\xff": 1}', "not UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "more than 4300 digits"),
        (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b'{"a":' * 200_000, "nested too deeply"),
        (b'{"a": 1, "a": 1}', "'a' stands in it twice"),
        (b'{"a": 1, "\\u0061": 1}', "'a' stands in it twice"),
        (b'{"\\ud800": 1}', "half of a surrogate pair"),
        (b'{"a": -0}', "-0 is a whole number to some"),
        (b'{"a": Infinity}', "Infinity"),
        (b'{"a": 1e400}', "too large"),
        (b"{}\0", "not JSON"),
        (b'{"a\0b": 1}', "not JSON"),
        (b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}', "itself what it should hold"),
        (b'{"__metadata__": null}', "is not an object"),
        (b'{"__metadata__": {"k": "1", "k": "2"}}', "'k' stands in it twice"),
        (b'{"__metadata__": []}', "is not an object"),
        (b'{"__metadata__": {"k": 1}}', "is not a string"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_header_of_broken_json_is_refused(text, reason):
    with pytest.raises(HeaderError, match=reason):
        parse(raw_file(text))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (1, "expected an object"),
        ({"dtype": "U8", "shape": [1]}, "expected an object"),
        (entry([1], [0, 1]) | {"extra": 1}, "expected an object"),
        (entry([1], [0, 1], dtype=8), "dtype is not a string"),
        (entry([-1], [0, 1]), "its shape"),
        (entry([True], [0, 1]), "its shape"),
        (entry([1.0], [0, 1]), "its shape"),
        (entry("1", [0, 1]), "its shape"),
        (entry([1] * 65, [0, 1]), "its shape"),
        (entry([2**63], [0, 1]), "its shape"),
        (entry([1], [0]), "data_offsets"),
        (entry([1], [1, 0]), "data_offsets"),
        (entry([1], [-1, 0]), "data_offsets"),
        (entry([1], [False, True]), "data_offsets"),
        (entry([2], [0, 1]), r"U8\[2\] needs 2 bytes, it has 1"),
        (entry([2**33, 2**33], [0, 1]), "bits or more"),
        (entry([2**60], [0, 2**60]), "bits or more"),
        (entry([2**33, 2**33, 0], [0, 0]), "bits or more"),
        (entry([0, 2**33, 2**33], [0, 0]), "bits or more"),  # torch's strides overflow
        (entry([2**64, 0], [0, 0]), "bits or more"),
        (entry([-1, -1], [0, 1]), "its shape"),
        (entry([1e3], [0, 1000]), "its shape"),
        (entry([None], [0, 1]), "its shape"),
        (entry([[1]], [0, 1]), "its shape"),
        (entry([1], [0, 1, 1]), "data_offsets"),
        (entry([1], [0, 2**63]), "data_offsets"),
        (entry([1], {"0": 0, "1": 1}), "data_offsets"),
        (entry([1], [0, 1], dtype={"U8": None}), "dtype is not a string"),
        (["U8", [1], [0, 1]], "expected an object"),
        (entry([3], [0, 1], dtype="F4"), "12 bits, which are no whole bytes"),
        (entry([], [0, 1], dtype="F4"), "4 bits, which are no whole bytes"),
        (entry([2], [0, 1], dtype="F6_E2M3"), "12 bits, which are no whole bytes"),
        (entry([4], [0, 2], dtype="F6_E3M2"), "needs 3 bytes, it has 2"),
        (entry([1], [1, 2]), "does not begin at 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_header_with_a_broken_entry_names_the_tensor(broken, reason):
    with pytest.raises(HeaderError, match=f"'w'.*{reason}"):
        parse(raw_file({"w": broken}, b"ab"))


def test_header_with_an_overlap_names_both_tensors():
    raw = raw_file({"a": entry([2], [0, 2]), "b": entry([2], [1, 3])}, b"abc")

    with pytest.raises(HeaderError, match="'b' overlaps 'a'"):
        parse(raw)


def test_header_with_a_hole_names_both_tensors():
    raw = raw_file({"a": entry([1], [0, 1]), "b": entry([1], [2, 3])}, b"abc")

    with pytest.raises(HeaderError, match="hole between 'a' and 'b'"):
        parse(raw)


def test_header_with_an_endless_name_is_refused():
    with pytest.raises(HeaderError, match="5000 characters"):
        parse(raw_file({"n" * 5000: entry([0], [0, 0])}))


@pytest.mark.parametrize(
    ("dtype", "nbytes"), [("F4", 2), ("F6_E2M3", 3), ("F6_E3M2", 3)], ids=lambda value: str(value)
)
def test_header_counts_sub_byte_dtypes_in_bits(dtype, nbytes):
    raw = raw_file({"w": entry([2, 2], [0, nbytes], dtype)}, bytes(nbytes))

    assert parse(raw).tensors["w"].nbytes == nbytes


def test_header_refuses_an_unknown_dtype():
    with pytest.raises(UnsupportedDtypeError, match="'w' has the unknown dtype 'F7'"):
        parse(raw_file({"w": entry([1], [0, 1], "F7")}, b"a"))


def test_read_header_agrees_with_parse_header(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(VALID)

    assert read_header(path) == parse(VALID)


def test_read_header_of_no_file_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_header(tmp_path / "absent.safetensors")


def test_read_header_of_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.safetensors"
    path.touch()

    with pytest.raises(HeaderError, match="too short"):
        read_header(path)
