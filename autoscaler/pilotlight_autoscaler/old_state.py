"""What earlier versions have saved, as this one reads it; damage stays in, to be refused."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_autoscaler.gaps import BINS

_BINS_1 = 72  # of version 1; its edges are every second one of today's


def upgraded(values: object) -> object:
    """*values* of version 1 as version 2 has them; any other ones as they are.

    Version 1 had bins of idle gaps twice as wide: each count is shared out evenly.
    """
    if not isinstance(values, Mapping) or values.get("version") != 1:
        return values
    models = values.get("models")
    if isinstance(models, Mapping):
        models = {name: _model(model) for name, model in models.items()}
        values = {**values, "models": models}
    return {**values, "version": 2}


def _model(model: object) -> object:
    gaps = model.get("gaps") if isinstance(model, Mapping) else None
    counts = gaps.get("counts") if isinstance(gaps, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(gaps, Mapping):
        return model
    if not isinstance(counts, Mapping):
        return model
    return {**model, "gaps": {**gaps, "counts": _counts(counts)}}


def _counts(counts: Mapping[object, object]) -> dict[object, object]:
    found: dict[object, object] = {}
    for key, count in counts.items():
        number = int(key) if isinstance(key, str) and key.isdigit() else key
        if not isinstance(number, int) or not isinstance(count, int | float):
            found[key] = count
        elif 1 <= number < _BINS_1:
            found[2 * number - 1] = found[2 * number] = count / 2
        elif number > _BINS_1:
            found[BINS + 1] = count  # there was no such bin
        else:
            found[BINS if number == _BINS_1 else 0] = count
    return found
