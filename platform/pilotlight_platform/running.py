"""The workers that Serve runs now, as this process hears of them from its router."""

from __future__ import annotations

from pilotlight_platform.latest import Latest

# By id; None before anything was heard. A worker that Serve is stopping is not among them any more.
running_workers: Latest[frozenset[str] | None] = Latest(None)


def note_running(workers: frozenset[str]) -> None:
    """Called by the router.

    Serve pickles the router's module by value: a global of that module, or an object that it
    imports, is a copy in the router that runs. A function of another module is this one.
    """
    running_workers.set(workers)
