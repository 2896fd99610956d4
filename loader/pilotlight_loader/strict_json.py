"""JSON from files that nobody vouched for: one object, and only what all readers understand alike.

Refused although it is JSON: duplicate keys, half a surrogate pair, -0 (an int to some, a float to
others), numbers without end or beyond any float, and deep nesting.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable

MAX_DEPTH = 16  # a header has 3 levels, an index 2
MAX_CONTAINERS = 4_000_000  # lists and objects: a header of a million tensors has 3,000,002
MAX_PAIRS = 5_000_000  # of key and value: such a header has 4,000,001
MAX_DIGITS = 4300  # Python's own default: to read a number takes time quadratic in its digits
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}":'))
_STRING = re.compile(rb'"[^"]*"?')
# Each escape of valid JSON in turn; the group is a surrogate that is no half of a pair.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F])|.)", re.DOTALL)

Pairs = list[tuple[str, object]]


class StrictJsonError(ValueError):
    """Not one JSON object, or one that two readers could understand differently."""


def parse_object(
    raw: bytes, convert: Callable[[dict[str, object]], object] | None = None
) -> dict[str, object]:
    """Parse one UTF-8 JSON object. Raises StrictJsonError with a reason and nothing else.

    *convert* may replace each object when it has been read, inner ones first, so that a large
    document never stands in memory as it was written. It must not raise.
    """
    if raw[:1] != b"{":
        raise StrictJsonError("it does not begin with '{'")
    _check_structure(raw)
    try:
        parsed = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique if convert is None else lambda p: convert(_unique(p)),
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole if _needs_whole(raw) else None,
        )
    except StrictJsonError:
        raise
    except RecursionError:  # the caller's own stack was nearly full
        raise StrictJsonError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"it is not UTF-8: {error.reason} at {error.start}") from error
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"it is not JSON: {error}") from error
    except ValueError:  # from int(): Python's limit of digits
        raise StrictJsonError(f"a number has more than {MAX_DIGITS} digits") from None
    if b"\\u" in raw and any(escape[1] for escape in _ESCAPE.finditer(raw)):
        raise StrictJsonError("a string has half of a surrogate pair")
    if not isinstance(parsed, dict):  # *convert* took the outermost object
        raise StrictJsonError("it is itself what it should hold")
    return parsed


def _check_structure(raw: bytes) -> None:
    """Refuse deep nesting, and more than is ever needed, before json makes objects of it.

    Depth: Python's own limit is the process's, and where that was raised to 100,000, as deep
    models make people do, Python 3.11 ends with a segmentation fault instead of an error.
    Number: one byte of nested lists takes 43 bytes of memory, and a quarter of a microsecond.
    All this takes 12 ms for the 12 MB of 100,000 tensors.
    """
    if b"\\" in raw:  # without escapes every quote begins or ends a string
        raw = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    structure = raw.translate(None, _NOT_STRUCTURE).replace(b'""', b"")
    structure = _STRING.sub(b"", structure)
    brackets = structure.translate(None, b":")
    if len(brackets) > 2 * MAX_CONTAINERS or len(structure) - len(brackets) > MAX_PAIRS:
        raise StrictJsonError(f"over {MAX_CONTAINERS} objects and lists, or {MAX_PAIRS} pairs")
    for _ in range(MAX_DEPTH):  # each time the innermost level goes, or two
        left = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(left) == len(brackets):
            break
        brackets = left
    # What is left of broken JSON may be too short to be deep: json knows better what is wrong.
    if len(brackets) > MAX_DEPTH:
        raise StrictJsonError("it is nested too deeply, or its brackets do not match")


def _unique(pairs: Pairs) -> dict[str, object]:
    built = dict(pairs)
    if len(built) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise StrictJsonError(f"the key {key[:200]!r} stands in it twice")
            seen.add(key)
    return built


def _no_constant(name: str) -> object:
    raise StrictJsonError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise StrictJsonError("a number is too large for a float")
    return value


def _needs_whole(raw: bytes) -> bool:
    """Whether Python's own int() would let something pass; it is faster than a function here."""
    return b"-0" in raw or not 0 < sys.get_int_max_str_digits() <= MAX_DIGITS


def _whole(digits: str) -> int:
    if digits == "-0":
        raise StrictJsonError("-0 is a whole number to some readers only")
    if len(digits) > MAX_DIGITS:
        raise StrictJsonError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)
