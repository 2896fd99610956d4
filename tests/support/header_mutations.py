"""Headers, and ways to spoil them that keep them JSON: random bytes rarely get past the prefix."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from math import prod

from pilotlight_loader.dtypes import DTYPE_BITS

MAX_DATA_BYTES = 2048  # of the tensors of one input
_DTYPES = (*DTYPE_BITS, "F7", "f32", "", "PackedU4")
_LITERALS = (
    "-0", "0", "1", "-1", "1.0", "1e3", "1e400", "007", "NaN", "-Infinity", "true", "null",
    "9223372036854775807", "9223372036854775808", "18446744073709551616", "9" * 4301,
    "4294967296", "[]", "{}", "[[]]", "[" * 40 + "]" * 40, '"\\ud800"', '"\\ud83d\\ude00"', '"]{"',
    '"\\\\"', '"\\""', '"\\u0000"', '"' + "n" * 5000 + '"', '{"F32":null}', "", "/**/",
)  # fmt: skip
_KEYS = (
    "__metadata__",
    "dtype",
    "shape",
    "data_offsets",
    "",
    "\0",
    "a",
    "é",
    "😀",
    "pad.",
    "n" * 4097,
)


class Raw(str):
    """JSON as it is to be written, right or wrong."""

    __slots__ = ()


class Pairs(list[tuple[object, object]]):
    """An object with all its pairs, equal keys too."""


Node = Pairs | list[object] | Raw


def parse(text: bytes) -> Node:
    """Any JSON, with scalars as they were written. Raises ValueError or RecursionError."""
    return json.loads(
        text,
        object_pairs_hook=Pairs,
        parse_int=Raw,
        parse_float=Raw,
        parse_constant=Raw,
    )


def dump(node: object, rng: random.Random) -> str:
    """JSON of *node*, in one of the many ways to write it."""
    space = rng.choice(("", "", "", " ", "\n\t"))
    if isinstance(node, Raw):
        return node
    if isinstance(node, Pairs):
        inner = ("," + space).join(
            f"{_key(key, rng)}{space}:{dump(value, rng)}" for key, value in node
        )
        return "{" + space + inner + "}"
    if isinstance(node, list):
        return "[" + ("," + space).join(dump(value, rng) for value in node) + space + "]"
    return json.dumps(node, ensure_ascii=rng.random() < 0.5)


def _key(key: object, rng: random.Random) -> str:
    if isinstance(key, str) and not isinstance(key, Raw) and key and rng.random() < 0.05:
        return '"' + "".join(f"\\u{ord(c):04x}" for c in key if ord(c) < 0x10000) + '"'
    return json.dumps(key, ensure_ascii=rng.random() < 0.5)


def mutate(node: Node, rng: random.Random) -> Node:
    """Change *node* in place in one to four spots."""
    for _ in range(rng.randint(1, 4)):
        spots = list(_containers(node))
        if not spots:
            return node
        spot = rng.choice(spots)
        rng.choice(_OBJECT_CHANGES if isinstance(spot, Pairs) else _LIST_CHANGES)(spot, rng)
    return node


def repair(node: Node) -> int:
    """Give all tensors of *node* offsets one after another; bytes of data, 0 if there are none."""
    position = 0
    for key, entry in node if isinstance(node, Pairs) else ():
        if not isinstance(entry, Pairs) or key == "__metadata__":
            continue
        fields = dict(entry)
        size = _size(fields.get("dtype"), fields.get("shape"))
        if size is None:
            continue
        offsets = [Raw(position), Raw(position + size)]
        entry[:] = [(k, offsets if k == "data_offsets" else value) for k, value in entry]
        position += size
    return position


def _size(dtype: object, shape: object) -> int | None:
    if not isinstance(shape, list) or not isinstance(dtype, str):
        return None
    if not all(isinstance(size, Raw) and size.isdecimal() and len(size) < 20 for size in shape):
        return None
    return prod(map(int, shape)) * DTYPE_BITS.get(dtype, 8) // 8


def _containers(node: object) -> list[Pairs | list[object]]:
    found: list[Pairs | list[object]] = []
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, Pairs):
            found.append(current)
            waiting += [value for _, value in current]
        elif isinstance(current, list):
            found.append(current)
            waiting += current
    return found


def _literal(rng: random.Random) -> object:
    if rng.random() < 0.3:
        return rng.choice(_DTYPES)
    if rng.random() < 0.5:
        return Raw(rng.choice(_LITERALS))
    return Raw(rng.choice((rng.randint(0, 9), 1 << rng.randint(0, 64))))


def _replace_value(spot: Pairs, rng: random.Random) -> None:
    if spot:
        at = rng.randrange(len(spot))
        spot[at] = (spot[at][0], _literal(rng))


def _replace_dtype(spot: Pairs, rng: random.Random) -> None:
    spot[:] = [(k, rng.choice(_DTYPES) if k == "dtype" else value) for k, value in spot]


def _rename(spot: Pairs, rng: random.Random) -> None:
    if spot:
        at = rng.randrange(len(spot))
        spot[at] = (rng.choice(_KEYS), spot[at][1])


def _repeat(spot: Pairs, rng: random.Random) -> None:
    if spot:
        spot.insert(rng.randrange(len(spot) + 1), rng.choice(spot))


def _add_tensor(spot: Pairs, rng: random.Random) -> None:
    shape: list[object] = [Raw(rng.randint(0, 4)) for _ in range(rng.randint(0, 3))]
    offsets: list[object] = [Raw("0"), Raw("0")]
    entry = Pairs([("dtype", rng.choice(_DTYPES)), ("shape", shape), ("data_offsets", offsets)])
    spot.insert(rng.randrange(len(spot) + 1), (f"t{rng.randint(0, 99)}", entry))


def _drop(spot: list[object], rng: random.Random) -> None:
    if spot:
        del spot[rng.randrange(len(spot))]


def _shuffle(spot: list[object], rng: random.Random) -> None:
    rng.shuffle(spot)


def _replace_item(spot: list[object], rng: random.Random) -> None:
    if spot:
        spot[rng.randrange(len(spot))] = _literal(rng)


def _add_item(spot: list[object], rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 65))):
        spot.insert(rng.randrange(len(spot) + 1), _literal(rng))


_OBJECT_CHANGES: tuple[Callable[[Pairs, random.Random], None], ...] = (
    _replace_value, _replace_dtype, _rename, _repeat, _add_tensor, _add_tensor, _drop, _shuffle,
)  # fmt: skip
_LIST_CHANGES: tuple[Callable[[list[object], random.Random], None], ...] = (
    _replace_item, _replace_item, _add_item, _drop, _shuffle,
)  # fmt: skip


def with_prefix(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def mutate_file(raw: bytes, rng: random.Random) -> bytes:
    """Another file like *raw*, its header changed but JSON, often with offsets that fit again."""
    (length,) = struct.unpack_from("<Q", raw.ljust(8, b"\0"))
    text, data = raw[8 : 8 + length], raw[8 + length :]
    node = mutate(parse(text), rng)
    if rng.random() < 0.7:
        wanted = min(repair(node), MAX_DATA_BYTES)
        data = (data + rng.randbytes(max(0, wanted - len(data))))[:wanted]
    padding = b" " * rng.choice((0, 0, 1, 8))
    text = dump(node, rng).encode("utf-8", "surrogatepass") + padding
    return with_prefix(b" " + text if rng.random() < 0.01 else text) + data
