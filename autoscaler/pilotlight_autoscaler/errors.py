"""Why a policy refuses what it is given. All are ``ValueError``: the caller's values are wrong."""

from __future__ import annotations


class AutoscalerError(ValueError):
    """Root of what this package raises beside pydantic's own."""


class InputError(AutoscalerError):
    """A value that means nothing: not a number, negative, or of something unknown."""


class ClockError(InputError):
    """Time stepped back; decisions would be drawn from ages that are not."""


class StateError(AutoscalerError):
    """Saved state that is damaged or of another version."""
