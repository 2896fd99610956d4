"""What can go wrong in a simulation.

SimulationError
├── TraceError          a trace that cannot be read: which line, and why
├── SettingError        a policy, parameter or value that does not exist
└── InvariantError      the simulated platform did what a real one must never do
"""

from __future__ import annotations

from pilotlight_autoscaler.errors import AutoscalerError


class SimulationError(AutoscalerError):
    """Root of the tree; the message says what to change."""


class TraceError(SimulationError):
    """A trace that cannot be read; *line* counts from 1, and is None for the trace as a whole."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


class SettingError(SimulationError):
    """A policy or parameter that does not exist; the message lists those that do."""


class InvariantError(SimulationError):
    """A request lost, a worker overfull or a busy replica stopped: a bug in engine or policy."""
