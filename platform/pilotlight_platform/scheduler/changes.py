"""What has changed in the scheduler's picture, and was not passed on yet."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Changes:
    """Names of what is new, other than it was, or gone."""

    workers: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    deployed: set[str] = field(default_factory=set)  # of those, the ones with a new revision
    nodes: set[str] = field(default_factory=set)
    standings: set[str] = field(default_factory=set)  # models whose callers have to look again
