"""Which layers a compressed-tensors config means: by name, by pattern (``re:``) or by class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_PATTERN = "re:"
_MAX_PATTERN_CHARS = 512
# Python's re has no time limit. Without repeated groups a pattern takes time polynomial in the
# length of a name, its degree the number of repetitions: published ones have one or two.
_MAX_REPETITIONS = 4
_MAX_NAME_CHARS = 512
_REPEATED_GROUP = re.compile(r"(?<!\\)(?:\\\\)*\)[*+{]")
_REPETITION = re.compile(r"[*+]|\{\d*,")
_LINEAR, _EMBEDDING = "Linear", "Embedding"  # the classes that are ever quantized


class PatternError(ValueError):
    """A pattern that is not tried, and why."""


def matcher(targets: Iterable[str]) -> Callable[[str], int | None]:
    """How closely one of *targets* names a layer: 0 by name, 1 by pattern, 2 by class; or None.

    Classes are told by the layer's name: an embedding has ``embed`` in it. Raises PatternError.
    """
    targets = tuple(targets)
    names = {target for target in targets if not target.startswith(_PATTERN)}
    patterns = [_compile(t.removeprefix(_PATTERN)) for t in targets if t.startswith(_PATTERN)]

    def match(layer: str) -> int | None:
        if layer in names:
            return 0
        if len(layer) <= _MAX_NAME_CHARS and any(pattern.match(layer) for pattern in patterns):
            return 1
        kind = _EMBEDDING if "embed" in layer.rpartition(".")[2] else _LINEAR
        return 2 if kind in names else None

    return match


def _compile(pattern: str) -> re.Pattern[str]:
    if len(pattern) > _MAX_PATTERN_CHARS:
        raise PatternError(f"{pattern[:64]!r}… has more than {_MAX_PATTERN_CHARS} characters")
    if _REPEATED_GROUP.search(pattern) or len(_REPETITION.findall(pattern)) > _MAX_REPETITIONS:
        raise PatternError(
            f"{pattern!r} repeats a group, or more than {_MAX_REPETITIONS} times: "
            "it might never end"
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"{pattern!r} is no pattern: {error}") from error
