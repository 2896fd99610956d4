"""Lines and server-sent events out of a byte stream. Pure: no HTTP.

httpx's ``iter_lines`` also splits at U+2028, U+0085 and the like, which are legal inside JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

_MAX_LINE_BYTES = 16 << 20


class BrokenStreamError(Exception):
    """The stream ended early, or is no event stream."""


def iter_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends. Raises BrokenStreamError for a line above 16 MiB."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in lines)
        if len(rest) > _MAX_LINE_BYTES:
            raise BrokenStreamError(f"a line is longer than {_MAX_LINE_BYTES >> 20} MiB")
    if rest:
        yield rest


def iter_sse_objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON object of each ``data:`` line, up to ``[DONE]``.

    Raises BrokenStreamError if the stream ends before it; an error event may be the last.
    """
    for line in lines:
        if not line.startswith(b"data:"):
            continue  # blank lines, comments, other fields
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            return
        yield json_object(data)
    raise BrokenStreamError("the answer broke off")


def json_object(line: bytes) -> dict[str, Any]:
    """Raises BrokenStreamError unless *line* is a JSON object."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BrokenStreamError("an event is not JSON") from error
    if not isinstance(value, dict):
        raise BrokenStreamError("an event is not a JSON object")
    return value
