"""JSON from files that nobody vouched for: one object, no duplicate keys, no deep nesting."""

from __future__ import annotations

import json


class StrictJsonError(ValueError):
    """Not one JSON object, or one that two readers could understand differently."""


def parse_object(raw: bytes) -> dict[str, object]:
    """Parse one UTF-8 JSON object. Raises StrictJsonError with a reason and nothing else."""
    if raw[:1] != b"{":
        raise StrictJsonError("it does not begin with '{'")
    try:
        parsed = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError("it is nested too deeply") from None
    except ValueError as error:
        raise StrictJsonError(f"it is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise StrictJsonError("it is not an object")
    return parsed


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
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
