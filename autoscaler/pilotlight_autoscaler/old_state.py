"""What earlier versions have saved, as this one reads it; damage stays in, to be refused."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_autoscaler.gaps import BINS

_MOST_DIGITS = 4  # of a bin's number
_MOST = 1e15  # of a bin's gaps
_BINS_1 = 72  # of version 1; its edges are every second one of today's


def upgraded(values: object) -> object:
    """*values* of version 1, or of an early version 2, as version 2 has them; others as they are.

    Version 1 had bins of idle gaps twice as wide: each count is shared out evenly. For some days
    both kept the mean seconds of a first token's spans in place of the newest ones: it becomes the
    only one of them.
    """
    if not isinstance(values, Mapping) or values.get("version", 2) not in (1, 2):
        return values
    models = values.get("models")
    if not isinstance(models, Mapping):
        return values
    wide = values.get("version") == 1
    models = {name: _model(model, wide_bins=wide) for name, model in models.items()}
    return {**values, "models": models, "version": 2}


def _model(model: object, *, wide_bins: bool) -> object:
    if not isinstance(model, Mapping):
        return model
    found = dict(model)
    gaps, tokens = model.get("gaps"), model.get("first_tokens")
    counts = gaps.get("counts") if isinstance(gaps, Mapping) else None
    if wide_bins and isinstance(gaps, Mapping) and isinstance(counts, Mapping):
        found["gaps"] = {**gaps, "counts": _counts(counts)}
    tiers = tokens.get("tiers") if isinstance(tokens, Mapping) else None
    if isinstance(tokens, Mapping) and isinstance(tiers, Mapping):
        new = {tier: _first_tokens(each) for tier, each in tiers.items()}
        found["first_tokens"] = {**tokens, "tiers": new}
    return found


def _first_tokens(tier: object) -> object:
    """How many, the newest, and each span's."""
    if not isinstance(tier, list | tuple) or len(tier) != 3 or not isinstance(tier[2], Mapping):
        return tier
    spans = {
        name: [each] if isinstance(each, int | float) else each for name, each in tier[2].items()
    }
    return [*tier[:2], spans]


def _counts(counts: Mapping[object, object]) -> dict[object, object]:
    found: dict[object, object] = {}
    for key, count in counts.items():
        digits = isinstance(key, str) and key.isdecimal() and len(key) <= _MOST_DIGITS
        number = int(str(key)) if digits else key
        if not isinstance(number, int) or not isinstance(count, int | float) or abs(count) > _MOST:
            found[key] = count
        elif 1 <= number < _BINS_1:
            found[2 * number - 1] = found[2 * number] = count / 2
        elif number > _BINS_1:
            found[BINS + 1] = count  # there was no such bin
        else:
            found[BINS if number == _BINS_1 else 0] = count
    return found
