"""How large a run of `pilotlight bench wake` is."""

from __future__ import annotations

from dataclasses import dataclass

# Another seed is used in the tests; nothing is tuned on either.
SEED = 301


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes and times of both parts; rates are per second, times seconds."""

    models: int = 200
    contents: int = 20  # different checkpoints; each is deployed under several names
    room: int = 20  # models that the workers can hold at once, together
    rounds: int = 3  # of starts, each after the whole platform was left alone
    round_starts: int = 34
    quiet_s: float = 60.0
    spacing_min_s: float = 0.2  # between two starts of a round, at random
    spacing_max_s: float = 0.5
    seconds: float = 600.0  # of traffic
    per_s: float = 12.0
    zipf: float = 1.0
    seed: int = SEED
